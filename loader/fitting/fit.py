"""Fits a shaped batch to live tables: which columns to add or widen, and rows whose names and types are exactly the table's.

    batch = shaper.take()
    fitted = fit_batch(batch, await session.describe([*batch.tables]), rules, stamp)
    live = {patch.table: await session.patch(patch) for patch in fitted.patches}
    done = fitted.finish(live)
    await session.load(plan, [ready.load for ready in done.ready])
    ... done.dead are the events refused by rules, for the dead letters

If an event is refused in one table, it leaves all tables: the batch is fitted again without it, so that no column is added for
it. If another user changed a table between `describe` and `patch`, `finish` fits again to the new state; if that needs another
patch, it raises `TableChanged`, and the caller starts over with the result of `patch`. So no row is refused because of a race.

`RowsRejected` by the destination: `ready.events[i]` is the event of row `i` of its table; `batch.dead_letters` makes the dead
letters and `batch.without` the batch to fit again, in which an older repeat of a refused row takes its place. To bisect, load
`ready.part(indexes)`.

`loader/fitting/settle.py` decides about single columns. Pure: `Stamp` has the time and the id of the load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loader.contract.warehouse import Column, TableLoad, TablePatch, TableSchema
from loader.contract.writes import BEGINNING, VALID_FROM
from loader.fitting.collapse import collapse, collapse_marked, first_of_each
from loader.fitting.settle import Refusals, Settled, settle
from loader.rows.batch import DeadEvent, RawTable, ShapedBatch
from loader.rows.rules import Rules, Stamp
from shared.errors import TableChanged
from shared.events.outcome import DeadReason


@dataclass(frozen=True, slots=True)
class Ready:
    """Rows as the destination takes them. `events[i]` is the ordinal of the event of row `i`; of collapsed rows the winner's."""

    load: TableLoad
    events: NDArray[np.int32]

    def part(self, indexes: Sequence[int]) -> Ready:
        """Returns only the rows at `indexes`."""
        chosen = np.asarray(indexes, dtype=np.int64)
        return Ready(replace(self.load, rows=self.load.rows.take(pa.array(chosen))), self.events[chosen])


@dataclass(frozen=True, slots=True)
class Fitted:
    """One table of a batch, fitted to the state `live`."""

    raw: RawTable
    rules: Rules
    stamp: Stamp
    settled: Settled
    patch: TablePatch | None

    @property
    def refused(self) -> Refusals:
        """Rows that must not be loaded, by index, with reason and detail; `ready` still has them."""
        return self.settled.refused

    @property
    def unmapped(self) -> Mapping[str, int]:
        """By column, the number of values that went to `_unmapped_data`."""
        return self.settled.unmapped

    def against(self, live: TableSchema | None) -> Fitted:
        """Returns the same, fitted to the table after its patch.

        Raises:
            TableChanged: the table is so different that it would have to be patched again.
        """
        if not self.rules.capabilities.evolve:
            return self
        columns, wanted = self.rules.by_key(live), self.settled.columns
        if live is not None and all(key in columns and _alike(columns[key], column) for key, column in wanted.items()):
            return replace(self, settled=replace(self.settled.renamed(columns), live=live), patch=None)
        again = fit(self.raw, live, self.rules, self.stamp)
        if live is None or again.patch is not None:
            raise TableChanged(f'table "{self.raw.name}" is not what it was patched to be; describe it and fit again')
        return again

    def ready(self) -> Ready | None:
        """Returns the rows, refused ones included; None if there are none to load."""
        return _ready(self.raw, self.settled, self.rules, self.stamp)


def _alike(found: Column, wanted: Column) -> bool:
    """Whether values that fit one column also fit another."""
    return (found.kind, found.limits, found.writable, found.owner) == (wanted.kind, wanted.limits, wanted.writable, wanted.owner)


def fit(raw: RawTable, live: TableSchema | None, rules: Rules, stamp: Stamp) -> Fitted:
    """Fits one table; `fit_batch` fits a whole batch."""
    settled = settle(raw, live, rules, stamp)
    return Fitted(raw=raw, rules=rules, stamp=stamp, settled=settled, patch=_patch(raw, live, settled, rules))


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a load. `unmapped` counts values in `_unmapped_data` by (table, column)."""

    ready: Sequence[Ready]
    dead: Sequence[DeadEvent]
    batch: ShapedBatch
    unmapped: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class FittedBatch:
    """A batch fitted to live tables; `dead` are the events that rules refused, and `batch` is the rest without them."""

    batch: ShapedBatch
    tables: Mapping[str, Fitted]
    dead: Sequence[DeadEvent]
    short: frozenset[str] = frozenset()
    """Tables without a place for some value, so that it went elsewhere or its event was refused."""

    @property
    def patches(self) -> list[TablePatch]:
        """The patches that the tables need before the load."""
        return [fitted.patch for fitted in self.tables.values() if fitted.patch is not None]

    def finish(self, live: Mapping[str, TableSchema | None]) -> Finished:
        """Returns the loads for the present tables; tables that needed no patch may be left out of `live`.

        Raises:
            TableChanged: a table changed meanwhile and needs another patch. Nothing is refused yet; fit the batch again.
        """
        now = {name: fitted.against(live[name]) if name in live else fitted for name, fitted in self.tables.items()}
        batch, tables, dead = _without_refused(self.batch, now)
        ready = [rows for rows in (fitted.ready() for fitted in tables.values()) if rows is not None]
        unmapped = Counter({(name, column): n for name, each in tables.items() for column, n in each.unmapped.items()})
        return Finished(ready, [*self.dead, *dead], batch, unmapped)


def fit_batch(batch: ShapedBatch, live: Mapping[str, TableSchema | None], rules: Rules, stamp: Stamp) -> FittedBatch:
    """Fits all tables of a batch; takes events that rules refuse out of all of them.

    `live`: every table of the batch as it is, None or missing if it does not exist.
    """
    fitted = {name: fit(raw, live.get(name), rules, stamp) for name, raw in batch.tables.items()}
    short = frozenset(name for name, each in fitted.items() if each.unmapped or each.refused)
    return FittedBatch(*_without_refused(batch, fitted), short)


def _without_refused(
    batch: ShapedBatch, tables: Mapping[str, Fitted]
) -> tuple[ShapedBatch, Mapping[str, Fitted], Sequence[DeadEvent]]:
    """Takes refused events out of all tables, again and again, until no event is refused."""
    dead: list[DeadEvent] = []
    while True:
        refused: dict[int, tuple[DeadReason, str]] = {}
        for fitted in tables.values():
            _collect(fitted.raw, fitted.refused, refused)
        if not refused:
            return batch, tables, dead
        dead.extend(batch.dead_letters(refused))
        batch = batch.without(refused)
        tables = {name: _refit(tables[name], raw) for name, raw in batch.tables.items()}


def _refit(fitted: Fitted, raw: RawTable) -> Fitted:
    return fitted if raw is fitted.raw else fit(raw, fitted.settled.live, fitted.rules, fitted.stamp)


def _collect(raw: RawTable, refusals: Refusals, into: dict[int, tuple[DeadReason, str]]) -> None:
    for row, refusal in refusals.items():
        into.setdefault(int(raw.events[row]), refusal)


def _patch(raw: RawTable, live: TableSchema | None, settled: Settled, rules: Rules) -> TablePatch | None:
    if not rules.capabilities.evolve or len(settled.refused) == len(raw):
        return None
    key = settled.key_names if rules.merges(raw.spec) else None
    history, deletes = rules.mode.write == "history", rules.mode.deleted is not None
    more = (*rules.missing_versions(live), *rules.missing_mark({*rules.by_key(live), *settled.columns}))
    if key and history:
        key = (*key, VALID_FROM)
    cursor = settled.columns[settled.newest].name if key and settled.newest else None
    if live is None:
        return TablePatch(
            raw.name, (*settled.columns.values(), *more), primary_key=key, cursor=cursor, deletes=deletes, history=history
        )
    known = [rules.namer.key(name) for name in live.primary_key]
    changed = key is not None and [rules.namer.key(name) for name in key] != known
    if key is None and live.own_key:
        key, changed = (), True  # Penstock made this key to merge rows; now it would refuse every repeat
    if not settled.add and not more and not settled.widen and not changed:
        return None
    return TablePatch(
        table=raw.name,
        add=(*settled.add, *more),
        widen=tuple(settled.widen),
        primary_key=key if changed else None,
        cursor=cursor,
        deletes=deletes,
        history=history,
    )


def _ready(raw: RawTable, settled: Settled, rules: Rules, stamp: Stamp) -> Ready | None:
    if len(settled.refused) == len(raw) or not settled.columns:
        return None
    rows = pa.table(list(settled.arrays.values()), names=[column.name for column in settled.columns.values()])
    events: NDArray[np.int32] = raw.events
    key = tuple(settled.columns[each].name for each in settled.key)
    cursor = settled.columns[settled.newest].name if settled.newest else None
    write = rules.mode.write
    marked = settled.columns.get(rules.namer.key(rules.mode.marked or "")) if rules.capabilities.marks else None
    if rules.collapses(raw.spec) and key and not settled.keyless and write != "history":
        if write == "insert_only":
            rows, kept = first_of_each(rows, key)
        elif marked is not None:
            rows, kept = collapse_marked(rows, key, cursor, marked.name)
        else:
            rows, kept = collapse(rows, key, cursor, raw.spec.entity)
        if kept is not None:
            events = events[kept]
    if not rules.merges(raw.spec):
        return Ready(TableLoad(raw.name, rows), events)
    if write == "insert_only":
        return Ready(TableLoad(table=raw.name, rows=rows, write=write, key=key), events)
    deleted = settled.columns.get(rules.namer.key(rules.mode.deleted)) if rules.mode.deleted is not None else None
    load = TableLoad(
        table=raw.name,
        rows=rows,
        write="merge",
        key=key,
        cursor=cursor,
        deleted=deleted.name if deleted else None,
        marked=marked.name if marked else None,
    )
    if write == "history":
        # a cursor without a column has been null in all rows so far
        at = BEGINNING if cursor is None and rules.discriminator is not None else stamp.loaded_at
        return Ready(replace(load, write="history", at=at), events)
    return Ready(replace(load, coalesce=raw.spec.entity and rules.capabilities.coalesce), events)
