"""Type hints: a function's words about the columns of an event, and the SQL types that people force.

A function, never a client, may set `__sql_type_<column>` beside a key: a type, or `[type, DDL type]`. `__sql_type` inside an
object keeps that object in one piece. `JITSU_TABLE_NAME` names the table. None of these keys ever reaches a table.

A hint ends up in DDL, so it must look like a type and nothing else; other hints are left out and counted. Types in the project
file (`column_types`) are the owner's own words and are not checked here.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loader.contract.warehouse import Kind

HINTS_LEFT_OUT = "hints_left_out"
"""The note for hints that no function wrote."""

TABLE_KEY = "JITSU_TABLE_NAME"
TYPE_KEY = "__sql_type"

_MARKS = (b"__sql_type", b"JITSU_TABLE_NAME")
_TYPE = re.compile(
    r"[A-Za-z][A-Za-z0-9_]*(?: [A-Za-z][A-Za-z0-9_]*){0,4}(?: ?\( ?\d{1,5} ?(?:, ?\d{1,5} ?)?\))?(?: [A-Za-z]+){0,4}"
)

_TYPES: Mapping[Kind, tuple[str, ...]] = {
    Kind.BOOLEAN: ("boolean", "bool"),
    Kind.BIGINT: ("bigint", "int8", "int64", "integer", "int", "int4", "long", "smallint", "int2", "tinyint"),
    Kind.DOUBLE: ("double", "double precision", "float8", "float64", "float", "real", "float4"),
    Kind.DECIMAL: ("decimal(38,0)", "numeric(38,0)", "number(38,0)"),
    Kind.TIMESTAMP: ("timestamp", "timestamptz", "timestamp with time zone", "timestamp without time zone", "datetime"),
    Kind.DATE: ("date",),
    Kind.TEXT: ("text", "string", "varchar", "character varying", "nvarchar", "char", "clob"),
    Kind.JSON: ("json", "jsonb", "variant", "super"),
}
_KIND_OF = {name: kind for kind, names in _TYPES.items() for name in names}
_SIZED = (Kind.TEXT, Kind.TIMESTAMP)
"""Kinds whose types may have a length or precision: `varchar(20)`, `timestamp(3)`."""


def is_hint(key: object) -> bool:
    """Returns whether a key is a hint, which never reaches a table."""
    return type(key) is str and (key.startswith(TYPE_KEY) or key == TABLE_KEY)


def may_hold_hints(body: bytes) -> bool:
    """Returns whether an event may have hints."""
    return any(mark in body for mark in _MARKS)


def kind_of_type(native: str) -> Kind:
    """Returns the kind of an SQL type; OTHER for types whose values the warehouse should read from text itself."""
    name = re.sub(r"\s*([(),])\s*", r"\1", " ".join(native.lower().split())).replace(")", ") ").strip()
    if name in _KIND_OF:
        return _KIND_OF[name]
    kind = _KIND_OF.get(re.sub(r"\(\d+\)", "", name), Kind.OTHER)
    return kind if kind in _SIZED else Kind.OTHER


def type_of_hint(hint: Any) -> tuple[Kind, str] | None:
    """Returns the kind and the SQL type of a hint's value, None if it is not a type."""
    names = hint if isinstance(hint, list) else [hint]
    if not 1 <= len(names) <= 2 or not all(
        isinstance(name, str) and len(name) <= 100 and _TYPE.fullmatch(name) for name in names
    ):
        return None
    return kind_of_type(names[0]), names[-1]


def take_hints(event: dict[Any, Any], whole: type) -> tuple[dict[tuple[str, ...], Any], Any]:
    """Takes the hints out of an event at every depth, arrays excepted.

    Returns them by the path of their key, and the value of `JITSU_TABLE_NAME`. Objects that stay in one piece are wrapped in
    `whole`; their own hint is at their path.
    """
    hints: dict[tuple[str, ...], Any] = {}
    table = event.pop(TABLE_KEY, None)
    _take(event, (), hints, whole)
    return hints, table


def _take(mapping: dict[Any, Any], path: tuple[str, ...], hints: dict[tuple[str, ...], Any], whole: type) -> None:
    for key in [key for key in mapping if is_hint(key) and key != TYPE_KEY]:
        hint = mapping.pop(key)
        column = key.removeprefix(TYPE_KEY + "_")
        if column and column != key:
            hints[(*path, column)] = hint
    for key, value in mapping.items():
        if isinstance(value, dict):
            own = value.pop(TYPE_KEY, None)
            _take(value, (*path, key), hints, whole)
            if own is not None:
                hints[(*path, key)] = own
                mapping[key] = whole(value)
    mapping.pop(TYPE_KEY, None)


def forced_types(column_types: Mapping[str, str]) -> dict[str, tuple[Kind, str]]:
    """Returns the kinds and SQL types that a project file forces, by column."""
    return {column: (kind_of_type(native), native) for column, native in column_types.items()}
