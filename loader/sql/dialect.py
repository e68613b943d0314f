"""How a warehouse writes SQL: quotes of names and texts, equal names, DDL, merges and the catalogue.

Pure. `Dialect` is standard SQL with Postgres's ON CONFLICT, which DuckDB and SQLite speak too. A warehouse that differs in one
point overrides the method of that point only. Abstract methods have no standard: each warehouse gives them. Names and values come from events, so they get into a statement only through `identifier` and `literal`, or as a parameter.
If a server can be told to read quotes in another way (MySQL's `sql_mode`), its dialect is right only on links that set the mode
themselves.
"""

# ruff: noqa: ARG002 - the standard needs less than a warehouse may
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias

from loader.contract.warehouse import Column, Kind
from loader.sql.live import LiveColumn, LiveKey, LiveTable
from loader.sql.steps import Ask, Run, Steps
from loader.sql.types import Types
from shared.driving.spelling import Spelling

Trouble: TypeAlias = Literal["race", "duplicate", "null", "long", "refused", "gone", "twice"]
"""What the kit must know of a driver's error.

`race`: another session made or changed the same object meanwhile. `duplicate`, `null`, `long`: a unique key, NOT NULL or the length
of a text refuses a row.
`refused`: the server refuses a statement for the sake of a column or a type. `gone`: a table is not there. `twice`: one merge
met one key twice.
"""

OF_A_COLUMN: tuple[Trouble, ...] = ("refused", "null", "long")
"""Troubles with one column; the others of the statement may be possible."""


class Dialect(Spelling, ABC):
    """Standard SQL. Holds no state; a warehouse has one."""

    ddl_commits: ClassVar[bool] = False
    """Whether each statement that changes a table commits, so that nothing takes it back."""
    sees_source: ClassVar[bool] = False
    """Whether the assignments of a merge can name columns of the source that is called `r`."""
    any_value: ClassVar[str] = "{}"
    """Makes a subquery's expression one value, if the warehouse does not know that only one row can match."""
    alias: ClassVar[str] = "AS t"
    """Follows the table of an INSERT, so that `stored` can name it."""
    begin: ClassVar[str] = "BEGIN"
    lock_rows: ClassVar[str] = " FOR UPDATE"
    """Ends a query whose rows no other session may change until the transaction ends; empty where no other session can write at all. Then
    the epoch is checked before rows travel, else after."""
    check_now: ClassVar[str] = ""
    """Checks constraints that would wait for COMMIT, which would name no table."""
    undo: ClassVar[Literal["savepoint", "transaction"]] = "savepoint"
    """The part that a failing statement takes back: the work since the last savepoint, or the whole transaction."""
    release: ClassVar[str] = "RELEASE SAVEPOINT straight"
    """Forgets a savepoint; empty where one that is left costs nothing."""
    now: ClassVar[str] = "now()"
    key_text: ClassVar[Mapping[str, str]] = {}
    """Types of the ledger's texts, by column, where a key cannot have any text."""
    big_number: ClassVar[str] = "bigint"
    moment: ClassVar[str] = "timestamp with time zone"
    ledger_storage: str = ""
    """Ends the DDL of the ledger."""
    narrower: ClassVar[Mapping[str, str]] = {}
    """Native types that rows must have exactly on the bulk path, with their Arrow types."""
    try_cast: ClassVar[str] = "TRY_CAST({value} AS {native})"
    """A cast that gives null on failure, if the warehouse has one."""
    product: ClassVar[str] = "this server"
    """The warehouse's name in messages."""
    types: Types

    def fold(self, name: str) -> str:
        """Returns a name as the warehouse compares names: two names that fold alike are one column."""
        return name

    def stored(self, schema: str, table: str, column: str) -> str:
        """Returns a column of the stored row, in the assignments of a merge into a table, which `alias` may call `t`."""
        return f"t.{self.identifier(column)}"

    def incoming(self, column: str) -> str:
        """Returns a column of the incoming row, in the assignments of a merge."""
        return f"EXCLUDED.{self.identifier(column)}"

    def missing(self, schema: str, table: str, column: str) -> str:
        """Returns a new row's value of a column that the INSERT does not name, in the assignments of a merge."""
        return self.incoming(column)

    def upsert(self, schema: str, table: str, key: Sequence[str], changes: Mapping[str, str], condition: str | None) -> str:
        """Returns the clause behind an INSERT by which rows with an existing key change the stored ones.

        Args:
            schema, table: where they are.
            key: the columns of a unique key.
            changes: the new expression of each column, by name, the cursor's last; none: the stored row stays.
            condition: over `stored` and `incoming`; if it does not hold, the stored row stays. None: it always holds.
        """
        target = f"ON CONFLICT ({self.identifiers(key)})"
        if not changes:
            return f"{target} DO NOTHING"
        sets = ", ".join(f"{self.identifier(name)} = {value}" for name, value in changes.items())
        return f"{target} DO UPDATE SET {sets}" + (f" WHERE {condition}" if condition else "")

    def same(self, one: str, other: str) -> str:
        """Returns whether two expressions have the same value, or are both null."""
        return f"{one} IS NOT DISTINCT FROM {other}"

    def alike(self, column: LiveColumn, stored: str, given: str) -> str:
        """Returns whether a stored value and a given one are the same; types that cannot be compared go by their text."""
        if column.kind in (Kind.JSON, Kind.OTHER):
            return self.same(self.as_text(stored), self.as_text(given))
        return self.same(stored, given)

    def later(self, moment: str, microseconds: str) -> str:
        """Returns a moment so many microseconds later."""
        return f"({moment} + ({microseconds}) * interval '1 microsecond')"

    def delete_matched(self, schema: str, table: str, source: str, condition: str) -> str:
        """Returns the statement that deletes rows `t` of a table that match a row of a source; it names `t` and the source's alias."""
        return f"DELETE FROM {self.qualified(schema, table)} AS t USING {source} WHERE {condition}"  # noqa: S608 - quoted

    def update_matched(self, schema: str, table: str, changes: Mapping[str, str], source: str, condition: str) -> str:
        """Returns the statement that changes columns of rows `t` of a table that match a row of a source, as `delete_matched`."""
        sets = ", ".join(f"{self.identifier(name)} = {value}" for name, value in changes.items())
        return f"UPDATE {self.qualified(schema, table)} AS t SET {sets} FROM {source} WHERE {condition}"  # noqa: S608 - quoted

    def aside(self, name: str) -> str:
        """Returns the quoted name of a table that `keep` makes."""
        return f"pg_temp.{self.identifier(name)}"

    def keep(self, name: str, query: str, key: Mapping[str, str]) -> Steps[None]:
        """Keeps the rows of a query until the transaction ends.

        Args:
            name: of their table, for `aside`.
            query: makes the rows.
            key: columns they are looked up by, with the native types of these.
        """
        yield Run(f"CREATE TEMPORARY TABLE {self.identifier(name)} ON COMMIT DROP AS {query}")

    def forget(self, name: str) -> Steps[None]:
        """Drops rows that are kept, where that does not happen by itself."""
        yield from ()

    def add_filled(self, schema: str, table: str, definitions: Mapping[str, tuple[str, str]]) -> Steps[None]:
        """Adds columns; the rows that are there get a value.

        Args:
            schema, table: where they are.
            definitions: by name, the definition and the value in SQL.
        """
        for name, (definition, value) in definitions.items():
            yield Run(self.alter(schema, table, [self.add_column(f"{definition} DEFAULT {value}")]))
            yield Run(self.alter(schema, table, [f"ALTER COLUMN {self.identifier(name)} DROP DEFAULT"]))

    def instant(self, moment: datetime) -> str:
        """Returns a time in UTC as a value of a new column of times."""
        return f"CAST('{moment.isoformat(sep=' ')}' AS {self.types.natives[Kind.TIMESTAMP]})"

    def guards(self, schema: str) -> Steps[list[tuple[str, str]]]:
        """Returns the guards (`guard`) in a schema: the table, and the guard's name."""
        yield from ()
        return []

    def guard(self, schema: str, table: str, name: str, key: Sequence[str], current: str) -> str:
        """Returns the statement that makes the warehouse refuse a second row of a key in which `current` is true; empty where it cannot."""
        return ""

    def comment(self, schema: str, table: str, column: str, text: str) -> str:
        """Returns the statement that stores a comment with a column; empty where it is a part of the column's definition."""
        return f"COMMENT ON COLUMN {self.qualified(schema, table)}.{self.identifier(column)} IS {self.literal(text)}"

    def parameter(self, number: int) -> str:
        """Returns the placeholder of a statement's parameter; numbers begin at 1 and come in order, each once."""
        return f"${number}"

    def as_text(self, expression: str) -> str:
        """Returns an expression as text."""
        return f"CAST({expression} AS {self.types.natives[Kind.TEXT]})"

    def exact_text(self, expression: str) -> str:
        """Returns an expression as text that equals another only if all their bytes do."""
        return self.as_text(expression)

    def is_type(self, native: str) -> str:
        """Returns a query that fails if the server does not read `native` as a type."""
        return f"SELECT CAST(NULL AS {native})"

    def refuses_type(self, native: str) -> Steps[str | None]:
        """Returns why the server does not read `native` as a type; None where it does."""
        try:
            yield Ask(self.is_type(native))
        except Exception as error:
            if self.trouble(error) != "refused":
                raise
            return self.describe(error)
        return None

    def definition(self, column: Column, native: str, *, in_key: bool) -> str:
        """Returns a column of a CREATE TABLE or ADD COLUMN; `in_key`: of the key that comes with it."""
        return f"{self.identifier(column.name)} {native}"

    def create_table(self, schema: str, table: str, parts: Iterable[str], key: Sequence[str], key_name: str) -> str:
        """Returns the statements that create a table with its key, if it has one."""
        made = f"CREATE TABLE {self.qualified(schema, table)} ({', '.join(parts)})"
        return f"{made}; {self.add_key(schema, table, key_name, key, has_primary=False)}" if key else made

    def create_tables(self, schema: str, making: Mapping[str, Sequence[str]]) -> Steps[None]:
        """Creates tables, all or none, by their statements."""
        yield Run("; ".join(each for statements in making.values() for each in statements))

    def alter(self, schema: str, table: str, changes: Iterable[str]) -> str:
        """Returns the statements that make changes (`add_column`, `change_type`) to a table."""
        return f"ALTER TABLE {self.qualified(schema, table)} {', '.join(changes)}"

    def add_column(self, definition: str) -> str:
        """Returns the change that adds a column, and does nothing if another session has added it meanwhile."""
        return f"ADD COLUMN IF NOT EXISTS {definition}"

    def change_type(self, now: LiveColumn, column: Column, native: str, expression: str) -> str:
        """Returns the change that gives a column another type, and its values those of the expression; empty where it takes more
        than one change (`recast`).

        Args:
            now: the column as it is.
            column: as it is to be.
            native: its type then.
            expression: of its values.
        """
        return f"ALTER COLUMN {self.identifier(column.name)} TYPE {native} USING {expression}"

    def recast(
        self,
        schema: str,
        table: str,
        now: LiveColumn,
        column: Column,
        native: str,
        expression: str,
    ) -> Steps[bool]:
        """Changes a column in ways that `change_type` cannot, while no other session writes; returns whether it is changed."""
        yield from ()
        return False

    def add_key(self, schema: str, table: str, name: str, key: Sequence[str], *, has_primary: bool) -> str:
        """Returns the statement that makes a unique key; `has_primary`: the table has a primary key already."""
        return f"CREATE UNIQUE INDEX {self.identifier(name)} ON {self.qualified(schema, table)} ({self.identifiers(key)})"

    def drop_key(self, schema: str, table: str, stale: LiveKey, key: Sequence[str]) -> str:
        """Returns the statement that drops a key that we made; `key`: the key that will replace it."""
        return f"DROP INDEX IF EXISTS {self.qualified(schema, stale.name)}"

    def rekey(self, schema: str, table: str, live: LiveTable, added: Sequence[str], name: str, key: Sequence[str]) -> str:
        """Returns the statements that give a table another key.

        Args:
            schema, table: where it is.
            live: as it is; keys of ours over other columns go.
            added: definitions of columns of the key that are not there yet.
            name: of the new key; empty where none is made.
            key: its columns.
        """
        statements = [self.alter(schema, table, [self.add_column(each) for each in added])] if added else []
        statements += [self.drop_key(schema, table, each, key) for each in live.stale_keys(map(self.fold, key))]
        if name:
            has_primary = any(each.primary and not each.own for each in live.keys)
            statements.append(self.add_key(schema, table, name, key, has_primary=has_primary))
        return "; ".join(statements)

    def hold_writers(self, schema: str, table: str) -> Steps[None]:
        """Keeps other sessions from writing to a table until the transaction ends; does nothing if there can be none."""
        yield from ()

    def has_table(self) -> str:
        """Returns the query that has a row if a table exists; its parameters are schema and name."""
        where = f"table_schema = {self.parameter(1)} AND table_name = {self.parameter(2)}"
        return f"SELECT 1 FROM information_schema.tables WHERE {where}"  # noqa: S608 - parameters

    def make_schema(self, schema: str) -> Steps[None]:
        """Creates the schema if it is missing."""
        yield Run(f"CREATE SCHEMA IF NOT EXISTS {self.identifier(schema)}")

    def lock(self, schema: str, tables: Sequence[str]) -> Steps[None]:
        """Keeps our other sessions from changing tables of these names until the transaction ends; does nothing if none can."""
        yield from ()

    def begin_load(self, schema: str, tables: Sequence[str], alone: Sequence[str] = ()) -> Steps[None]:
        """Begins a transaction, and keeps other sessions from altering tables until it ends; our other sessions that bring versions wait
        for those in `alone`."""
        yield Run(self.begin)

    @abstractmethod
    def read_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, LiveTable]]:
        """Returns the existing ones of some tables, by the requested name, with their keys if those cost nothing more."""

    def read_keys(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, list[LiveKey]]]:
        """Returns the unique keys of tables that a merge can use, where `read_columns` does not."""
        yield from ()
        return {}

    def fixed_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, set[str]]]:
        """Returns the columns of tables that a merge cannot change."""
        yield from ()
        return {}

    def other_things(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, str]]:
        """Returns other objects with the names of tables, which take no rows: `a sequence`, `a view`."""
        yield from ()
        return {}

    def own_keys(self, schema: str) -> Steps[list[str]]:
        """Returns the names of all keys in a schema that we made; none where each table has its own names."""
        yield from ()
        return []

    def references(self, schema: str, tables: Sequence[str]) -> Steps[list[tuple[str, str]]]:
        """Returns the foreign keys among some tables."""
        yield from ()
        return []

    def in_the_way(self, schema: str, table: str) -> Steps[tuple[list[str], list[str]]]:
        """Returns statements that drop objects in the way of a change of a column's type, and statements that make them again."""
        yield from ()
        return [], []

    @abstractmethod
    def trouble(self, error: BaseException) -> Trouble | None:
        """Returns the trouble of a driver's error; None for any other error, and for our own."""

    @abstractmethod
    def describe(self, error: BaseException) -> str:
        """Returns the driver's words."""
