"""What errors of asyncpg mean, by their SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from loader.servers.errors import Code, Errors, Meaning, by_code
from loader.sql.dialect import Trouble
from shared.errors import NotConnected, Permanent, RowsRejected, SetupError, TableBusy, TableChanged, TableSetupError, Transient

_LINE = re.compile(r"\bCOPY [^\n]*?, line (?P<line>\d+)")
_OWNER = "only its owner may change it; give it to this user, or choose schema_policy: freeze"
_SCHEMA = "the user may not make the schema; create it and give it to this user, or grant CREATE on the database"
TOO_LARGE = "54000"
"""A row larger than a page, or a key too long for its index."""
_ROWS, _CHANGED = Meaning(RowsRejected), Meaning(TableChanged)


class PostgresErrors(Errors):
    """Postgres's."""

    product = "PostgreSQL"
    foreign_keys = frozenset(("23503",))
    meanings: ClassVar[Mapping[Code, Meaning]] = by_code(
        (SetupError, {
            "the user name or the password is wrong; check `user` and `password` (or the dsn)": ("28P01",),
            "the server does not let this user in from here; check `user`, `ssl` and the server's pg_hba.conf": ("28000",),
            "the database does not exist; create it, or check `database`": ("3D000",),
            "the schema does not exist and could not be made; create it, or check `schema`": ("3F000",),
            "the server is read-only (a replica, perhaps); point the destination at the primary": ("25006",),
            "the server's disk is full; free space there": ("53100",),
            "the database was dropped": ("57P04",),
        }),
        (TableSetupError, {
            "the user lacks a permission; grant it CREATE and USAGE on the schema and SELECT, INSERT, UPDATE (of full refreshes DELETE too) on its tables": ("42501",),
            "the server reports damaged data; look at its log": ("XX001",),
            "the server reports a damaged index; look at its log and reindex": ("XX002",),
        }),
        (Transient, {
            "it took longer than statement_timeout": ("57014",),
            "the server takes no more clients (max_connections)": ("53300",),
            # transactions that met each other, resources that ran out, an operator at work, a disk
            "": ("25", "40", "53", "55", "57", "58"),
        }),
        (TableBusy, {
            "another session holds a lock on it (pg_locks and pg_stat_activity say who); its rows wait until that transaction ends": ("55P03",),
        }),
        (NotConnected, {"": ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "25P04")}),
        (TableChanged, {"": ("42P01", "42703", "42804", "42P10", "22P03", "42P18")}),
        (RowsRejected, {"": ("22", "23", "P0", TOO_LARGE)}),
        (Permanent, {"": ("42", "0A", "21", "54")}),
    )  # fmt: skip
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
            return Meaning(
                SetupError, "what listens there takes no TLS, or is no PostgreSQL server; check `ssl`, `host` and `port`"
            )
        if isinstance(error, (exceptions.InterfaceError, exceptions.InternalClientError)):
            # a ValueError is a parameter that has no form for the server, of which nothing was sent
            return _ROWS if isinstance(error, ValueError) else Meaning(NotConnected, "the link was lost")
        return None


ERRORS = PostgresErrors()
