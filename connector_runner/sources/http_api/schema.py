"""JSON Schema of the rows of a stream, from a page of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from connector_runner.sources.http_api.fields import moment_of

MOST_ROWS = 500
MOST_COLUMNS = 1000
_DEEPEST = 4
_OF_COLUMNS: Mapping[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "timestamp": {"type": "string", "format": "date-time"},
    "json": {},
}
_decode = msgspec.json.Decoder(float_hook=float).decode
"""A number beyond a double is infinite here, and a number all the same."""


def of_columns(columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns the schema of columns that the user wrote."""
    return {"type": "object", "properties": {name: dict(_OF_COLUMNS[kind]) for name, kind in columns.items()}}


def of_rows(rows: Sequence[msgspec.Raw | bytes]) -> dict[str, Any]:
    """Returns the schema of the first rows of a page. A row that cannot be read says nothing."""
    found = []
    for row in rows[:MOST_ROWS]:
        try:
            found.append(_decode(row))
        except (msgspec.MsgspecError, RecursionError):
            continue
    return _object(found, 0)


def _object(rows: Iterable[Mapping[str, Any]], depth: int) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if name in values or len(values) < MOST_COLUMNS:
                values.setdefault(name, []).append(value)
    return {"type": "object", "properties": {name: _schema(each, depth) for name, each in values.items()}}


def _schema(values: list[Any], depth: int) -> dict[str, Any]:
    there = [each for each in values if each is not None]
    kinds = {_kind(each) for each in there}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    if not kinds:
        return {}
    if kinds == {"object"} and depth < _DEEPEST:
        return _object(there, depth + 1)
    if kinds == {"string"} and all(len(each) < 40 and moment_of(each) is not None for each in there):
        return {"type": "string", "format": "date" if all(len(each) == 10 for each in there) else "date-time"}
    return {"type": kinds.pop() if len(kinds) == 1 else sorted(kinds)}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
