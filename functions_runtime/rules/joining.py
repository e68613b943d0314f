"""Lookups: the rows of a table by their keys, and what an event gets of them. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from shared.errors import SetupError
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason
from shared.project.lookups import Lookup, LookupUse

ROW_BYTES = 250
"""What a row takes in memory beside its key and values, about."""
SHOWN_CHARACTERS = 100
_NO_ROW = " has no row "

_decode = msgspec.json.Decoder().decode


def key_text(value: object) -> str | None:
    """Returns the text by which a value finds its row: 42, 42.0 and "42" are one. None: a value that names no row."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() | Decimal():
            if not math.isfinite(value):
                return None
            return str(int(value)) if value == int(value) else str(value)
        case None | list() | dict() | tuple():
            return None
        case _:
            return str(value)


class Table(NamedTuple):
    """The rows of a lookup as they were at one time: JSON by key.

    `repeated`: rows that another one of their key replaced. `without_key`: rows without one. `bytes`: about what they take in memory.
    """

    rows: Mapping[str, bytes]
    columns: tuple[str, ...]
    bytes: int
    repeated: int
    without_key: int

    def find(self, key: str) -> JSON | None:
        """Returns a row, a new object each time."""
        found = self.rows.get(key)
        return None if found is None else _decode(found)


class Builder:
    """Makes a table of rows, within the bounds of its lookup.

    Args:
        what: the lookup, for messages.
        names: the columns of the rows to come.

    Raises:
        SetupError: a column that the lookup names is not there.
    """

    def __init__(self, lookup: Lookup, what: str, names: Sequence[str]) -> None:
        self._lookup, self._what = lookup, what
        wanted = list(dict.fromkeys((lookup.key, *lookup.columns) if lookup.columns else names))
        absent = [name for name in (lookup.key, *wanted) if name not in names]
        if absent:
            known = ", ".join(map(str, names[:50])) or "none"
            if lookup.file is not None:  # the first line of a wrong file may be a secret
                known = f"{len(names)} others; check `file`, `format` and `key`"
            raise SetupError(f"{what} has no column {absent[0]!r}; it has {known}")
        self._key = names.index(lookup.key)
        self._places = [(name, names.index(name)) for name in wanted]
        self._rows: dict[str, bytes] = {}
        self._bytes = self._repeated = self._without_key = 0
        self._encode = msgspec.json.Encoder(enc_hook=str, decimal_format="number").encode

    def add(self, values: Sequence[Any]) -> None:
        """Adds a row.

        Raises:
            SetupError: the table is larger than its bounds.
        """
        key = key_text(values[self._key])
        if key is None:
            self._without_key += 1
            return
        row = self._encode({name: _plain(values[place]) for name, place in self._places})
        before = self._rows.get(key)
        if before is not None:
            self._repeated += 1
            self._bytes -= len(before)
        else:
            self._bytes += ROW_BYTES + len(key)
        self._rows[key] = row
        self._bytes += len(row)
        if len(self._rows) > self._lookup.max_rows:
            raise SetupError(
                f"{self._what} has more than {self._lookup.max_rows} rows; raise `max_rows`, or read fewer with a `query`"
            )
        if self._bytes > self._lookup.max_bytes:
            raise SetupError(
                f"{self._what} takes more than {int(self._lookup.max_bytes)} bytes of memory; raise `max_bytes`, or name fewer `columns`"
            )

    def made(self) -> Table:
        """Returns the table."""
        names = tuple(name for name, _ in self._places)
        return Table(self._rows, names, bytes=self._bytes, repeated=self._repeated, without_key=self._without_key)


def _plain(value: Any) -> Any:
    """Returns a value that JSON has: a decimal that a double would round becomes text, also inside of arrays and objects."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return value if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


Joins = Callable[[JSON, Callable[[JSON], object] | None], bool | Dead]
"""Adds columns to an event, as `Join` does."""


class Join:
    """What a connection adds to an event. Its tables stay the same for the events of a frame.

    Args:
        tables: of the lookups that it uses, by name.

    Raises:
        SetupError: a table has no column that it adds.
    """

    def __init__(self, uses: Sequence[LookupUse], tables: Mapping[str, Table], keys: Mapping[str, str]) -> None:
        self.missed: Counter[str] = Counter()
        """Events whose key had no row, by lookup."""
        self.uses = [_Use(use, tables[use.table], keys[use.table]) for use in uses]

    def __call__(self, event: JSON, clean: Callable[[JSON], object] | None = None) -> bool | Dead:
        """Adds columns to an event, in place; returns whether it changed, or why it is dead.

        Args:
            clean: what privacy rules do to what is added, for an event that passed them before.
        """
        changed = False
        for use in self.uses:
            key = key_text(_at(event, use.key_path))
            if key is None:
                continue
            row = use.table.find(key)
            if row is None:
                self.missed[use.name] += 1
                if use.missing == "dead_letter":
                    return Dead(DeadReason.LOOKUP_MISSING, f"lookup {use.name}{_NO_ROW}{_shown(key)} ({'.'.join(use.key_path)})")
                if use.missing == "leave_out":
                    continue
                row = {}
            added: JSON = {name: row.get(column) for column, name in use.names}
            if clean is not None:
                added = _cleaned(added, use.into_path, clean)
            _put(event, use.into_path, added)
            changed = True
        return changed


def without_key(dead: Dead) -> Dead:
    """Returns why an event is dead, without the key that has no row: privacy rules may hash or remove it, and run later."""
    table, _, shown = dead.detail.partition(_NO_ROW)
    return Dead(dead.reason, f"{table}{_NO_ROW}for its key ({shown.rpartition(' (')[2]}")


class _Use:
    def __init__(self, use: LookupUse, table: Table, key: str) -> None:
        self.name, self.table, self.missing = use.table, table, use.missing
        self.key_path, self.into_path = use.key_path, use.into_path
        columns = use.columns or [name for name in table.columns if name != key]
        self.names = list(columns.items()) if isinstance(columns, dict) else [(name, name) for name in columns]
        for column, _ in self.names:
            if column not in table.columns:
                raise SetupError(f"lookup {use.table} has no column {column!r}; it has: {', '.join(table.columns)}")


def _at(event: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(event, dict):
            return None
        event = event.get(key)
    return event


def _put(event: JSON, path: Sequence[str], added: JSON) -> None:
    """Sets members of the object at a path; what is no object on the way gives way."""
    for key in path:
        inner = event.get(key)
        if not isinstance(inner, dict):
            inner = event[key] = {}
        event = inner
    event.update(added)


def _cleaned(added: JSON, path: Sequence[str], clean: Callable[[JSON], object]) -> JSON:
    alone: JSON = {}
    _put(alone, path, added)
    clean(alone)
    found = _at(alone, path)
    return found if isinstance(found, dict) else {}


def _shown(key: str) -> str:
    return repr(key if len(key) <= SHOWN_CHARACTERS else f"{key[:SHOWN_CHARACTERS]}…")
