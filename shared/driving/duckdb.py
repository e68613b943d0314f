"""What DuckDB's errors say: it has no codes, so they are told apart by the name of their class and by their text. Pure."""

from __future__ import annotations

import re

_HOLDER = re.compile(r"Conflicting lock is held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")


def is_locked(error: BaseException) -> bool:
    """Whether another process has the file open."""
    return type(error).__name__ == "IOException" and "Could not set lock" in str(error)


def holder_of(error: BaseException) -> str:
    """Returns who holds a file that is locked, as ` by PROGRAM (process NUMBER)`; empty if DuckDB does not know."""
    match = _HOLDER.search(str(error))
    return f" by {match['program']} (process {match['pid']})" if match else ""


def describe(error: BaseException) -> str:
    """Returns DuckDB's words without the echo of the statement."""
    return str(error).split("\n\nLINE ")[0].replace("\n", " ").strip() or type(error).__name__
