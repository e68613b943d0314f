"""Translates what DuckDB raises into our tree; the only place that knows its errors.

They are told apart by the name of their class, and one class, `IOException`, by its text: DuckDB has no codes.
"""

from __future__ import annotations

import re

from loader.sql.dialect import Trouble
from shared.errors import NotConnected, PenstockError, Permanent, RowsRejected, SetupError, TableChanged, Transient, unknown

_HOLDER = re.compile(r"Conflicting lock is held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")

_ROWS = frozenset({"ConversionException", "ConstraintException", "OutOfRangeException", "DataError", "TypeMismatchException"})
_FULL = ("No space left", "Disk quota exceeded", "File too large")
_GONE = re.compile(r"(Table|Column|Schema|Referenced column).*(does not exist|not found)|does not have a column", re.DOTALL)


_TROUBLES: dict[str, Trouble] = {
    "ConstraintException": "duplicate",
    "ParserException": "refused",
    "BinderException": "refused",
    "InvalidInputException": "refused",
    "DependencyException": "refused",
}


def trouble(error: BaseException) -> Trouble | None:
    """Returns what an error means for the kit. A constraint may be any; what is no key's is refused again by other ways."""
    name = type(error).__name__
    if name == "CatalogException":
        return "gone" if str(error).startswith("Catalog Error: Table with name") else "refused"
    return _TROUBLES.get(name)


def is_locked(error: BaseException) -> bool:
    """Whether another process has the file open."""
    return type(error).__name__ == "IOException" and "Could not set lock" in str(error)


def translate(error: BaseException, what: str, table: str | None = None) -> PenstockError:
    """Returns the error of our tree for one of DuckDB's.

    Args:
        error: what was raised.
        what: what failed, for the message.
        table: the table whose rows were on their way; data errors become `RowsRejected` of it.
    """
    if isinstance(error, PenstockError):
        return error
    name, words = type(error).__name__, describe(error)
    if is_locked(error):
        match = _HOLDER.search(str(error))
        holder = f" by {match['program']} (process {match['pid']})" if match else ""
        return Transient(f"{what}: the file is held{holder}; it goes on when that closes the file")
    if isinstance(error, PermissionError) or "Permission denied" in words:
        return SetupError(f"{what}: {words}; let this user write the file and its directory")
    if "not a valid DuckDB database" in words or "created with" in words:
        return SetupError(f"{what}: {words}; check `path`, or open it with the DuckDB version that wrote it")
    if any(full in words for full in _FULL):
        return SetupError(f"{what}: {words}; free space on its disk")
    if "max_temp_directory_size" in words:
        return SetupError(
            f"{what}: the memory and the scratch space are full; raise memory_limit or PENSTOCK_LOADER_SCRATCH_MAX_BYTES, or "
            f"lower batch.max_rows ({words})"
        )
    if name == "OutOfMemoryException":
        return SetupError(f"{what}: {words}; raise memory_limit, or lower batch.max_rows")
    if name in ("FatalException", "InternalException", "ConnectionException"):
        return NotConnected(f"{what}: {words}")
    if name == "IOException" or isinstance(error, OSError):
        return SetupError(f"{what}: {words}; check `path`")
    if name in _ROWS:
        return Permanent(f"{what}: {words}") if table is None else RowsRejected(table, words)
    if name in ("CatalogException", "BinderException") and _GONE.search(words):
        return TableChanged(f"{what}: {words}")
    if name in ("CatalogException", "BinderException", "ParserException", "NotImplementedException", "DependencyException"):
        return Permanent(f"{what}: {words}")
    if name == "TransactionException" or name == "InterruptException":
        return Transient(f"{what}: {words}")
    return unknown(error, f"{what}: {name}: {words}")


def describe(error: BaseException) -> str:
    """Returns DuckDB's words without the echo of the statement."""
    return str(error).split("\n\nLINE ")[0].replace("\n", " ").strip() or type(error).__name__
