"""The rows of the user's streams: as JSON, with the chosen columns only, and without those that came in an earlier read.

Standard library only; `child.py` loads it.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import hashlib
import json
import math
import re
import secrets
from collections.abc import Mapping
from typing import Any

MOST_TIES = 1000
"""Rows of one cursor value that are known again; where there are more, all of them come again."""
_MARK = f"decimal:{secrets.token_hex(8)}:"
"""Stands before a decimal number in a text of JSON until its quotes are taken off; nobody can guess it."""
_MARKED = re.compile(f'"{_MARK}([^"]*)"')
_MOMENTS: dict[str, Any] = {
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "decimal": decimal.Decimal,
}


class Progress:
    """How far a read of one stream is.

    Args:
        stream: its declaration.
        state: what the newest checkpoint kept; empty at first.
        columns: paths of the columns that are wanted; None: all.
        incremental: whether rows that came before are left out.
    """

    def __init__(self, stream: Any, state: Mapping[str, Any], columns: list[list[str]] | None, incremental: bool) -> None:
        follows = "since" in stream.takes
        self.begun = follows
        self.since = _read_value(state.get("since")) if follows else None
        self.state = {} if follows else dict(state)
        self._seen = set(state.get("seen", ())) if follows else set()
        self._path = stream.cursor.split(".") if stream.cursor else []
        self._stream = stream
        self._follows = follows and incremental
        self._newest = self.since
        self._ties: list[bytes] = []
        self._kept = sorted(self._seen)
        self._whole = True
        needed = [[*map(str, key.split("."))] for key in stream.primary_key] + ([self._path] if self._path else [])
        self._wanted = None if columns is None else _tree([*columns, *needed])
        self.names = None if self._wanted is None else list(self._wanted)

    def row(self, row: dict[str, Any]) -> bytes | None:
        """Returns a row as JSON; None if it came before.

        Raises:
            TypeError: a value has no form in JSON.
            ValueError: the rows are not in order, although they are declared so.
        """
        line = encode(row)
        if self._follows and not self._is_new(_at(row, self._path), line):
            return None
        return line if self._wanted is None else encode(_pruned(row, self._wanted))

    def table(self, given: Any) -> Any:
        """Returns an Arrow table of the rows that did not come before."""
        import pyarrow as pa

        table = pa.table(given) if hasattr(given, "__arrow_c_stream__") else pa.Table.from_batches([pa.record_batch(given)])
        if self._follows and table.num_rows:
            table = self._new_of(table)
        if self.names is not None:
            table = table.select([each for each in table.column_names if each in self.names])
        return table

    def kept(self) -> dict[str, Any]:
        """Returns the state behind the rows so far."""
        if not self.begun:
            return self.state
        seen = sorted({*self._kept, *map(_hash, self._ties)}) if self._whole else []
        return {"since": _written_value(self._newest), "seen": seen}

    def _is_new(self, value: Any, line: bytes) -> bool:
        if value is None:
            return True
        if self._stream.ordered and self._newest is not None and value < self._newest:
            words = f"{value!r} comes after {self._newest!r}; give them in order, or take `ordered` away"
            raise ValueError(f"the rows of stream {self._stream.name} are not in the order of {self._stream.cursor}: {words}")
        if self._seen and value == self.since and _hash(line) in self._seen:
            return False
        if self._newest is None or value > self._newest:
            self._newest, self._ties, self._kept, self._whole = value, [], [], True
        if value == self._newest and self._whole:
            self._ties.append(line)
            if len(self._ties) + len(self._kept) > MOST_TIES:
                self._whole, self._ties = False, []
        return True

    def _new_of(self, table: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = table.column(self._path[0])
        for key in self._path[1:]:
            column = pc.struct_field(column, key)
        values = column.to_pylist()
        lines: dict[int, bytes] = {}
        newest = max((value for value in values if value is not None), default=None)
        keep = []
        for place, value in enumerate(values):
            if value is None or (value != newest and value != self.since and not self._stream.ordered):
                keep.append(True)
                continue
            if value in (newest, self.since):
                lines[place] = encode(table.slice(place, 1).to_pylist()[0])
            keep.append(self._is_new(value, lines.get(place, b"")))
        return table if all(keep) else table.filter(pa.array(keep))


def described(stream: Any) -> dict[str, Any]:
    """Returns what a declaration says of its stream, ready for JSON."""
    return {
        "name": stream.name,
        "primary_key": [key.split(".") for key in stream.primary_key],
        "cursor": stream.cursor.split(".") if stream.cursor else [],
        "incremental": stream.incremental,
        "columns": stream.columns,
    }


def encode(row: Mapping[str, Any]) -> bytes:
    """Returns a row as JSON on one line; NaN and the infinities, which JSON lacks, become null.

    Raises:
        TypeError: a value has no form in JSON.
        ValueError: a text is no Unicode.
    """
    try:
        text = json.dumps(row, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        if "JSON compliant" not in str(error):
            raise
        text = json.dumps(_without_nan(row), default=_plain, ensure_ascii=False, separators=(",", ":"))
    if _MARK in text:
        text = _MARKED.sub(r"\1", text)
    return text.encode()


def _plain(value: Any) -> Any:
    """Returns a value that JSON has in place of one that it lacks."""
    if isinstance(value, decimal.Decimal):
        return f"{_MARK}{value}" if value.is_finite() else None
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return f"{_MARK}{decimal.Decimal(value // datetime.timedelta(microseconds=1)).scaleb(-6).normalize():f}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if type(value).__name__ in ("UUID", "PosixPath") or isinstance(value, BaseException):
        return str(value)
    if hasattr(value, "tolist"):  # of numpy
        return _without_nan(value.tolist())
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON: {str(value)[:80]!r}")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return value


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:24]


def _at(row: Any, path: list[str]) -> Any:
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _tree(paths: list[list[str]]) -> dict[str, Any]:
    """Returns paths as a tree; an empty dict stands for all below."""
    tree: dict[str, Any] = {}
    whole = {tuple(path) for path in paths}
    for path in paths:
        inner = tree
        for depth, key in enumerate(path, 1):
            inner = inner.setdefault(key, {})
            if tuple(path[:depth]) in whole:
                inner.clear()
                break
    return tree


def _pruned(value: Any, tree: dict[str, Any]) -> Any:
    if not tree:
        return value
    if isinstance(value, Mapping):
        return {key: _pruned(each, tree[key]) for key, each in value.items() if key in tree}
    if isinstance(value, (list, tuple)):
        return [_pruned(each, tree) for each in value]
    return value


def _written_value(value: Any) -> Any:
    """Returns a cursor's value for the state, with its type where JSON lacks that."""
    if isinstance(value, datetime.datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"date": value.isoformat()}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if value is None or isinstance(value, (int, str, float)):
        return value
    raise TypeError(f"a cursor of type {type(value).__name__} cannot be kept; give a number, a text, a date or a moment")


def _read_value(kept: Any) -> Any:
    if isinstance(kept, dict):
        ((kind, text),) = kept.items()
        return _MOMENTS[kind](text)
    return kept
