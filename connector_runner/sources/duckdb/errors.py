"""Translates what DuckDB raises into our tree; the only place of the source that knows its errors."""

from __future__ import annotations

from shared.driving.duckdb import describe, holder_of, is_locked
from shared.errors import NotConnected, PenstockError, Permanent, SetupError, Transient, unknown

_CHANGED = ("CatalogException", "BinderException")


def translate(error: BaseException, what: str) -> PenstockError:
    """Returns our error for one of DuckDB's; `what`: failed, for the message."""
    if isinstance(error, PenstockError):
        return error
    name, words = type(error).__name__, describe(error)
    if is_locked(error):
        return Transient(
            f"{what}: the file is being written by another program{holder_of(error)}, such as a loader, and DuckDB lets nobody read it "
            "meanwhile; read its `read_copy`, or run this when it is closed"
        )
    if isinstance(error, PermissionError) or "Permission denied" in words:
        return SetupError(f"{what}: {words}; let this user read the file")
    if "not a valid DuckDB database" in words or "created with" in words:
        return SetupError(f"{what}: {words}; check `path`, or read it with the DuckDB version that wrote it")
    if name == "OutOfMemoryException" or "max_temp_directory_size" in words:
        return SetupError(f"{what}: {words}; raise `memory_limit`, or free space on the disk")
    if name == "IOException" or isinstance(error, OSError):
        return SetupError(f"{what}: {words}; check `path`")
    if name in _CHANGED:
        return SetupError(f"{what}: {words}; mend the view, or exclude it")
    if name in ("InterruptException", "FatalException", "InternalException", "ConnectionException"):
        return NotConnected(f"{what}: {words}")
    if name in ("ConversionException", "OutOfRangeException", "InvalidInputException", "NotImplementedException"):
        return Permanent(f"{what}: {words}")
    return unknown(error, f"{what}: {name}: {words}")
