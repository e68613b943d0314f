"""A warehouse in memory, as small as the SQL kit allows: a dialect, a bulk path, a driver. For tests of the kit in milliseconds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from loader.contract.warehouse import Column, Kind
from loader.sql.dialect import Dialect, Trouble
from loader.sql.live import LiveColumn, LiveKey, LiveTable
from loader.sql.load import Fitted, Way
from loader.sql.steps import Ask, Commit, Moment, Rollback, Run, Step, Steps
from loader.sql.text import OWN_INDEX
from loader.sql.types import Types
from loader.sql.writes.staged import Staged
from shared.driving.steps import drive
from shared.errors import RowsRejected

T = TypeVar("T")

NATIVES = {Kind.TEXT: "text", Kind.BIGINT: "bigint", Kind.DOUBLE: "real", Kind.BOOLEAN: "boolean"}


class Lite(Dialect):
    """SQLite's."""

    lock_rows = ""
    types = Types(natives=NATIVES, to_json="json({})", to_text={})

    def parameter(self, number: int) -> str:
        return f"?{number}"

    def definition(self, column: Column, native: str, *, in_key: bool) -> str:
        return f"{self.identifier(column.name)} {native}"

    def add_column(self, definition: str) -> str:
        return f"ADD COLUMN {definition}"

    def comment(self, schema: str, table: str, column: str, text: str) -> str:
        return f"SELECT {self.literal(text)}"

    def add_key(self, schema: str, table: str, name: str, key: Sequence[str], *, has_primary: bool) -> str:
        return f"CREATE UNIQUE INDEX {self.qualified(schema, name)} ON {self.identifier(table)} ({self.identifiers(key)})"

    def alter(self, schema: str, table: str, changes: Iterable[str]) -> str:
        return "; ".join(super(Lite, self).alter(schema, table, [change]) for change in changes)

    def has_table(self) -> str:
        return "SELECT 1 FROM sqlite_master WHERE ?1 <> '' AND name = ?2"

    def make_schema(self, schema: str) -> Steps[None]:
        yield from ()

    def read_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, LiveTable]]:
        found: dict[str, LiveTable] = {}
        kinds = {native: kind for kind, native in NATIVES.items()}
        for table in tables:
            for _, name, native, required, default, _ in (yield Ask(f"PRAGMA table_info({self.literal(table)})")):
                native = native.lower()
                column = LiveColumn(name, native, kinds.get(native, Kind.OTHER), default=default, nullable=not required)
                found.setdefault(table, LiveTable()).columns[name] = column
        return found

    def read_keys(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, list[LiveKey]]]:
        keys: dict[str, list[LiveKey]] = {}
        for table in tables:
            for _, name, unique, *_ in (yield Ask(f"PRAGMA index_list({self.literal(table)})")):
                columns = yield Ask(f"PRAGMA index_info({self.literal(name)})")
                if unique:
                    keys.setdefault(table, []).append(LiveKey(name, tuple(each[2] for each in columns)))
        return keys

    def own_keys(self, schema: str) -> Steps[list[str]]:
        return [name for (name,) in (yield Ask(f"SELECT name FROM sqlite_master WHERE name LIKE '{OWN_INDEX}%'"))]

    def trouble(self, error: BaseException) -> Trouble | None:
        if isinstance(error, sqlite3.IntegrityError):
            return "duplicate" if "UNIQUE" in str(error) else "null"
        if isinstance(error, sqlite3.OperationalError):
            return "gone" if "no such table" in str(error) else "refused"
        return None

    def describe(self, error: BaseException) -> str:
        return str(error)


class LiteBulk:
    """Rows one by one; `ways` has every way that was taken."""

    short_rows = 2
    straight_casts = False

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.ways: list[str] = []
        self.fails: Callable[[str, Way], Exception | None] = lambda table, way: None

    def straight(self, fitted: Fitted) -> Steps[int]:
        self.ways.append(f"{fitted.load.table} straight")
        error = self.fails(fitted.load.table, Way(short=False))
        if error is not None:
            raise error
        yield from self._insert(fitted, "append")
        return 0

    def send(self, fitted: Fitted, number: int, way: Way) -> Steps[int]:
        self.ways.append(f"{fitted.load.table} {'in turn' if way.in_turn else 'short' if way.short else 'long'}")
        error = self.fails(fitted.load.table, way)
        if error is not None:
            raise error
        yield from self._insert(fitted, "")
        return 0

    def stage(self, fitted: Fitted, number: int) -> Steps[Staged]:
        raise NotImplementedError("no test of the kit alone deletes rows or keeps versions")

    def statements(self, fitted: Fitted, source: str, given: Mapping[str, str]) -> list[str]:
        return [fitted.statement(self._dialect, "main", source, given)]

    def refused(self, error: Exception, sending: Sequence[Fitted]) -> Steps[RowsRejected | None]:
        yield from ()
        return RowsRejected(sending[-1].load.table, str(error)) if isinstance(error, sqlite3.IntegrityError) else None

    def _insert(self, fitted: Fitted, write: str) -> Steps[None]:
        names = fitted.rows.column_names
        places = ", ".join(f"?{number} AS {self._dialect.identifier(name)}" for number, name in enumerate(names, 1))
        statement = fitted.statement(
            self._dialect, "main", f"(SELECT {places}) AS r WHERE true", fitted.given(self._dialect), write
        )
        for row in fitted.rows.to_pylist():
            yield Ask(statement, list(row.values()))


class LiteDriver:
    """One database."""

    def __init__(self) -> None:
        self.link = sqlite3.connect(":memory:", isolation_level=None)
        self.link.create_function("greatest", 2, max)
        self.link.create_function("now", 0, lambda: "now")
        self.done: list[str] = []
        self.fails: Callable[[str], Exception | None] = lambda sql: None

    def run(self, steps: Steps[T]) -> T:
        """Does a piece of work; takes back what a failed one left open, as plug-ins do."""
        try:
            return drive(steps, self._perform)
        finally:
            if self.link.in_transaction:
                self.link.execute("ROLLBACK")

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Moment):
            return 0.0
        sql = step.sql if isinstance(step, Ask | Run) else "COMMIT" if isinstance(step, Commit) else "ROLLBACK"
        self.done.append(sql)
        if isinstance(step, Rollback) and not self.link.in_transaction:
            return None
        error = self.fails(sql)
        if error is not None:
            raise error
        if isinstance(step, Ask):
            return self.link.execute(sql, list(step.values)).fetchall()
        for each in sql.split("; "):
            self.link.execute(each)
        return None
