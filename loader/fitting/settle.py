"""Settles the columns of one table: name, type and values, by the live table and the connection's rules.

For each column: `loader/fitting/claims.py` claims the name. If the column exists, its type rules; otherwise a type is chosen from
the values, and the column may be added or not. `loader/types/convert.py` converts the values; a value that does not convert goes
where `on_conflict` says. No value is lost: it ends in its column, in a sibling, in `_unmapped_data`, or its row is refused.

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from loader.contract.warehouse import Column, Kind, TableSchema
from loader.contract.writes import LOAD_ID, SEQUENCE
from loader.fitting.claims import Claim, claim_names
from loader.fitting.growth import crowded, first_columns, key_first
from loader.fitting.kinds import choose_kind
from loader.fitting.limits import fit_values
from loader.rows.batch import RawTable
from loader.rows.columns import Part
from loader.rows.rules import UNMAPPED, Rules, Stamp
from loader.rows.runs import Rows
from loader.types.convert import Converted, convert, json_text
from loader.types.lattice import ARROW, TIMESTAMP, join_all
from shared.events.outcome import DeadReason

Refusals = Mapping[int, tuple[DeadReason, str]]
"""Rows that must not be loaded: the reason, with the expected and the found type."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Settled:
    """The columns of a table for one batch, by key. `arrays` are as long as the table.

    `key`: keys of the columns that identify a row. `newest`: key of the column that says which of two rows is newer.
    `keyless`: some row has no value for `key`, and may still be loaded. `live`: the table it was settled against.
    """

    live: TableSchema | None
    columns: Mapping[str, Column]
    arrays: Mapping[str, pa.Array]
    add: Sequence[Column]
    widen: Sequence[Column]
    refused: Refusals
    key: tuple[str, ...]
    newest: str | None
    keyless: bool
    unmapped: Mapping[str, int] = field(default_factory=dict)

    @property
    def key_names(self) -> tuple[str, ...]:
        """The key in the columns' spelling."""
        return tuple(self.columns[key].name for key in self.key if key in self.columns)

    def renamed(self, live: Mapping[str, Column]) -> Settled:
        """Returns the same in the live table's spelling."""
        if all(live[key].name == column.name for key, column in self.columns.items()):
            return self
        return replace(self, columns={key: replace(column, name=live[key].name) for key, column in self.columns.items()})


def settle(raw: RawTable, live: TableSchema | None, rules: Rules, stamp: Stamp) -> Settled:
    """Settles a table against `live`, None if it does not exist."""
    return _Settling(raw, live, rules).run(stamp)


class _Settling:
    """The work on one table; lives for one call."""

    def __init__(self, raw: RawTable, live: TableSchema | None, rules: Rules) -> None:
        self._raw = raw
        self._schema = live
        self._live = rules.by_key(live)
        self._rules = rules
        self._stuck = {rules.namer.key(name) for name in live.refused} if live else set()
        self._evolve = rules.capabilities.evolve
        self._rows = len(raw)
        self._columns: dict[str, Column] = {}
        self._arrays: dict[str, pa.Array] = {}
        self._add: list[Column] = []
        self._widen: list[Column] = []
        self._refused: dict[int, tuple[DeadReason, str]] = {}
        self._unmapped: dict[int, dict[str, str]] = {}
        self._counts: Counter[str] = Counter()
        self._claimed: set[str] = set()
        self._layouts: dict[int, pa.Array | None] = {}
        self._kept: list[Any] = []

    def run(self, stamp: Stamp) -> Settled:
        if self._schema is None and self._evolve and not self._rules.new_tables:
            detail = (
                f'table "{self._raw.name}" does not exist and schema_policy {self._rules.policy} creates no tables; create it, or'
                " choose evolve"
            )
            self._refused = dict.fromkeys(range(self._rows), (DeadReason.SCHEMA_STRICT, detail))
            return self._settled((), None, keyless=False)
        for key, first in first_columns(self._raw.spec, self._live, self._rules) if self._may_add(own=True) else ():
            self._put(key, self._new(key, first), pa.nulls(self._rows, ARROW[first.kind]))
        claims = claim_names(self._raw, self._live, self._rules.namer)
        self._claimed = {claim.key for claim in claims}
        if self._evolve:
            free = [claim for claim in claims if self._forced(claim) is None]
            self._stuck |= crowded(free, self._live, self._rows, self._rules.max_new_columns)
        for claim in claims:
            if claim.fixed is not None:
                self._settle(claim)
        self._own_columns(stamp)
        for claim in key_first(claims, self._live, self._rules, self._raw.spec):
            if claim.fixed is None:
                self._settle(claim)
        self._settle_unmapped()
        identity, keyless = self._key()
        return self._settled(identity, self._newest(), keyless)

    def _settled(self, key: tuple[str, ...], newest: str | None, keyless: bool) -> Settled:
        return Settled(
            live=self._schema, columns=self._columns, arrays=self._arrays, add=self._add, widen=self._widen, refused=self._refused,
            key=key, newest=newest, keyless=keyless, unmapped=self._counts,
        )  # fmt: skip

    def _own_columns(self, stamp: Stamp) -> None:
        names = [name for name in (self._raw.spec.load_time,) if name]
        for name in (*names, *self._rules.system_columns):
            value: pa.Array
            if name == SEQUENCE:
                kind, value = Kind.BIGINT, pa.array(self._raw.sequences)
            elif name == LOAD_ID:
                kind, value = Kind.TEXT, pa.repeat(pa.scalar(stamp.load_id, pa.string()), self._rows)
            else:
                kind, value = Kind.TIMESTAMP, pa.repeat(pa.scalar(stamp.loaded_at, TIMESTAMP), self._rows)
            key = self._rules.namer.key(name)
            if key not in self._live and not self._may_add(own=True):
                continue  # these describe the load, not the event: without a column nothing is lost
            column = self._live.get(key) or self._new(key, Column(name, self._rules.supported(kind)))
            if not column.writable:
                continue
            values, bad = convert(value, kind, column.kind)  # rounding our own clock is no loss
            self._put(key, column, values if bad is None else pa.nulls(self._rows, ARROW[column.kind]))

    def _settle(self, claim: Claim) -> None:
        if claim.nameless:
            self._unmap(claim.name, claim.parts)
            return
        column = self._live.get(claim.key)
        if column is None:
            forced = self._forced(claim)
            if claim.key in self._stuck or not self._may_add(own=claim.fixed is not None):
                self._no_column(claim)
                return
            kind, native = forced or (self._choose_kind(claim), None)
            column = self._new(claim.key, Column(claim.name, kind, native, owner=claim.owner))
        self._fill(claim, column)

    def _fill(self, claim: Claim, column: Column, widened: bool = False) -> None:
        runs, failures = list[tuple[Rows, pa.Array]](), list[Part]()
        for part in claim.parts:
            values, bad = self._fit_values(claim, part, column)
            if bad is None:
                runs.append((part.rows, values))
                continue
            failures.append(Part(part.kind, part.rows[bad], part.values.filter(pa.array(bad))))
            if not bad.all():
                runs.append((part.rows[~bad], values.filter(pa.array(~bad))))
        if failures and not widened and self._rules.on_conflict == "widen" and self._rules.policy != "strict":
            wider = self._wider(column, failures)
            if wider is not None:
                self._widen_to(column, wider)
                self._fill(claim, wider, widened=True)
                return
        if failures:
            self._conflict(claim, column, failures)
        if column.writable:
            self._put(claim.key, column, self._whole(runs, column.kind))

    def _fit_values(self, claim: Claim, part: Part, column: Column) -> Converted:
        if claim.fixed is not None and claim.name == self._raw.spec.received and column.writable:
            return convert(part.values, part.kind, column.kind)  # like the other times of our own clock
        return fit_values(part.values, part.kind, column)

    def _whole(self, runs: list[tuple[Rows, pa.Array]], kind: Kind) -> pa.Array:
        """Puts runs of values into their rows, and nulls into the other rows."""
        if not runs:
            return pa.nulls(self._rows, ARROW[kind])
        if len(runs) == 1:
            rows, values = runs[0]
            places = self._places(rows)
        else:
            rows = np.concatenate([run[0] for run in runs])
            values = pa.concat_arrays([run[1] for run in runs])
            places = _places(rows, self._rows)
        return values if places is None else values.take(places)

    def _places(self, rows: Rows) -> pa.Array | None:
        """Remembers `_places`: the columns of one shape share their rows."""
        known = self._layouts.get(id(rows), _MISSING)
        if known is _MISSING:
            known = self._layouts[id(rows)] = _places(rows, self._rows)
            self._kept.append(rows)  # kept, so that no other object gets its id
        return known

    def _put(self, key: str, column: Column, values: pa.Array) -> None:
        self._columns[key] = column
        self._arrays[key] = values

    def _new(self, key: str, column: Column) -> Column:
        self._add.append(column)
        self._live[key] = column
        return column

    def _may_add(self, own: bool) -> bool:
        """Whether a column may be added; `own` columns, of the layout and the loader, always have room."""
        if self._schema is not None and not self._rules.new_columns:
            return False
        return own or len(self._live) < self._rules.max_columns

    def _forced(self, claim: Claim) -> tuple[Kind, str] | None:
        forced = self._rules.forced.get(claim.key)
        if forced is None and self._raw.hints:
            hints = [self._raw.hints[path] for path in claim.paths if path in self._raw.hints]
            forced = hints[0] if hints else None
        return forced

    def _choose_kind(self, claim: Claim) -> Kind:
        """Returns the kind of a new column; the claim's values may come out read as date-times."""
        if claim.fixed is not None:
            return self._rules.supported(claim.fixed.kind)
        if self._raw.spec.documents and claim.name.startswith(self._raw.spec.documents):
            return self._rules.supported(Kind.JSON)
        kind, claim.parts = choose_kind(claim.parts, self._rules.capabilities.kinds)
        return kind

    def _no_column(self, claim: Claim) -> None:
        if self._rules.policy == "strict":
            detail = (
                f'table "{self._raw.name}" has no column "{claim.name}" and schema_policy strict adds none; add it, or choose another'
                " schema_policy"
            )
            self._refuse(claim.parts, DeadReason.SCHEMA_STRICT, detail)
        else:
            self._unmap(claim.name, claim.parts)

    def _wider(self, column: Column, failures: Sequence[Part]) -> Column | None:
        if not self._rules.new_columns or not column.writable or self._rules.namer.key(column.name) in self._stuck:
            return None
        kind = join_all([column.kind, *(part.kind for part in failures)])
        if (column.kind, kind) not in self._rules.capabilities.widen:
            return None
        return Column(column.name, kind, owner=column.owner)

    def _widen_to(self, column: Column, wider: Column) -> None:
        if column in self._add:
            self._add[self._add.index(column)] = wider
        else:
            self._widen.append(wider)

    def _conflict(self, claim: Claim, column: Column, failures: Sequence[Part]) -> None:
        if self._rules.policy == "strict" or self._rules.on_conflict == "dead_letter":
            expected = (
                f'table "{self._raw.name}": column "{column.name}" is {column.native or column.kind}, expected a value that'
                " converts to it, found"
            )
            for part in failures:
                texts = json_text(part.values, part.kind).to_pylist()
                for row, text in zip(part.rows.tolist(), texts, strict=True):  # each event has its own value
                    detail = f"{expected} {part.kind} {_cut(text)}"
                    self._refused.setdefault(row, (DeadReason.TYPE_CONFLICT, detail))
            return
        for part in _by_kind(failures):
            if self._rules.on_conflict != "variant" or not self._sibling(claim, part):
                self._unmap(column.name, [part])

    def _sibling(self, claim: Claim, part: Part) -> bool:
        """Puts values into the sibling column that is named for their kind; False if there can be none."""
        name = self._rules.namer.cut(f"{claim.name}__{part.kind}")
        key = self._rules.namer.key(name)
        if key in self._claimed or key in self._columns:
            return False
        column = self._live.get(key)
        if column is None:
            if key in self._stuck or not self._may_add(own=False):
                return False
            column = self._new(key, Column(name, self._rules.supported(part.kind)))
        values, bad = fit_values(part.values, part.kind, column)
        if bad is not None:
            return False
        self._put(key, column, self._whole([(part.rows, values)], column.kind))
        return True

    def _unmap(self, name: str, parts: Sequence[Part]) -> None:
        for part in parts:
            self._counts[name] += len(part.rows)
            texts = json_text(part.values, part.kind).to_pylist()
            for row, text in zip(part.rows.tolist(), texts, strict=True):
                entries = self._unmapped.setdefault(row, {})
                label = name
                while label in entries:
                    label += "_"
                entries[label] = text

    def _settle_unmapped(self) -> None:
        if not self._unmapped:
            return
        rows = np.fromiter(self._unmapped, dtype=np.int32)
        values = pa.array([_object(entries) for entries in self._unmapped.values()], type=pa.string())
        part = Part(Kind.JSON, rows, values)
        key = self._rules.namer.key(UNMAPPED)
        column = self._live.get(key)
        if column is None:
            column = self._new(key, Column(UNMAPPED, self._rules.supported(Kind.JSON)))
        converted, bad = fit_values(values, Kind.JSON, column)
        if bad is not None:
            names = ", ".join(f'"{name}"' for name in sorted(self._counts)[:10])
            detail = f'table "{self._raw.name}": values of {names} have no column they fit, and "{UNMAPPED}" is {column.kind}, not json'
            self._refuse([part], DeadReason.TYPE_CONFLICT, detail)
            return
        self._put(key, column, self._whole([(rows, converted)], column.kind))

    def _key(self) -> tuple[tuple[str, ...], bool]:
        """Returns the keys of the existing identifying columns, and whether rows without one of them may be loaded."""
        if not self._rules.collapses(self._raw.spec):
            return (), False
        names = self._rules.key(self._raw.spec)
        keys = tuple(self._rules.namer.key(name) for name in names)
        lacking = np.zeros(self._rows, dtype=np.bool_)
        for key in keys:
            values = self._arrays.get(key)
            lacking |= True if values is None else values.is_null().to_numpy(zero_copy_only=False)
        if not lacking.any():
            return keys, False
        if not self._rules.merges(self._raw.spec):
            return tuple(key for key in keys if key in self._columns), True
        detail = (
            f'table "{self._raw.name}": no value for the primary key ({", ".join(names)}); send it, or set deduplicate: false'
        )
        for row in np.flatnonzero(lacking).tolist():
            self._refused.setdefault(row, (DeadReason.MISSING_KEY, detail))
        return keys, False

    def _newest(self) -> str | None:
        """Returns the key of the cursor column; a column of the table that the batch lacks counts as null."""
        spec = self._raw.spec
        if not self._rules.collapses(spec):
            return None
        wanted = [self._rules.discriminator] if self._rules.discriminator and not spec.entity else []
        for name in (*wanted, spec.received):
            key = self._rules.namer.key(name)
            if key in self._columns:
                return key
            if key in self._live and self._live[key].writable:
                self._put(key, self._live[key], pa.nulls(self._rows, ARROW[self._live[key].kind]))
                return key
        return None

    def _refuse(self, parts: Sequence[Part], reason: DeadReason, detail: str) -> None:
        for part in parts:
            for row in part.rows.tolist():
                self._refused.setdefault(row, (reason, detail))


_MISSING: Any = object()


def _by_kind(parts: Sequence[Part]) -> list[Part]:
    """Returns one part for each kind: paths that share a column have separate parts, but a kind has one sibling."""
    kinds: dict[Kind, list[Part]] = {}
    for part in parts:
        kinds.setdefault(part.kind, []).append(part)
    return [
        same[0]
        if len(same) == 1
        else Part(kind, np.concatenate([part.rows for part in same]), pa.concat_arrays([part.values for part in same]))
        for kind, same in kinds.items()
    ]


def _places(rows: Rows, count: int) -> pa.Array | None:
    """Returns for every row of the table the index of its value, null if it has none; None if they are in place already."""
    if len(rows) == count and (rows[1:] > rows[:-1]).all():
        return None
    indexes = np.full(count, -1, dtype=np.int32)
    indexes[rows] = np.arange(len(rows), dtype=np.int32)
    return pa.array(indexes) if len(rows) == count else pa.array(indexes, mask=indexes < 0)


def _object(entries: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{_encode(name).decode()}:{text}" for name, text in entries.items()) + "}"


def _cut(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "…"
