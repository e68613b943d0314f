"""The one tree of exceptions. An exception means that a whole call failed; one bad event is an `Outcome` instead.

    PenstockError
    ├── Transient          try again, with back-off; nothing is lost meanwhile
    │   ├── NotConnected   the connection is gone: open a new one, then try again
    │   │   └── WentBack   an older copy of the destination was put back
    │   ├── TableChanged   a live table is not what the rows were shaped for: describe it again, then shape again
    │   ├── UnknownDriverError   a driver raised what its plug-in does not know; counted
    │   ├── TableBusy      another session holds one table for longer than we wait: go on with the others
    │   ├── Denied         the broker denies its user an action: another service may do it, or a person allows it
    │   └── QueueFull      a stream or a subject takes no more: wait, remember where it stopped
    ├── SetupError         a person must act (password, permission, missing database): alert, slow retry
    │   └── TableSetupError   the same for one table (its owner, a damaged index): go on with the others
    ├── Permanent          this call can never succeed as it is
    │   ├── Conflict       another writer changed it first (compare-and-set): read again, decide again
    │   ├── RunOver        a part of a full refresh came after its end: begin a new run
    │   └── RowsRejected   the destination refused some rows of a table, by index where it names them
    ├── Defect             our own code failed on what it was given: find the events it fails on, go on without them
    ├── Fenced             a newer holder of the lease exists: stop at once, acknowledge nothing
    └── ConfigError        the project file or a setting is wrong; `problems` names each place

One function of each plug-in translates its driver's errors. An error that it does not know becomes `UnknownDriverError` if the
driver raised it, else `Defect` (see `unknown`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on a value that a machine wrote and that is damaged or of a later release. Bytes that are no UTF-8 are a class of their own."""


class PenstockError(Exception):
    """Base of the tree; its text says what failed, on what, and what to do."""


class Transient(PenstockError):
    """Trying the same call again may succeed."""


class NotConnected(Transient):
    """The connection the call used is gone."""


class WentBack(NotConnected):
    """The destination is not as this session left it: an older copy was put back. A new session finds the missing rows."""


class TableChanged(Transient):
    """Another user altered or dropped a table during the load; nothing was loaded. Describe and shape again before the next try."""


class UnknownDriverError(Transient):
    """A driver raised an error that its plug-in does not know; transient, so that no event is lost."""


class TableBusy(Transient):
    """Another session holds a lock on one table; the others may be free."""


class Denied(Transient):
    """The broker denies the user of this process an action. It says which, and never answers the request."""


class QueueFull(Transient):
    """The stream or subject refuses new messages because its limit is reached."""


class SetupError(PenstockError):
    """A person must change something outside Penstock before the call can succeed."""


class TableSetupError(SetupError):
    """A person must change one table or the rights of this user to it; the destination as a whole works."""


class Permanent(PenstockError):
    """The call can never succeed as it is."""


class Conflict(Permanent):
    """A compare-and-set found another revision than it expected."""


class RunOver(Permanent):
    """The run of a full refresh has ended, was given up, or a newer one took its place; none of its parts is loaded any more."""


class RowsRejected(Permanent):
    """A destination refused rows of one table and loaded none of it.

    `rows` maps the index of each refused row in the batch to the destination's words. If the destination does not name rows,
    `rows` is empty and the caller finds them by bisection. `needs_others`: a foreign key refused them, so they may be good
    together with rows of other tables.
    """

    def __init__(self, table: str, message: str, rows: Mapping[int, str] | None = None, *, needs_others: bool = False) -> None:
        super().__init__(f'table "{table}": {message}')
        self.table = table
        self.message = message
        self.rows: Mapping[int, str] = rows or {}
        self.needs_others = needs_others


class Defect(PenstockError):
    """Our own code failed in the middle of a call; nothing was loaded. The events it fails on are dead letters."""


class Fenced(PenstockError):
    """A newer holder has the lease that this holder believed to have. `newest`: its epoch, if known."""

    def __init__(self, message: str, newest: int = 0) -> None:
        super().__init__(message)
        self.newest = newest


class Problem(NamedTuple):
    """One wrong place: `path` as `connections.shop-wh.batch.period`, `message` with what was expected."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(PenstockError):
    """The project file or a setting is wrong in one or more places."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


_PANIC = "PanicException"
_OF_CODE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


def is_panic(error: BaseException) -> bool:
    """Whether an extension written in Rust panicked; the class is made at run time and is no `Exception`."""
    return type(error).__name__ == _PANIC


def unknown(error: BaseException, words: str) -> PenstockError:
    """Returns our error for one that a plug-in does not know: `Defect` if our own code raised it, else `UnknownDriverError`."""
    return Defect(words) if isinstance(error, _OF_CODE) or is_panic(error) else UnknownDriverError(words)
