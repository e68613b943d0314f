"""Translates what ClickHouse and the way to it raise into our tree; the only place that knows their errors.

The server's errors are told apart by their code, which stands at the beginning of its words.
https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
"""

from __future__ import annotations

from shared.driving.clickhouse import ServerError, code_of, of_connection, words_of
from shared.errors import (
    NotConnected,
    PenstockError,
    Permanent,
    RowsRejected,
    SetupError,
    TableBusy,
    TableChanged,
    TableSetupError,
    Transient,
    unknown,
)

_LOGIN = frozenset({192, 193, 194, 516, 291})
_NO_DATABASE = 81
_DENIED = frozenset({497, 195, 164})
_REFUSED_SETTING = frozenset({115, 452})
_FULL = frozenset({243, 74, 75})
_GONE = frozenset({60, 16, 47, 8, 10, 218, 20})
"""Tables and columns that are not there (any more)."""
_BUSY = frozenset({252, 473, 242, 285, 319, 286, 517})
"""Too many parts, locked, read-only replica, too few replicas, unknown state: of one table, and it passes."""
_STORE, _REFUSED_ADDRESS, _NO_FILE, _OUTSIDE = 499, 491, 107, 291
"""What the server says of a staging store."""
_NOT_THERE, _NO_RIGHT = "response code: 404", "response code: 403"
_KILLED = 394
"""By a successor, mostly: the next call tells."""
_THROWN = 395
"""By `throwIf`."""
_PASSING = frozenset({159, 202, 209, 210, 225, 236, 241, 279, 425, 439, 999, 203, 32, 33, 3})
_ROWS = frozenset(
    {6, 7, 26, 27, 36, 38, 41, 53, 59, 69, 70, 72, 117, 131, 153, 190, 321, 349, 395, 407, 469, 475, 501, 675, 676, 691, 376, 377, 48, 128}
)  # fmt: skip
"""What a server says of a value that a column, a CHECK or an expression of the table does not take."""
_STATEMENT = frozenset(
    {15, 36, 42, 43, 44, 48, 50, 57, 62, 69, 70, 80, 82, 122, 181, 223, 253, 344, 371, 455, 524, 549, 636, 179}
)


def threw(error: BaseException | None, words: str) -> bool:
    """Says whether a `throwIf` of ours ended a statement with these words. Other errors may quote the statement, and so hold them too."""
    return code_of(error or "") == _THROWN and words in words_of(error or "").partition(": while executing")[0]


def translate(error: BaseException, what: str, table: str | None = None, *, data: bool = False) -> PenstockError:
    """Returns the error of our tree for one of ClickHouse's, of `aiochclient`'s or of the connection's.

    Args:
        error: what was raised.
        what: what failed, for the message.
        table: the table that was asked for, whose fault it can be.
        data: rows were on their way into it.
    """
    if isinstance(error, PenstockError):
        return error
    name = type(error).__name__
    if isinstance(error, ServerError) or name == "ChClientError":
        return _of_server(error, what, table, data=data)
    if (of_way := of_connection(error, what)) is not None:
        return of_way
    if name == "JSONDecodeError":
        return NotConnected(
            f"{what}: the answer is not a ClickHouse server's; check host and port of `url`, and what stands in between"
        )
    return unknown(error, f"{what}: {name}: {error}")


def _of_server(error: BaseException, what: str, table: str | None, *, data: bool) -> PenstockError:
    code, words = code_of(error), words_of(error)
    said = f"{what}: {words}"
    if code is None:
        return NotConnected(f"{said} (not a ClickHouse server's answer; check `url`)")
    if code == _KILLED:
        return NotConnected(said)
    if code in (_STORE, _REFUSED_ADDRESS, _NO_FILE) or (code == _OUTSIDE and "user_files" in words):
        return _of_staging(code, said)
    if code in _LOGIN:
        return SetupError(f"{said}; check user and password")
    if code == _NO_DATABASE:
        return SetupError(f"{said}; create it, or check `database`")
    if code in _DENIED:
        kind = SetupError if table is None else TableSetupError
        return kind(f"{said}; grant it to the destination's user")
    if code in _REFUSED_SETTING:
        return SetupError(f"{said}; the server is too old, or its profile does not allow this setting")
    if code in _FULL:
        return SetupError(f"{said}; free space on the server's disk")
    if code in _GONE:
        return TableChanged(said)
    if code in _BUSY:
        return Transient(said) if table is None else TableBusy(said)
    if data and table is not None and code in _ROWS:
        return RowsRejected(table, words)
    if code in _PASSING:
        return Transient(said)
    if code in _STATEMENT or code in _ROWS:
        return Permanent(said)
    return unknown(error, f"{said} (code {code})")


def _of_staging(code: int, said: str) -> PenstockError:
    """Returns the error of a server that cannot read what is staged for it."""
    if code == _REFUSED_ADDRESS:
        return SetupError(f"{said}; allow the address of `staging` in the server's remote_url_allow_hosts")
    if code == _OUTSIDE:
        return SetupError(f"{said}; choose a directory below the server's user_files_path as `path` of `staging`")
    if _NO_RIGHT in said:
        return SetupError(
            f"{said}; the server may not read the bucket of `staging`: grant s3:GetObject, or check its `lend_keys`"
        )
    if code == _NO_FILE or _NOT_THERE in said:
        return Transient(f"{said}; the staged rows are sent again. If it stays so, the server looks elsewhere: check `staging`")
    return Transient(f"{said}; check that the ClickHouse server reaches the address of `staging`")
