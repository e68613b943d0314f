"""How a warehouse writes SQL: what quotes a name and a text, which names are one, what DDL, a merge and the catalogue look like.

Pure. `Dialect` is standard SQL with Postgres's ON CONFLICT, which DuckDB and SQLite speak too; a warehouse that writes something
otherwise overrides that method and no other. What raises `NotImplementedError` here has no standard: each warehouse gives it. Names and values come from events, so nothing reaches a statement except through
`identifier` and `literal`, or as a parameter. A dialect whose server can be told to read quotes otherwise (MySQL's `sql_mode`) is
right only on connections that set that themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias

from loader.contract.warehouse import Column, Kind
from loader.sql.live import LiveKey, LiveTable
from loader.sql.steps import Run, Steps
from loader.sql.types import Types
from shared.errors import Permanent

Trouble: TypeAlias = Literal["race", "duplicate", "null", "refused", "gone", "twice"]
"""What the kit must know of a driver's error.

`race`: another session made or changed the same object meanwhile. `duplicate`, `null`: a unique key or NOT NULL refuses a row.
`refused`: the server refuses a statement for the sake of a column or a type. `gone`: a table is not there. `twice`: one merge
met one key twice.
"""


class Dialect:
    """Standard SQL. Holds no state; a warehouse has one."""

    name_quote: ClassVar[str] = '"'
    """Stands around a name; one inside a name is written twice."""
    backslash_in_text: ClassVar[bool] = False
    """Whether a backslash begins an escape in a text, so that one is written twice."""
    backslash_in_names: ClassVar[bool] = False
    """The same in a quoted name."""
    any_value: ClassVar[str] = "{}"
    """Makes a subquery's expression one value where the warehouse does not know that only one row can match."""
    alias: ClassVar[str] = "AS t"
    """Follows the table of an INSERT, so that `stored` can name it."""
    begin: ClassVar[str] = "BEGIN"
    lock_rows: ClassVar[str] = " FOR UPDATE"
    """Ends a query whose rows nobody else may change until the transaction ends; empty where nobody else can write at all. Then
    the epoch is checked before rows travel, else after."""
    check_now: ClassVar[str] = ""
    """Checks constraints that would wait for COMMIT, where no table would be named."""
    undo: ClassVar[Literal["savepoint", "transaction"]] = "savepoint"
    """What a statement that fails takes back with it: what follows the last savepoint, or all of its transaction."""
    ddl_commits: ClassVar[bool] = False
    """Whether a statement that creates, alters or drops a table commits what came before it."""
    now: ClassVar[str] = "now()"
    key_text: ClassVar[str] = "text"
    """A type of text that a key can have."""
    big_number: ClassVar[str] = "bigint"
    moment: ClassVar[str] = "timestamp with time zone"
    ledger_storage: ClassVar[str] = ""
    """Ends the DDL of the ledger."""
    narrower: ClassVar[Mapping[str, str]] = {}
    """Native types that rows must have exactly on the bulk path, and the Arrow types that are so."""
    try_cast: ClassVar[str] = "TRY_CAST({value} AS {native})"
    """A cast that gives null where it fails, if the warehouse has one."""
    product: ClassVar[str] = "this server"
    """Who does not know a type, in messages."""
    types: ClassVar[Types]

    def fold(self, name: str) -> str:
        """Returns a name as the warehouse compares names: two that fold alike are one column."""
        return name

    def identifier(self, name: str) -> str:
        """Returns a name quoted.

        Raises:
            Permanent: the name is empty or holds a NUL, which no warehouse takes.
        """
        if not name or "\0" in name:
            raise Permanent(f"{name!r} cannot be the name of a table or column")
        if self.backslash_in_names:
            name = name.replace("\\", "\\\\")
        return self.name_quote + name.replace(self.name_quote, 2 * self.name_quote) + self.name_quote

    def identifiers(self, names: Iterable[str], prefix: str = "") -> str:
        """Returns names quoted and joined by commas, each with `prefix` (such as `t.`) before it."""
        return ", ".join(prefix + self.identifier(name) for name in names)

    def qualified(self, schema: str, table: str) -> str:
        """Returns `"schema"."table"`."""
        return f"{self.identifier(schema)}.{self.identifier(table)}"

    def literal(self, text: str) -> str:
        """Returns text quoted as an SQL string; without NULs, which no text of a database holds."""
        text = text.replace("\0", "")
        if self.backslash_in_text:
            text = text.replace("\\", "\\\\")
        return "'" + text.replace("'", "''") + "'"

    def stored(self, column: str) -> str:
        """Returns a column of the row that is there, in the assignments of a merge into a table that is called `t`."""
        return f"t.{self.identifier(column)}"

    def incoming(self, column: str) -> str:
        """Returns a column of the row that comes, in the assignments of a merge."""
        return f"EXCLUDED.{self.identifier(column)}"

    def upsert(self, key: Sequence[str], changes: Mapping[str, str], condition: str | None) -> str:
        """Returns what stands behind an INSERT so that rows whose key is there change the stored ones.

        Args:
            key: the columns of a unique key.
            changes: what each column becomes, by name, the cursor's last; none: the stored row stays.
            condition: over `stored` and `incoming`; where it does not hold the stored row stays. None: it always holds.
        """
        target = f"ON CONFLICT ({self.identifiers(key)})"
        if not changes:
            return f"{target} DO NOTHING"
        sets = ", ".join(f"{self.identifier(name)} = {value}" for name, value in changes.items())
        return f"{target} DO UPDATE SET {sets}" + (f" WHERE {condition}" if condition else "")

    def comment(self, schema: str, table: str, column: str, text: str) -> str:
        """Returns the statement that stores a comment with a column."""
        return f"COMMENT ON COLUMN {self.qualified(schema, table)}.{self.identifier(column)} IS {self.literal(text)}"

    def parameter(self, number: int) -> str:
        """Returns the place of a statement's parameter; numbers begin at 1 and stand in order, each once."""
        return f"${number}"

    def as_text(self, expression: str) -> str:
        """Returns an expression as text."""
        return f"CAST({expression} AS {self.types.natives[Kind.TEXT]})"

    def is_type(self, native: str) -> str:
        """Returns a query that fails where the server does not read `native` as a type."""
        return f"SELECT CAST(NULL AS {native})"

    def definition(self, column: Column, native: str, *, in_key: bool) -> str:  # noqa: ARG002
        """Returns a column of a CREATE TABLE or ADD COLUMN."""
        return f"{self.identifier(column.name)} {native}"

    def create_table(self, schema: str, table: str, parts: Iterable[str], key: Sequence[str], key_name: str) -> str:
        """Returns the statements that create a table with its key, if it has one."""
        made = f"CREATE TABLE {self.qualified(schema, table)} ({', '.join(parts)})"
        return f"{made}; {self.add_key(schema, table, key_name, key, has_primary=True)}" if key else made

    def alter(self, schema: str, table: str, changes: Iterable[str]) -> str:
        """Returns the statements that make changes (`add_column`, `change_type`) to a table."""
        return f"ALTER TABLE {self.qualified(schema, table)} {', '.join(changes)}"

    def add_column(self, definition: str) -> str:
        """Returns the change that adds a column, also where another session has added it meanwhile."""
        return f"ADD COLUMN IF NOT EXISTS {definition}"

    def change_type(self, column: str, native: str, expression: str) -> str:
        """Returns the change that gives a column another type, and its values those of the expression."""
        return f"ALTER COLUMN {self.identifier(column)} TYPE {native} USING {expression}"

    def add_key(self, schema: str, table: str, name: str, key: Sequence[str], *, has_primary: bool) -> str:  # noqa: ARG002
        """Returns the statement that makes a unique key; `has_primary`: the table has a primary key already."""
        return f"CREATE UNIQUE INDEX {self.identifier(name)} ON {self.qualified(schema, table)} ({self.identifiers(key)})"

    def drop_key(self, schema: str, table: str, stale: LiveKey, key: Sequence[str]) -> str:  # noqa: ARG002
        """Returns the statement that drops a key that we made; `key`: the one that will take its place."""
        return f"DROP INDEX IF EXISTS {self.qualified(schema, stale.name)}"

    def hold_writers(self, schema: str, table: str) -> str:  # noqa: ARG002
        """Returns the statement that keeps others from writing to a table; empty where there are none."""
        return ""

    def has_table(self) -> str:
        """Returns the query that has a row where a table exists: parameters are its schema and name."""
        where = f"table_schema = {self.parameter(1)} AND table_name = {self.parameter(2)}"
        return f"SELECT 1 FROM information_schema.tables WHERE {where}"  # noqa: S608 - parameters

    def make_schema(self, schema: str) -> Steps[None]:
        """Creates the schema if it is missing."""
        yield Run(f"CREATE SCHEMA IF NOT EXISTS {self.identifier(schema)}")

    def lock(self, schema: str, tables: Sequence[str]) -> Steps[None]:  # noqa: ARG002
        """Keeps others of ours from changing tables of these names until the transaction ends; nothing where nobody can."""
        yield from ()

    def begin_load(self, schema: str, tables: Sequence[str]) -> Steps[None]:  # noqa: ARG002
        """Begins a transaction, and keeps others from altering tables until it ends."""
        yield Run(self.begin)

    def read_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, LiveTable]]:
        """Returns those of the tables that exist, by the name they were asked for, without their keys."""
        raise NotImplementedError

    def read_keys(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, list[LiveKey]]]:
        """Returns the unique keys of tables that a merge can use."""
        raise NotImplementedError

    def fixed_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, set[str]]]:  # noqa: ARG002
        """Returns the columns of tables that a merge cannot change."""
        yield from ()
        return {}

    def other_things(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, str]]:  # noqa: ARG002
        """Returns what has the names of tables and takes no rows: `a sequence`, `a view`."""
        yield from ()
        return {}

    def own_keys(self, schema: str) -> Steps[list[str]]:
        """Returns the names of all keys in a schema that we made."""
        raise NotImplementedError

    def references(self, schema: str, tables: Sequence[str]) -> Steps[list[tuple[str, str]]]:  # noqa: ARG002
        """Returns which of some tables refer to which others of them by foreign keys."""
        yield from ()
        return []

    def in_the_way(self, schema: str, table: str) -> Steps[tuple[list[str], list[str]]]:  # noqa: ARG002
        """Returns statements that drop what keeps a column's type from being changed, and those that make it again."""
        yield from ()
        return [], []

    def trouble(self, error: BaseException) -> Trouble | None:
        """Returns what a driver's error means for the kit; None of any other, and of our own errors."""
        raise NotImplementedError

    def describe(self, error: BaseException) -> str:
        """Returns the driver's words."""
        raise NotImplementedError
