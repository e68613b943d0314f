"""What the server says of tables: their columns, key, engine and the settings that loads depend on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loader.contract.warehouse import Column, TableSchema
from loader.warehouses.clickhouse import statements
from loader.warehouses.clickhouse.connect import Link
from loader.warehouses.clickhouse.types import Era, bare, column_of, could_be_null

VERSION = "_penstock_version"
"""The column that a ReplacingMergeTree of ours keeps the newest row by; computed, and not part of `SELECT *`."""

VIEW_COMMENT = "penstock final rows"
"""Comments of our views begin so; only those are ever replaced."""

ASKED_TOGETHER = 20
"""Tables of one question: their names are in its URL, which proxies cut at 8 KiB."""

_KEY = re.compile(r"`((?:[^`\\]|\\.)*)`|([\w]+)")
_WORD = re.compile(r"\w+")
_ESCAPED = re.compile(r"\\(.)")
_MEANT = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WINDOW = re.compile(r"non_replicated_deduplication_window = (\d+)")
_FAMILY = re.compile(r"(Replicated|Shared)?(\w*)MergeTree")
_UNSAFE = frozenset({"Summing", "Aggregating", "Collapsing", "VersionedCollapsing", "Graphite", "Coalescing"})


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table as it is on the server."""

    name: str
    engine: str
    key: tuple[str, ...]
    """The columns of its sorting key; empty where that has expressions."""
    columns: Mapping[str, Column]
    defaults: Mapping[str, str]
    """Default expressions of columns that can be null: the server itself fills in those of the others only."""
    required: frozenset[str]
    """Columns without a default that cannot be null although their type could: the server would make up a 0 or an empty text."""
    version: str | None
    """The expression of our version column, None where it has none."""
    window: int
    """Inserts whose tokens it remembers, of a table that is not replicated."""
    checked: bool
    """Whether it has constraints."""
    comment: str

    @property
    def replaces(self) -> bool:
        """Whether rows that share a key become one."""
        return "Replacing" in self.engine

    @property
    def is_view(self) -> bool:
        """Whether it is a view of any kind."""
        return self.engine.endswith("View")

    @property
    def gives_way(self) -> bool:
        """Whether it is a view of ours, in whose place a table of that name can be made."""
        return self.engine == "View" and self.comment.startswith(VIEW_COMMENT)

    @property
    def replicated(self) -> bool:
        """Whether its servers share the tokens, which have a window of their own then."""
        return self.engine.startswith(("Replicated", "Shared"))

    @property
    def takes_tokens(self) -> bool:
        """Whether a repeated insert is dropped by its token, and no other rows are."""
        match = _FAMILY.fullmatch(self.engine)
        return match is not None and match[2] not in _UNSAFE

    @property
    def refuses(self) -> bool:
        """Whether the server may refuse a value that is within all limits: by a constraint, or when it reads text as an own type."""
        return self.checked or any(
            (column.limits is not None and column.kind.value == "other") or bare(column.native or "") == "IPv6"
            for column in self.columns.values()
        )

    def schema(self, wanted: Sequence[str] = ()) -> TableSchema:
        """Returns it as the contract describes it; the key in the order wanted where that has the same columns."""
        key = self.key if self.replaces else ()
        if wanted and set(wanted) == set(key):
            key = tuple(wanted)
        return TableSchema(self.columns, key, self.replaces and self.version is not None)


async def read_tables(link: Link, database: str, tables: Sequence[str], era: Era) -> dict[str, LiveTable]:
    """Returns those tables that exist.

    Raises:
        NotConnected, Transient, SetupError
    """
    if len(tables) > ASKED_TOGETHER:
        first, rest = tables[:ASKED_TOGETHER], tables[ASKED_TOGETHER:]
        return await read_tables(link, database, first, era) | await read_tables(link, database, rest, era)
    if not tables:
        return {}
    doing = "describing tables of"
    found = await link.fetch(doing, statements.TABLES, database=database, tables=list(tables))
    columns: dict[str, dict[str, Column]] = {row["name"]: {} for row in found}
    defaults: dict[str, dict[str, str]] = {row["name"]: {} for row in found}
    required: dict[str, set[str]] = {row["name"]: set() for row in found}
    versions: dict[str, str] = {}
    if columns:
        for row in await link.fetch(doing, statements.COLUMNS, database=database, tables=list(columns)):
            table, name, type_ = row["table"], row["name"], row["type"]
            if table not in columns:
                continue
            if name == VERSION:
                versions[table] = row["default_expression"]
                continue
            columns[table][name] = column_of(
                name=name, native=type_, comment=row["comment"], default_kind=row["default_kind"], era=era
            )
            if row["default_kind"] == "" and could_be_null(type_):
                required[table].add(name)
            if row["default_kind"] == "DEFAULT" and "Nullable(" in type_:
                defaults[table][name] = row["default_expression"]
    for table, expressions in defaults.items():
        for name, expression in list(expressions.items()):
            if set(_WORD.findall(expression)) & set(columns[table]):  # rows need not have the columns it is made of
                del expressions[name]
    return {
        name: _table(
            row=row,
            columns=columns[name],
            defaults=defaults[name],
            required=frozenset(required[name]),
            version=versions.get(name),
        )
        for row in found
        for name in (row["name"],)
    }


def _table(
    row: Mapping[str, str],
    columns: Mapping[str, Column],
    defaults: Mapping[str, str],
    required: frozenset[str],
    version: str | None,
) -> LiveTable:
    window = _WINDOW.search(row["engine_full"])
    return LiveTable(
        name=row["name"],
        engine=row["engine"],
        key=_names(row["sorting_key"], columns),
        columns=columns,
        defaults=defaults,
        required=required,
        version=version,
        window=int(window[1]) if window else 0,
        checked=str(row["checked"]) not in ("0", "False", "false"),
        comment=row["comment"],
    )


def _names(key: str, columns: Mapping[str, Column]) -> tuple[str, ...]:
    """Returns the columns of a sorting key, none where something else stands in it."""
    names = tuple(_ESCAPED.sub(_unescaped, quoted) if quoted else plain for quoted, plain in _KEY.findall(key))
    rest = _KEY.sub("", key).replace(",", "").replace(" ", "")
    return names if rest in ("", "()") and all(name in columns for name in names) else ()


def _unescaped(match: re.Match[str]) -> str:
    return _MEANT.get(match[1], match[1])
