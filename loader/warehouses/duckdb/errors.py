"""Translates what DuckDB raises into our tree; the only place that knows its errors.

They are told apart by the name of their class, and one class, `IOException`, by its text: DuckDB has no codes.
"""

from __future__ import annotations

import re

from loader.sql.dialect import Trouble
from shared.driving.duckdb import describe, holder_of, is_locked
from shared.errors import NotConnected, PenstockError, Permanent, RowsRejected, SetupError, TableChanged, Transient, unknown

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
        return Transient(f"{what}: the file is held{holder_of(error)}; it goes on when that closes the file")
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
