"""What the server says of its tables: columns, keys, engine, references.

Each table is asked for by its name alone: the servers look one name up and search for several.
"""

# ruff: noqa: S608 - names are quoted by the dialect

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loader.contract.warehouse import TableSchema
from loader.sql.text import OWN_INDEX
from loader.warehouses.mysql.dialect import SQL
from loader.warehouses.mysql.types import LiveColumn, live_column
from shared.errors import TableSetupError

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

_COLUMNS = (
    "column_name",
    "column_type",
    "character_set_name",
    "collation_name",
    "column_default",
    "extra",
    "generation_expression",
    "is_nullable",
    "column_comment",
)
_JSON = re.compile(r"\(?json_valid\(`(?P<name>(?:[^`]|``)+)`\)\)?", re.IGNORECASE)
TABLES = frozenset(("BASE TABLE", "SYSTEM VERSIONED"))
TRANSACTIONAL = frozenset(("innodb", "rocksdb", "ndbcluster"))


@dataclass(frozen=True, slots=True)
class LiveKey:
    """An index. `columns`: those whole values of which are in it; `whole` is false where parts of values or expressions are too."""

    name: str
    unique: bool
    columns: tuple[str, ...]
    whole: bool = True

    @property
    def own(self) -> bool:
        """Whether we made it, so that we may replace it."""
        return self.name.startswith(OWN_INDEX)


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table, or what else has its name, as the catalogue has it. Columns by their folded names."""

    kind: str
    engine: str | None
    columns: dict[str, LiveColumn] = field(default_factory=dict)
    keys: tuple[LiveKey, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether columns and keys can be added to it."""
        return self.kind in TABLES

    def usable(self) -> list[LiveKey]:
        """Returns the unique keys over whole columns, ours first."""
        keys = [key for key in self.keys if key.unique and key.whole]
        return sorted(keys, key=lambda key: (not key.own, key.name != "PRIMARY", key.name))

    def has_key(self, wanted: Sequence[str]) -> bool:
        """Whether rows can be merged on these columns."""
        return any(_same(key.columns, wanted) for key in self.usable())

    def as_schema(self, wanted: Sequence[str] | None = None) -> TableSchema:
        """Returns it as the core knows tables; the key is `wanted` where rows can be merged on it, else ours, else any."""
        usable = self.usable()
        key = usable[0].columns if usable else ()
        if wanted and self.has_key(wanted):
            key = tuple(wanted)
        own = any(each.own for each in self.keys)
        return TableSchema({column.name: column.as_column() for column in self.columns.values()}, key, own)


def _same(columns: Sequence[str], wanted: Sequence[str]) -> bool:
    return {SQL.fold(name) for name in columns} == {SQL.fold(name) for name in wanted}


async def read_table(link: Link, schema: str, table: str) -> LiveTable | None:
    """Returns what has this name; None where nothing has."""
    place = f"TABLE_SCHEMA = {SQL.literal(schema)} AND TABLE_NAME = {SQL.literal(table)}"
    found = (await link.run(f"SELECT TABLE_TYPE, ENGINE FROM information_schema.TABLES WHERE {place}")).rows
    if not found:
        return None
    ((kind, engine),) = found
    if kind not in TABLES and kind != "VIEW":
        return LiveTable(kind, engine)
    checked = await _checked(link, schema, table)
    names = ", ".join(name.upper() for name in _COLUMNS)
    columns: dict[str, LiveColumn] = {}
    for row in (await link.run(f"SELECT {names} FROM information_schema.COLUMNS WHERE {place} ORDER BY ORDINAL_POSITION")).rows:
        named = dict(zip(_COLUMNS, (_text(value) for value in row), strict=True))
        key = SQL.fold(named["column_name"] or "")
        columns[key] = live_column(named, key in checked, link.is_mariadb)
    return LiveTable(kind, engine, columns, await _keys(link, place))


async def _checked(link: Link, schema: str, table: str) -> set[str]:
    """Returns the columns, folded, that a check holds to be JSON."""
    if link.is_mariadb:
        query = (
            "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS "
            f"WHERE CONSTRAINT_SCHEMA = {SQL.literal(schema)} AND TABLE_NAME = {SQL.literal(table)}"
        )
    else:
        query = (
            "SELECT c.CHECK_CLAUSE FROM information_schema.TABLE_CONSTRAINTS t JOIN information_schema.CHECK_CONSTRAINTS c "
            "ON c.CONSTRAINT_SCHEMA = t.CONSTRAINT_SCHEMA AND c.CONSTRAINT_NAME = t.CONSTRAINT_NAME "
            f"WHERE t.TABLE_SCHEMA = {SQL.literal(schema)} AND t.TABLE_NAME = {SQL.literal(table)} AND t.CONSTRAINT_TYPE = 'CHECK'"
        )
    clauses = [_JSON.fullmatch(_text(clause) or "") for (clause,) in (await link.run(query)).rows]
    return {SQL.fold(match["name"].replace("``", "`")) for match in clauses if match}


async def _keys(link: Link, place: str) -> tuple[LiveKey, ...]:
    rows = (
        await link.run(
            "SELECT INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS "
            f"WHERE {place} ORDER BY INDEX_NAME, SEQ_IN_INDEX"
        )
    ).rows
    keys: dict[str, LiveKey] = {}
    for name, repeats, column, part in rows:
        known = keys.get(name) or LiveKey(name, repeats == "0", ())
        whole = known.whole and column is not None and part is None
        keys[name] = LiveKey(name, known.unique, known.columns + ((column,) if column is not None else ()), whole)
    return tuple(keys.values())


async def references(link: Link, schema: str, tables: Sequence[str]) -> list[tuple[str, str]]:
    """Returns which of some tables refer to which others of them by foreign keys."""
    names = ", ".join(SQL.literal(table) for table in tables)
    rows = (
        await link.run(
            "SELECT DISTINCT TABLE_NAME, REFERENCED_TABLE_NAME FROM information_schema.KEY_COLUMN_USAGE "
            f"WHERE TABLE_SCHEMA = {SQL.literal(schema)} AND REFERENCED_TABLE_SCHEMA = {SQL.literal(schema)} "
            f"AND TABLE_NAME IN ({names}) AND REFERENCED_TABLE_NAME IN ({names}) AND TABLE_NAME <> REFERENCED_TABLE_NAME"
        )
    ).rows
    return [(str(child), str(parent)) for child, parent in rows]


def require_transactions(table: str, live: LiveTable) -> None:
    """Checks that rows of a table can be taken back.

    Raises:
        TableSetupError: they cannot; says what to do.
    """
    if live.kind == "VIEW":
        raise TableSetupError(
            f'"{table}" is a view, and the server does not say whether the table below it takes rows back; load into a table, or '
            "choose another name for it"
        )
    if live.engine is not None and live.engine.lower() not in TRANSACTIONAL:
        raise TableSetupError(
            f'table "{table}" is kept by {live.engine}, which cannot take rows back, so a load that breaks off would be loaded twice; '
            "ALTER TABLE … ENGINE = InnoDB"
        )


def _text(value: object) -> str | None:
    """Returns a value of the catalogue as text: MySQL sends some as bytes."""
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
