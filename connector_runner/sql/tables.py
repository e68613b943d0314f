"""Tables as a source finds them in its catalogue, and the streams that they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from connector_runner.contract import Stream, StreamName, SyncMode

Kind = Literal["boolean", "integer", "decimal", "double", "date", "time", "moment", "text", "bytes", "json", "list", "object"]
"""The meaning of a column, whatever the database calls its type. `moment`: a date with a time; `json`: any JSON."""

_SCHEMAS: Mapping[Kind, Mapping[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "decimal": {"type": "number"},
    "double": {"type": "number"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "moment": {"type": "string", "format": "date-time"},
    "text": {"type": "string"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
    "json": {},
    "list": {"type": "array"},
    "object": {"type": "object"},
}
_CHANGED = re.compile(
    r"_?(?:last_?)?(?:updated?|modified|modification|changed?)(?:_?(?:at|on|ts|time|date|datetime|timestamp))?", re.IGNORECASE
)
"""Names of columns that say when a row changed last."""


class Column(NamedTuple):
    """A column.

    `native`: its type as the database writes it. `select`: the SQL that gives its value. `nullable`: whether it may be null. `ordered`: whether
    the database compares its values as it sorts them, and gives them as exact text, so that it can be a cursor. `touched`: the
    database itself sets it whenever a row changes.
    """

    name: str
    native: str
    kind: Kind
    select: str
    nullable: bool = True
    ordered: bool = False
    touched: bool = False


class Table(NamedTuple):
    """A table or view. `source`: as it stands behind FROM. `key`: columns of its primary key. `rows`, `bytes`: as many as the database guesses."""

    name: StreamName
    source: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    rows: int | None = None
    bytes: int | None = None

    def column(self, name: str) -> Column | None:
        """Returns a column by its name; None if the table has none of it."""
        return next((each for each in self.columns if each.name == name), None)


def stream_of(table: Table) -> Stream:
    """Returns a table as a stream. It can be read incrementally by each column that can be a cursor; one is proposed if there is a column
    that says by its name or its definition when a row changed last."""
    modes: tuple[SyncMode, ...] = (
        ("full_refresh", "incremental") if any(each.ordered for each in table.columns) else ("full_refresh",)
    )
    cursor = _proposed(table.columns)
    return Stream(
        name=table.name.name,
        namespace=table.name.namespace,
        json_schema=json_schema(table.columns),
        modes=modes,
        cursor=(cursor,) if cursor else (),
        primary_key=tuple((name,) for name in table.key),
    )


def json_schema(columns: Sequence[Column]) -> dict[str, Any]:
    """Returns the JSON Schema of rows with these columns."""
    return {"type": "object", "properties": {each.name: _schema(each) for each in columns}}


def _schema(column: Column) -> dict[str, Any]:
    schema = dict(_SCHEMAS[column.kind])
    if column.nullable and "type" in schema:
        schema["type"] = ["null", schema["type"]]
    return schema


def _proposed(columns: Sequence[Column]) -> str | None:
    times = [each for each in columns if each.ordered and each.kind == "moment"]
    named = (each.name for each in times if each.touched or _CHANGED.fullmatch(each.name))
    return next(named, None)
