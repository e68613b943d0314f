"""Fits a shaped batch to live tables: which columns to add or widen, and rows whose names and types are exactly the table's.

    batch = shaper.take()
    fitted = fit_batch(batch, {name: await session.describe(name) for name in batch.tables}, rules, stamp)
    live = {patch.table: await session.patch(patch) for patch in fitted.patches}
    done = fitted.finish(live)
    await session.load(plan, [ready.load for ready in done.ready])
    ... done.dead are the events refused by rules, for the dead letters

An event refused in one table is gone from all of them: the batch without it is fitted anew, so that no column is added for it.
If somebody else changed a table between `describe` and `patch`, `finish` fits again to what is there and cannot ask for more:
values without a place go to `_unmapped_data`, and if that is missing too their event is refused.

`RowsRejected` by the destination: `ready.events[i]` is the event of row `i` of its table; `batch.dead_letters` makes the dead
letters and `batch.without` the batch to fit again, in which an older repeat of a refused row takes its place. To bisect, load
`ready.part(indexes)`.

What happens to single columns is in `loader/settle.py`. Pure: the time and the id of the load are given by `Stamp`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loader.batch import DeadEvent, RawTable, ShapedBatch
from loader.collapse import collapse
from loader.contract import TableLoad, TablePatch, TableSchema
from loader.rules import Rules, Stamp
from loader.settle import Refusals, Settled, settle
from shared.outcome import DeadReason


@dataclass(frozen=True, slots=True)
class Ready:
    """Rows as the destination takes them. `events[i]` is the ordinal of the event of row `i`, the winner where rows collapsed."""

    load: TableLoad
    events: NDArray[np.int32]

    def part(self, indexes: Sequence[int]) -> Ready:
        """Returns only the rows at `indexes`."""
        chosen = np.asarray(indexes, dtype=np.int64)
        return Ready(replace(self.load, rows=self.load.rows.take(pa.array(chosen))), self.events[chosen])


@dataclass(frozen=True, slots=True)
class Fitted:
    """One table of a batch, fitted to what `live` was."""

    raw: RawTable
    rules: Rules
    stamp: Stamp
    settled: Settled
    patch: TablePatch | None

    @property
    def refused(self) -> Refusals:
        """Rows that must not be loaded, by index, with reason and detail. Refused rows are still in what `finish` returns."""
        return self.settled.refused

    @property
    def unmapped(self) -> Mapping[str, int]:
        """How many values of which column went to `_unmapped_data`."""
        return self.settled.unmapped

    def finish(self, live: TableSchema | None) -> tuple[Ready | None, Refusals]:
        """Returns the rows for the table as it is after the patch, and the rows refused because the table is not as wanted."""
        settled = self.settled
        if self.rules.capabilities.evolve:
            columns = self.rules.by_key(live)
            if any(key not in columns or columns[key].kind is not column.kind for key, column in settled.columns.items()):
                settled = settle(self.raw, live, self.rules, self.stamp, final=True)
            settled = settled.renamed(columns)
        return _ready(self.raw, settled, self.rules), settled.refused


def fit(raw: RawTable, live: TableSchema | None, rules: Rules, stamp: Stamp) -> Fitted:
    """Fits one table. See `fit_batch` for the whole of a batch."""
    settled = settle(raw, live, rules, stamp)
    return Fitted(raw, rules, stamp, settled, _patch(raw, live, settled, rules))


@dataclass(frozen=True, slots=True)
class Finished:
    """What is loaded and what is not. `unmapped` counts values in `_unmapped_data` by (table, column)."""

    ready: Sequence[Ready]
    dead: Sequence[DeadEvent]
    batch: ShapedBatch
    unmapped: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class FittedBatch:
    """A batch fitted to live tables; `dead` are the events that rules refused, and `batch` is what is left without them."""

    batch: ShapedBatch
    tables: Mapping[str, Fitted]
    dead: Sequence[DeadEvent]

    @property
    def patches(self) -> list[TablePatch]:
        """What has to change before the batch can be loaded."""
        return [fitted.patch for fitted in self.tables.values() if fitted.patch is not None]

    def finish(self, live: Mapping[str, TableSchema | None]) -> Finished:
        """Returns the loads, given the tables as they are now; tables that needed no patch may be left out of `live`."""
        batch, dead = self.batch, list(self.dead)
        tables = dict(self.tables)
        while True:
            ready: list[Ready] = []
            refused: dict[int, tuple[DeadReason, str]] = {}
            for name, fitted in tables.items():
                if name not in live and fitted.rules.capabilities.evolve:
                    rows, refusals = _ready(fitted.raw, fitted.settled, fitted.rules), fitted.refused
                else:
                    rows, refusals = fitted.finish(live.get(name))
                if rows is not None:
                    ready.append(rows)
                _collect(fitted.raw, refusals, refused)
            if not refused:
                unmapped = Counter({(name, column): n for name, each in tables.items() for column, n in each.unmapped.items()})
                return Finished(ready, dead, batch, unmapped)
            dead.extend(batch.dead_letters(refused))
            batch = batch.without(refused)
            tables = {name: _refit(tables[name], raw, live) for name, raw in batch.tables.items()}


def fit_batch(batch: ShapedBatch, live: Mapping[str, TableSchema | None], rules: Rules, stamp: Stamp) -> FittedBatch:
    """Fits all tables of a batch; events refused by rules are taken out of all of them.

    `live`: every table of the batch as it is, None or missing if it does not exist.
    """
    dead: list[DeadEvent] = []
    fitted = {name: fit(raw, live.get(name), rules, stamp) for name, raw in batch.tables.items()}
    while True:
        refused: dict[int, tuple[DeadReason, str]] = {}
        for each in fitted.values():
            _collect(each.raw, each.refused, refused)
        if not refused:
            return FittedBatch(batch, fitted, dead)
        dead.extend(batch.dead_letters(refused))
        before, batch = batch, batch.without(refused)
        fitted = {
            name: fitted[name] if raw is before.tables[name] else fit(raw, live.get(name), rules, stamp)
            for name, raw in batch.tables.items()
        }


def _refit(fitted: Fitted, raw: RawTable, live: Mapping[str, TableSchema | None]) -> Fitted:
    if raw is fitted.raw:
        return fitted
    if raw.name not in live:
        # the table needed no patch, and with fewer rows it needs none either
        settled = settle(raw, fitted.settled.live, fitted.rules, fitted.stamp)
    else:
        settled = settle(raw, live[raw.name], fitted.rules, fitted.stamp, final=True)
    return replace(fitted, raw=raw, settled=settled)


def _collect(raw: RawTable, refusals: Refusals, into: dict[int, tuple[DeadReason, str]]) -> None:
    for row, refusal in refusals.items():
        into.setdefault(int(raw.events[row]), refusal)


def _patch(raw: RawTable, live: TableSchema | None, settled: Settled, rules: Rules) -> TablePatch | None:
    if not rules.capabilities.evolve or len(settled.refused) == len(raw):
        return None
    key = settled.key_names if rules.merges(raw.spec) else None
    if live is None:
        return TablePatch(raw.name, add=tuple(settled.columns.values()), primary_key=key)
    known = [rules.namer.key(name) for name in live.primary_key]
    changed = key is not None and [rules.namer.key(name) for name in key] != known
    if not settled.add and not settled.widen and not changed:
        return None
    return TablePatch(raw.name, tuple(settled.add), tuple(settled.widen), key if changed else None)


def _ready(raw: RawTable, settled: Settled, rules: Rules) -> Ready | None:
    if len(settled.refused) == len(raw) or not settled.columns:
        return None
    rows = pa.table(list(settled.arrays.values()), names=[column.name for column in settled.columns.values()])
    events: NDArray[np.int32] = raw.events
    key = tuple(settled.columns[each].name for each in settled.key)
    if rules.collapses(raw.spec) and key and not settled.keyless:
        newest = settled.newest
        order = settled.columns[newest].name if newest and (rules.discriminator or raw.spec.entity) else None
        rows, kept = collapse(rows, key, order, raw.spec.entity)
        if kept is not None:
            events = events[kept]
    if not rules.merges(raw.spec):
        return Ready(TableLoad(raw.name, rows), events)
    cursor = settled.columns[settled.newest].name if settled.newest else None
    return Ready(TableLoad(raw.name, rows, "merge", key, cursor, raw.spec.entity), events)
