"""What the servers say of their tables: columns, keys, engine, references.

Each table is asked for by its name alone: the servers look one name up and search for several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from loader.contract.warehouse import Kind
from loader.sql.dialect import Dialect
from loader.sql.live import LiveColumn, LiveKey, LiveTable
from loader.sql.steps import Ask, Steps
from loader.sql.text import owner_of
from loader.warehouses.mysql.types import kind_of, limits_of

NUMBERED = "(NULL)"
"""The default of a column with AUTO_INCREMENT: a row without a value, or with null, gets the next number."""

_PLACE = "WHERE TABLE_SCHEMA = \0 AND TABLE_NAME = \0"
_COLUMNS = (
    "column_name", "column_type", "character_set_name", "collation_name", "column_default", "extra", "generation_expression",
    "is_nullable", "column_comment",
)  # fmt: skip
_ASK_COLUMNS = f"SELECT {', '.join(_COLUMNS).upper()} FROM information_schema.COLUMNS {_PLACE} ORDER BY ORDINAL_POSITION"  # noqa: S608
_ASK_THING = f"SELECT TABLE_TYPE, ENGINE FROM information_schema.TABLES {_PLACE}"  # noqa: S608
_ASK_KEYS = (
    "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART, NON_UNIQUE FROM information_schema.STATISTICS "  # noqa: S608
    f"{_PLACE} ORDER BY INDEX_NAME, SEQ_IN_INDEX"
)
_ASK_CHECKS = {
    True: "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = \0 AND TABLE_NAME = \0",
    False: "SELECT c.CHECK_CLAUSE FROM information_schema.TABLE_CONSTRAINTS t JOIN information_schema.CHECK_CONSTRAINTS c "
    "ON c.CONSTRAINT_SCHEMA = t.CONSTRAINT_SCHEMA AND c.CONSTRAINT_NAME = t.CONSTRAINT_NAME "
    "WHERE t.TABLE_SCHEMA = \0 AND t.TABLE_NAME = \0 AND t.CONSTRAINT_TYPE = 'CHECK'",
}
"""By whether the server is MariaDB."""
_JSON = re.compile(r"\(?json_valid\(`(?P<name>(?:[^`]|``)+)`\)\)?", re.IGNORECASE)
_TABLES = frozenset(("BASE TABLE", "SYSTEM VERSIONED"))
_TRANSACTIONAL = frozenset(("innodb", "rocksdb", "ndbcluster"))

HAS_COLUMN = f"SELECT 1 FROM information_schema.COLUMNS {_PLACE} AND COLUMN_NAME = \0"  # noqa: S608


def read_table(dialect: Dialect, schema: str, table: str, *, mariadb: bool) -> Steps[LiveTable | None]:
    """Returns a table or view with its unique keys; None where nothing, or another thing, has this name."""
    kind, engine = yield from _thing(schema, table)
    if kind not in _TABLES and kind != "VIEW":
        return None
    live = LiveTable(view=kind == "VIEW", unfit=_unfit(table, kind, engine))
    clauses = [_JSON.fullmatch(_text(clause) or "") for (clause,) in (yield Ask(_ASK_CHECKS[mariadb], (schema, table)))]
    checked = {dialect.fold(match["name"].replace("``", "`")) for match in clauses if match}
    keys: dict[str, list[str]] = {}
    odd: set[str] = set()
    several: set[str] = set()
    for name, column, part, repeats in (yield Ask(_ASK_KEYS, (schema, table))):
        keys.setdefault(name, []).append(dialect.fold(column or ""))
        if int(repeats):
            several.add(name)
        elif column is None or part is not None:
            odd.add(name)
    indexed = {column for columns in keys.values() for column in columns}
    for row in (yield Ask(_ASK_COLUMNS, (schema, table))):
        named = dict(zip(_COLUMNS, map(_text, row), strict=True))
        folded = dialect.fold(named["column_name"] or "")
        live.columns[folded] = _column(dialect, named, json=folded in checked, indexed=folded in indexed, mariadb=mariadb)
    live.keys = [LiveKey(name, tuple(columns), name == "PRIMARY") for name, columns in keys.items() if name not in odd | several]
    live.odd_keys = bool(odd)
    return live


def other_thing(schema: str, table: str) -> Steps[str | None]:
    """Returns what has the name of a table and takes no rows."""
    kind, _ = yield from _thing(schema, table)
    return None if kind is None or kind in _TABLES or kind == "VIEW" else f"a {kind.lower()}"


def references(dialect: Dialect, schema: str, tables: Sequence[str]) -> Steps[list[tuple[str, str]]]:
    """Returns which of some tables refer to which others of them by foreign keys."""
    names = ", ".join(dialect.literal(table) for table in tables)
    query = (
        "SELECT DISTINCT TABLE_NAME, REFERENCED_TABLE_NAME FROM information_schema.KEY_COLUMN_USAGE "  # noqa: S608 - quoted
        "WHERE TABLE_SCHEMA = \0 AND REFERENCED_TABLE_SCHEMA = \0 "
        f"AND TABLE_NAME IN ({names}) AND REFERENCED_TABLE_NAME IN ({names}) AND TABLE_NAME <> REFERENCED_TABLE_NAME"
    )
    return [(child, parent) for child, parent in (yield Ask(query, (schema, schema)))]


def _thing(schema: str, table: str) -> Steps[tuple[str | None, str | None]]:
    found = yield Ask(_ASK_THING, (schema, table))
    return found[0] if found else (None, None)


def _unfit(table: str, kind: str, engine: str | None) -> str:
    """Returns why rows of a table cannot be taken back, and what to do; empty where they can."""
    if kind == "VIEW":
        return (
            f'"{table}" is a view, and the server does not say whether the table below it takes rows back; load into a table, or '
            "choose another name for it"
        )
    if engine is None or engine.lower() in _TRANSACTIONAL:
        return ""
    return (
        f'table "{table}" is kept by {engine}, which cannot take rows back, so a load that breaks off would be loaded twice; '
        "ALTER TABLE … ENGINE = InnoDB"
    )


def _column(dialect: Dialect, row: Mapping[str, str | None], *, json: bool, indexed: bool, mariadb: bool) -> LiveColumn:
    extra, native, charset = (row["extra"] or "").lower(), row["column_type"] or "", row["character_set_name"]
    native = native if native.startswith(("enum", "set")) else native.lower()
    kind = kind_of(native, json=json)
    text = kind in (Kind.TEXT, Kind.JSON) and charset and not native.startswith(("enum", "set"))
    return LiveColumn(
        name=row["column_name"] or "",
        native=native,
        kind=kind,
        limits=limits_of(native, charset, json=json),
        default=NUMBERED if "auto_increment" in extra else _default(dialect, row["column_default"], extra, mariadb=mariadb),
        writable=not row["generation_expression"],
        nullable=row["is_nullable"] == "YES",
        owner=owner_of(row["column_comment"]),
        indexed=indexed,
        base=f"{native} CHARACTER SET {charset} COLLATE {row['collation_name']}" if text else "",
    )


def _default(dialect: Dialect, default: str | None, extra: str, *, mariadb: bool) -> str | None:
    """Returns a default as an expression: MariaDB writes one, MySQL writes values as they are."""
    if default is None or (mariadb and default.upper() == "NULL"):
        return None
    if mariadb or default.lower().startswith("current_timestamp") or re.match(r"b'[01]+'$", default):
        return default
    return default.replace("\\'", "'") if "default_generated" in extra else dialect.literal(default)


def _text(value: Any) -> str | None:
    """Returns a value of the catalogue as text: MySQL sends some as bytes."""
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
