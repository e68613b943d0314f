"""Translates what asyncpg and the sockets under it raise into our tree; the only place that knows their errors.

SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html. No text here holds a password: the server never
repeats it, and what asyncpg says of a broken DSN, which may hold parts of it, is not passed on.
"""

from __future__ import annotations

import re

from loader.sql.dialect import Trouble
from shared.driving.network import translate_socket
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
    UnknownDriverError,
    unknown,
)

_LINE = re.compile(r"\bCOPY [^\n]*?, line (?P<line>\d+)")

_SETUP = {
    "28P01": "the user name or the password is wrong; check `user` and `password` (or the dsn)",
    "28000": "the server does not let this user in from here; check `user`, `ssl` and the server's pg_hba.conf",
    "3D000": "the database does not exist; create it, or check `database`",
    "3F000": "the schema does not exist and could not be made; create it, or check `schema`",
    "42501": "the user lacks a permission; grant it CREATE and USAGE on the schema and SELECT, INSERT, UPDATE on its tables",
    "25006": "the server is read-only (a replica, perhaps); point the destination at the primary",
    "53100": "the server's disk is full; free space there",
    "57P04": "the database was dropped",
    "XX001": "the server reports damaged data; look at its log",
    "XX002": "the server reports a damaged index; look at its log and reindex",
}
_OF_A_TABLE = frozenset({"42501", "XX001", "XX002"})
FOREIGN_KEY = "23503"
TOO_LARGE = "54000"
"""A row larger than a page, or a key too long for its index."""
_KNOWN = frozenset({"25", "40", "53", "55", "57", "58"})
"""Classes of errors that pass: transactions that met each other, resources that ran out, an operator at work, a disk."""
_RACE = frozenset({"42P07", "42701", "42710", "42P06", "40001", "40P01", "XX000"})
"""Errors of the server where another session made the same object between our look and our statement."""
_REFUSED = frozenset({"0A", "22", "2B", "42", "54"})
"""Classes of errors by which the server refuses to add or widen one column; the others of the patch may be possible."""
_NOT_FOR_A_COLUMN = frozenset({"42501", "42809"})
_TROUBLES: dict[str, Trouble] = {
    **dict.fromkeys(_RACE, "race"), "23505": "duplicate", "23502": "null", "3F000": "refused", "42P01": "gone", "21000": "twice",
}  # fmt: skip
_GONE = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})
_CHANGED = frozenset({"42P01", "42703", "42804", "42P10", "22P03", "42P18"})
_AGAIN = {
    "55P03": "somebody holds a lock on it (pg_locks and pg_stat_activity say who); its rows wait until that transaction ends",
    "57014": "it took longer than statement_timeout",
    "53300": "the server has no connection free",
}


def translate(error: BaseException, what: str, table: str | None = None) -> PenstockError:
    """Returns the error of our tree for one of the driver's.

    Args:
        error: what was raised.
        what: what failed, for the message: `loading into postgres destination "wh"`.
        table: the table whose rows were on their way; data errors become `RowsRejected` of it.
    """
    if isinstance(error, PenstockError):
        return error
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _of_state(error, state, what, table)
    # asyncpg tells of a server without TLS by a plain ConnectionError
    if isinstance(error, OSError) and "SSL upgrade" in str(error):
        return SetupError(f"{what}: {describe(error)}; check `ssl` and the certificates")
    of_socket = translate_socket(error, what)
    if of_socket is not None:
        return of_socket

    from asyncpg import exceptions

    if isinstance(error, exceptions.ClientConfigurationError):
        # its text may quote the dsn, and with it the password
        return SetupError(f"{what}: the address is not readable; expected postgresql://user:password@host:port/database")
    if isinstance(error, (exceptions.InterfaceError, exceptions.InternalClientError)):
        # what asyncpg says after a server hung up on an idle connection is about its own states
        if isinstance(error, ValueError):  # a parameter that has no form for the server; nothing was sent
            return _of_rows(error, what, table)
        return NotConnected(f"{what}: the connection was lost ({describe(error)})")
    return unknown(error, f"{what}: {type(error).__name__}: {describe(error)}")


def trouble(error: BaseException) -> Trouble | None:
    """Returns what an error of the driver means for the kit."""
    state = getattr(error, "sqlstate", None) or ""
    if state in _TROUBLES:
        return _TROUBLES[state]
    return "refused" if state[:2] in _REFUSED and state not in _NOT_FOR_A_COLUMN else None


def describe(error: BaseException) -> str:
    """Returns the driver's words, with the server's detail where there is one."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    detail = getattr(error, "detail", None)
    return f"{message} ({detail})" if detail else str(message)


def refused_row(error: BaseException) -> int | None:
    """Returns the index of the row that a COPY stopped at, where the server says."""
    if getattr(error, "sqlstate", None) == TOO_LARGE:
        return None  # raised when a block of rows is stored: the line is that of the last row read
    match = _LINE.search(getattr(error, "context", None) or "")
    return int(match["line"]) - 1 if match else None


def _of_state(error: BaseException, state: str, what: str, table: str | None) -> PenstockError:
    words = f"{what}: {describe(error)}"
    context = getattr(error, "context", None) or ""
    if " at RAISE" in context or (state == "42501" and "row-level security" in words):
        # a trigger of the user's that refuses the row, under whatever code it likes, or a policy
        return _of_rows(error, what, table)
    if " function " in context and state[:2] == "42":
        return Permanent(f"{words} ({context.splitlines()[0]})")  # a trigger that does not work
    if state == "42501" and "must be owner" in words:
        return TableSetupError(f"{words}: only its owner may change it; give it to this user, or choose schema_policy: freeze")
    if state == "42501" and "permission denied for database" in words:
        return SetupError(
            f"{words}: the user may not make the schema; create it and give it to this user, or grant CREATE on the database"
        )
    if state in _SETUP:
        return (TableSetupError if state in _OF_A_TABLE else SetupError)(f"{words}: {_SETUP[state]}")
    if state.startswith("08") or state in _GONE:
        return NotConnected(words)
    if state in _CHANGED or (state == "0A000" and "cached" in words):
        return TableChanged(words)
    if state in _AGAIN:
        return (TableBusy if state == "55P03" else Transient)(f"{words}: {_AGAIN[state]}")
    # a text that is no `tsvector`, `ltree` or `jsonpath` is a syntax error too, but at no place in the statement
    if state[:2] in ("22", "23", "P0") or state == TOO_LARGE or (state == "42601" and getattr(error, "position", None) is None):
        return _of_rows(error, what, table)
    if state == "0A000" and "cannot accept a value of type" in words:
        return _of_rows(error, what, table)
    if state[:2] in ("42", "0A", "21", "54"):
        return Permanent(words)
    if state[:2] in _KNOWN:
        return Transient(words)
    return UnknownDriverError(words)


def _of_rows(error: BaseException, what: str, table: str | None) -> PenstockError:
    if table is None:
        return Permanent(f"{what}: {describe(error)}")
    index = refused_row(error)
    rows = {} if index is None else {index: describe(error)}
    return RowsRejected(table, describe(error), rows, needs_others=getattr(error, "sqlstate", None) == FOREIGN_KEY)
