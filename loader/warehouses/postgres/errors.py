"""What errors of asyncpg mean, by their SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from loader.servers.errors import Code, Errors, Meaning
from loader.sql.dialect import Trouble
from shared.errors import NotConnected, Permanent, RowsRejected, SetupError, TableBusy, TableChanged, TableSetupError, Transient

_LINE = re.compile(r"\bCOPY [^\n]*?, line (?P<line>\d+)")
_SSL = "check `ssl` and the certificates"
_OWNER = "only its owner may change it; give it to this user, or choose schema_policy: freeze"
_SCHEMA = "the user may not make the schema; create it and give it to this user, or grant CREATE on the database"
TOO_LARGE = "54000"
"""A row larger than a page, or a key too long for its index."""
_ROWS, _GONE, _CHANGED, _PASSES = Meaning(RowsRejected), Meaning(NotConnected), Meaning(TableChanged), Meaning(Transient)


class PostgresErrors(Errors):
    """Postgres's."""

    foreign_keys = frozenset(("23503",))
    meanings: ClassVar[Mapping[Code, Meaning]] = {
        "28P01": Meaning(SetupError, "the user name or the password is wrong; check `user` and `password` (or the dsn)"),
        "28000": Meaning(
            SetupError, "the server does not let this user in from here; check `user`, `ssl` and the server's pg_hba.conf"
        ),
        "3D000": Meaning(SetupError, "the database does not exist; create it, or check `database`"),
        "3F000": Meaning(SetupError, "the schema does not exist and could not be made; create it, or check `schema`"),
        "42501": Meaning(
            TableSetupError,
            "the user lacks a permission; grant it CREATE and USAGE on the schema and SELECT, INSERT, UPDATE (for full refreshes DELETE too) on its tables",
        ),
        "25006": Meaning(SetupError, "the server is read-only (a replica, perhaps); point the destination at the primary"),
        "53100": Meaning(SetupError, "the server's disk is full; free space there"),
        "57P04": Meaning(SetupError, "the database was dropped"),
        "XX001": Meaning(TableSetupError, "the server reports damaged data; look at its log"),
        "XX002": Meaning(TableSetupError, "the server reports a damaged index; look at its log and reindex"),
        "55P03": Meaning(
            TableBusy,
            "somebody holds a lock on it (pg_locks and pg_stat_activity say who); its rows wait until that transaction ends",
        ),
        "57014": Meaning(Transient, "it took longer than statement_timeout"),
        "53300": Meaning(Transient, "the server has no connection free"),
        **dict.fromkeys(("08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04"), _GONE),
        **dict.fromkeys(("42P01", "42703", "42804", "42P10", "22P03", "42P18"), _CHANGED),
        **dict.fromkeys(("22", "23", "P0", TOO_LARGE), _ROWS),
        **dict.fromkeys(("42", "0A", "21", "54"), Meaning(Permanent)),
        # transactions that met each other, resources that ran out, an operator at work, a disk
        **dict.fromkeys(("25", "40", "53", "55", "57", "58"), _PASSES),
    }
    troubles: ClassVar[Mapping[Code, Trouble | Literal["no"]]] = {
        # another session made the same object between our look and our statement
        **dict.fromkeys(("42P07", "42701", "42710", "42P06", "40001", "40P01", "XX000"), "race"),
        "23505": "duplicate", "23502": "null", "42P01": "gone", "21000": "twice",
        # one column cannot be added or widened; the others of the patch may be
        **dict.fromkeys(("0A", "22", "2B", "42", "54", "3F000"), "refused"),
        **dict.fromkeys(("42501", "42809"), "no"),
    }  # fmt: skip

    def code(self, error: BaseException) -> Code | None:
        state = getattr(error, "sqlstate", None)
        return state if isinstance(state, str) else None

    def describe(self, error: BaseException) -> str:
        message = getattr(error, "message", None) or str(error) or type(error).__name__
        detail = getattr(error, "detail", None)
        return f"{message} ({detail})" if detail else str(message)

    def row(self, error: BaseException) -> int | None:
        if self.code(error) == TOO_LARGE:
            return None  # raised when a block of rows is stored: the line is that of the last row read
        match = _LINE.search(getattr(error, "context", None) or "")
        return int(match["line"]) - 1 if match else None

    def meaning(self, error: BaseException, code: Code) -> Meaning | None:
        state, words, context = str(code), self.describe(error), getattr(error, "context", None) or ""
        if " at RAISE" in context or (state == "42501" and "row-level security" in words):
            # a trigger of the user's that refuses the row, under whatever code it likes, or a policy
            return _ROWS
        if " function " in context and state[:2] == "42":
            return Meaning(Permanent, context.splitlines()[0])  # a trigger that does not work
        if state == "42501" and "must be owner" in words:
            return Meaning(TableSetupError, _OWNER)
        if state == "42501" and "permission denied for database" in words:
            return Meaning(SetupError, _SCHEMA)
        if state == "0A000" and ("cached" in words or "cannot accept a value of type" in words):
            return _CHANGED if "cached" in words else _ROWS
        if state == "42601" and getattr(error, "position", None) is None:
            return _ROWS  # a text that is no `tsvector`, `ltree` or `jsonpath` is a syntax error too, but at no place in the statement
        return super().meaning(error, code)

    def without_code(self, error: BaseException) -> Meaning | None:
        from asyncpg import exceptions

        # asyncpg tells of a server without TLS by a plain ConnectionError
        if isinstance(error, OSError) and "SSL upgrade" in str(error):
            return Meaning(SetupError, _SSL)
        if isinstance(error, (exceptions.InterfaceError, exceptions.InternalClientError)):
            # a ValueError is a parameter that has no form for the server, of which nothing was sent
            return _ROWS if isinstance(error, ValueError) else Meaning(NotConnected, "the connection was lost")
        return None


ERRORS = PostgresErrors()
