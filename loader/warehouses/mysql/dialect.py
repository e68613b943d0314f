"""How MySQL and MariaDB write SQL, and what their catalogues say of tables. Right only on links that `connect.py` opens: under
another `sql_mode` a backslash would be a character.

DDL commits by itself, so nothing takes a patch back. A table that must change and its key change by one statement, which the server
does whole or not at all. Patches of one table wait for each other by a lock of the server. A loader that is killed between two
statements leaves a table that has a part of its new columns; the next patch adds the rest.

A change of type that the server's own conversion does not do as we need it takes a second column (`recast`): with the table locked it
is added, filled, and put in the first one's place. Until that last statement the first column is untouched.
"""

# ruff: noqa: S608 - names are quoted by the dialect
from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import ClassVar

from loader.contract.warehouse import Column, Kind
from loader.sql import ledger
from loader.sql.dialect import OF_A_COLUMN, Dialect
from loader.sql.live import LiveColumn, LiveTable
from loader.sql.steps import Ask, Hold, Run, Steps
from loader.sql.text import OWNER
from loader.types.names import lower
from loader.warehouses.mysql import catalogue
from loader.warehouses.mysql.catalogue import NUMBERED
from loader.warehouses.mysql.errors import ERRORS
from loader.warehouses.mysql.types import LONG_TEXT, bare, is_modified, types_of
from shared.errors import Permanent, TableBusy

PLACE = "\0"
"""Stands for a parameter; no name and no text has one."""
LONGEST_COMMENT = 1024
KEY_CHARACTERS = 255
"""Longest text in a key: an index of InnoDB takes 3072 bytes, three such columns."""
UNFIT = "[ \t-\r]\\Z|[\U00010000-\U0010ffff]"
"""What the servers take in no name: a blank or the end of a line at its end, and characters beyond the first plane."""
TABLE_LIMIT = 50
"""Characters of a table's name, each of which takes five bytes of the name of its file, which has 255 with its ending:
https://dev.mysql.com/doc/refman/8.4/en/identifier-mapping.html"""
WIDE = "_penstock_widened"
TRIAL = "_penstock_trial"
_TYPE = re.compile(
    r"\w+(?: (?:precision|varying|varchar|char))?(?: ?\((?:\d+(?:, ?\d+)?|'(?:[^'\\]|'')*'(?:, ?'(?:[^'\\]|'')*')*)\))?"
    r"(?: (?:unsigned|signed|zerofill|(?:character set|charset|collate) \w+))*",
    re.IGNORECASE | re.ASCII,
)
"""A type and nothing behind it: no default, no key, no other column."""


def lock_name(*parts: str) -> str:
    """Returns the name of a lock of ours, within the servers' limit of 64 characters."""
    return f"penstock.{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:40]}"


class MySQL(Dialect):
    """The SQL of one server.

    Args:
        mariadb: whether it is MariaDB.
        lock_seconds: how long a lock is waited for.
    """

    name_quote = "`"
    backslash_in_text = True
    ddl_commits = True
    sees_source = True
    alias = ""
    begin = "START TRANSACTION"
    release = ""
    now = "utc_timestamp(6)"
    moment = "datetime(6)"
    key_text: ClassVar[Mapping[str, str]] = {
        "connection": "varchar(255)", "table_name": "varchar(64)", "lane": "varchar(400)",
    }  # fmt: skip
    trouble = staticmethod(ERRORS.trouble)
    describe = staticmethod(ERRORS.describe)

    def __init__(self, *, mariadb: bool = True, lock_seconds: float = 10) -> None:
        self.collation = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
        self.types = types_of(self.collation)
        self.ledger_storage = f" ENGINE = InnoDB, DEFAULT CHARACTER SET utf8mb4, COLLATE {self.collation}"
        self._mariadb = mariadb
        self._wait = max(1, round(lock_seconds))

    def fold(self, name: str) -> str:
        """Returns a column's name as the servers compare it: without regard to case."""
        return lower(name)

    def identifier(self, name: str) -> str:
        if re.search(UNFIT, name):
            raise Permanent(f"{name!r} cannot be the name of a table or column: it ends in a blank or holds a rare character")
        return super().identifier(name)

    def parameter(self, number: int) -> str:  # noqa: ARG002
        return PLACE

    def as_text(self, expression: str) -> str:
        return expression  # ids are text, and a cast would leave their index unused

    def exact_text(self, expression: str) -> str:
        return f"CAST({expression} AS BINARY)"  # a collation may take jane for Jane

    def stored(self, schema: str, table: str, column: str) -> str:
        """Returns it by the table's own name, the only one that ON DUPLICATE KEY UPDATE knows."""
        return f"{self.qualified(schema, table)}.{self.identifier(column)}"

    def incoming(self, column: str) -> str:
        return f"VALUES({self.identifier(column)})"

    def missing(self, schema: str, table: str, column: str) -> str:
        return f"DEFAULT({self.stored(schema, table, column)})"

    def upsert(self, schema: str, table: str, key: Sequence[str], changes: Mapping[str, str], condition: str | None) -> str:
        """Returns the clause; with a condition each assignment has it, the cursor's, which it asks, last."""
        kept = changes or {key[0]: self.stored(schema, table, key[0])}
        if condition:
            kept = {name: f"IF({condition}, {value}, {self.stored(schema, table, name)})" for name, value in kept.items()}
        return "ON DUPLICATE KEY UPDATE " + ", ".join(f"{self.identifier(name)} = {value}" for name, value in kept.items())

    def same(self, one: str, other: str) -> str:
        return f"{one} <=> {other}"

    def alike(self, column: LiveColumn, stored: str, given: str) -> str:
        # what is stored of JSON and of bits is not the text that came
        if column.kind is Kind.JSON and bare(column.plain) == "json":
            given = f"CAST({given} AS json)"
        return self.same(stored, given)

    def later(self, moment: str, microseconds: str) -> str:
        return f"({moment} + INTERVAL ({microseconds}) MICROSECOND)"

    def delete_matched(self, schema: str, table: str, source: str, condition: str) -> str:
        return f"DELETE t FROM {self.qualified(schema, table)} AS t JOIN {source} ON {condition}"

    def update_matched(self, schema: str, table: str, changes: Mapping[str, str], source: str, condition: str) -> str:
        sets = ", ".join(f"t.{self.identifier(name)} = {value}" for name, value in changes.items())
        return f"UPDATE {self.qualified(schema, table)} AS t JOIN {source} ON {condition} SET {sets}"

    def aside(self, name: str) -> str:
        return self.identifier(name)

    def keep(self, name: str, query: str, key: Mapping[str, str]) -> Steps[None]:
        """Keeps rows with an index: the servers join without one row by row."""
        columns = [f"{self.identifier(each)} {native}" for each, native in key.items()]
        inside = ", ".join([*columns, f"INDEX ({self.identifiers(key)})"])
        made = f"CREATE TEMPORARY TABLE {self.aside(name)} ({inside}) ENGINE = InnoDB AS {query}"
        yield Hold(made, f"DROP TEMPORARY TABLE IF EXISTS {self.aside(name)}")

    def add_filled(self, schema: str, table: str, definitions: Mapping[str, tuple[str, str]]) -> Steps[None]:
        for name, (definition, value) in definitions.items():
            yield Run(self.alter(schema, table, [self.add_column(f"{definition} DEFAULT {value}")]))
            yield Run(self.alter(schema, table, [f"ALTER COLUMN {self.identifier(name)} SET DEFAULT NULL"]))

    def instant(self, moment: datetime) -> str:
        return f"'{moment.replace(tzinfo=None).isoformat(sep=' ')}'"

    def comment(self, schema: str, table: str, column: str, text: str) -> str:  # noqa: ARG002
        return ""

    def definition(self, column: Column, native: str, *, in_key: bool) -> str:
        short = in_key and column.native is None and column.kind in (Kind.TEXT, Kind.OTHER)
        return self._defined(column, self._key_text if short else native)

    def refuses_type(self, native: str) -> Steps[str | None]:
        if not _TYPE.fullmatch(native):
            return "it is none, or more than one"
        try:
            yield Run(f"CREATE TEMPORARY TABLE {self.identifier(TRIAL)} (c {native})")
        except Exception as error:
            if self.trouble(error) != "refused":
                raise
            return self.describe(error)
        yield Run(f"DROP TEMPORARY TABLE {self.identifier(TRIAL)}")
        return None

    def create_table(self, schema: str, table: str, parts: Iterable[str], key: Sequence[str], key_name: str) -> str:
        keys = [f"UNIQUE KEY {self.identifier(key_name)} ({self.identifiers(key)})"] if key else []
        return f"CREATE TABLE {self.qualified(schema, table)} ({', '.join([*parts, *keys])}){self.ledger_storage}"

    def create_tables(self, schema: str, making: Mapping[str, Sequence[str]]) -> Steps[None]:
        """Tries each as a temporary table before it makes the first."""
        for table, (statement, *_) in making.items():
            inside = statement.removeprefix(f"CREATE TABLE {self.qualified(schema, table)}")
            yield Run(f"CREATE TEMPORARY TABLE {self.identifier(TRIAL)}{inside}")
            yield Run(f"DROP TEMPORARY TABLE {self.identifier(TRIAL)}")
        for statement, *_ in making.values():
            yield Run(statement)

    def add_column(self, definition: str) -> str:
        return f"ADD COLUMN {definition}"

    def change_type(self, now: LiveColumn, column: Column, native: str, expression: str) -> str:  # noqa: ARG002
        numbered = now.default == NUMBERED
        fixed = (now.indexed and column.kind in (Kind.TEXT, Kind.JSON)) or (numbered and column.kind is not Kind.BIGINT)
        if fixed or not is_modified(now.kind, column.kind):
            return ""
        return f"MODIFY COLUMN {self._redefined(now, column, native)}" + (" AUTO_INCREMENT" if numbered else "")

    def recast(self, schema: str, table: str, now: LiveColumn, column: Column, native: str, expression: str) -> Steps[bool]:
        """Puts a column of the other type in the place of one; not of one in an index, which would lose it, nor of numbers given out."""
        if now.default == NUMBERED or now.indexed:
            return False
        name, wide = self.identifier(now.name), self.identifier(WIDE)
        yield from self._drop_wide(schema, table)  # of a loader that was killed
        try:
            yield Run(self.alter(schema, table, [f"ADD COLUMN {wide} {native} NULL AFTER {name}"]))
            yield Run(f"UPDATE {self.qualified(schema, table)} SET {wide} = {expression} WHERE {name} IS NOT NULL")
            changed = f"CHANGE COLUMN {wide} {self._redefined(now, column, native)}"
            yield Run(self.alter(schema, table, [f"DROP COLUMN {name}", changed]))
        except Exception as error:
            if self.trouble(error) not in OF_A_COLUMN:
                raise
            yield from self._drop_wide(schema, table)
            return False
        return True

    def rekey(self, schema: str, table: str, live: LiveTable, added: Sequence[str], name: str, key: Sequence[str]) -> str:
        changes = [self.add_column(each) for each in added]
        changes += [f"DROP KEY {self.identifier(each.name)}" for each in live.stale_keys(map(self.fold, key))]
        if name:
            there = [live.columns[folded] for folded in map(self.fold, key) if folded in live.columns]
            long = [now for now in there if now.kind is Kind.TEXT and bare(now.native).endswith("text")]
            changes += [f"MODIFY COLUMN {self._redefined(now, Column(now.name, now.kind), self._key_text)}" for now in long]
            changes.append(f"ADD UNIQUE KEY {self.identifier(name)} ({self.identifiers(key)})")
        return self.alter(schema, table, changes)

    def hold_writers(self, schema: str, table: str) -> Steps[None]:
        yield Hold(f"LOCK TABLES {self.qualified(schema, table)} WRITE", "UNLOCK TABLES")

    def make_schema(self, schema: str) -> Steps[None]:  # noqa: ARG002
        yield from ()  # a database must be there: the link is one to it

    def lock(self, schema: str, tables: Sequence[str]) -> Steps[None]:
        for name in sorted({self.literal(lock_name(schema, "table", self.fold(table))) for table in tables}):
            ((taken,),) = yield Hold(f"SELECT GET_LOCK({name}, {self._wait})", f"SELECT RELEASE_LOCK({name})")
            if taken != 1:
                raise TableBusy(
                    f'table "{tables[0]}": another loader changes it for longer than {self._wait} s; its rows wait until that ends'
                )

    def begin_load(self, schema: str, tables: Sequence[str], alone: Sequence[str] = ()) -> Steps[None]:
        """Begins it with a look at each table, so that no session can alter them. A row of the ledger is the lock of each in `alone`: a
        lock of the server would be given back before COMMIT."""
        yield Run(self.begin)
        for table in alone:
            yield Run(ledger.lock(self, schema, self.fold(table)))
        for table in sorted(set(tables)):
            yield Ask(f"SELECT 1 FROM {self.qualified(schema, table)} LIMIT 0")

    def read_columns(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, LiveTable]]:
        found: dict[str, LiveTable] = {}
        for table in dict.fromkeys(tables):
            live = yield from catalogue.read_table(self, schema, table, mariadb=self._mariadb)
            if live is not None:
                found[table] = live
        return found

    def other_things(self, schema: str, tables: Sequence[str]) -> Steps[dict[str, str]]:
        found: dict[str, str] = {}
        for table in tables:
            thing = yield from catalogue.other_thing(schema, table)
            if thing is not None:
                found[table] = thing
        return found

    def references(self, schema: str, tables: Sequence[str]) -> Steps[list[tuple[str, str]]]:
        return (yield from catalogue.references(self, schema, tables))

    @property
    def _key_text(self) -> str:
        return f"varchar({KEY_CHARACTERS}) CHARACTER SET utf8mb4 COLLATE {self.collation}"

    def _drop_wide(self, schema: str, table: str) -> Steps[None]:
        if (yield Ask(catalogue.HAS_COLUMN, (schema, table, WIDE))):
            yield Run(self.alter(schema, table, [f"DROP COLUMN {self.identifier(WIDE)}"]))

    def _redefined(self, now: LiveColumn, column: Column, native: str) -> str:
        default = None if now.default == NUMBERED else now.default
        return self._defined(Column(now.name, column.kind, column.native, owner=now.owner), native, now.nullable, default)

    def _defined(self, column: Column, native: str, nullable: bool = True, default: str | None = None) -> str:
        name, owner = self.identifier(column.name), OWNER + (column.owner or "")
        parts = [name, native, "NULL" if nullable else "NOT NULL"]
        if default is not None:
            parts.append(f"DEFAULT {default}")
        if column.owner is not None and len(owner) <= LONGEST_COMMENT:
            parts.append(f"COMMENT {self.literal(owner)}")
        if column.kind is Kind.JSON and native.startswith(LONG_TEXT):
            parts.append(f"CHECK (json_valid({name}))")
        return " ".join(parts)


SQL = MySQL()
"""For what is the same on all servers."""
