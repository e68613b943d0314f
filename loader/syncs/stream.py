"""The work on one stream of a batch, and on tables that others hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from loader.contract.warehouse import Emptied, TableLoad, TablePatch, TableSchema
from loader.fitting.fit import Ready
from loader.rows.batch import ShapedBatch
from loader.rows.rules import Stamp
from loader.syncs.shape import Refused, Shaped
from shared.backoff import Backoff
from shared.syncs.progress import Kept, StreamProgress

BUSY_TRIES = 6
BUSY_SECONDS = (0.5, 15.0)
"""How often a table that others hold is tried before its stream fails, and the waits between."""


@dataclass(slots=True)
class Stream:
    """The work on one stream of a batch. `left`: its rows that may still be loaded. `dead`: rows that are refused so far."""

    shaped: Shaped
    known: StreamProgress
    left: ShapedBatch | None
    kept: Kept | None = None
    """What its state rests on."""
    dead: Refused = field(default_factory=dict)
    buried: set[int] = field(default_factory=set)
    unmapped: int = 0
    failed: str = ""
    repeated: bool = False
    marked: bool = False
    """Whether the batch leaves a mark for its table."""
    empty: int = 0
    """Rows without any value, which no table can hold."""
    refusals: int = 0

    @property
    def table(self) -> str:
        """The name of its table."""
        return self.shaped.table

    @property
    def lost(self) -> str:
        """Why its rows must not be loaded before a person says what becomes of the missing ones; empty: they may."""
        return self.kept.lost if self.kept is not None and self.kept.serves(self.shaped.stored) else ""

    @property
    def must_exist(self) -> bool:
        """Whether its table has rows that its state rests on."""
        kept = self.kept
        return kept is not None and bool(kept.batch) and not self.replaces and kept.table == self.table

    @property
    def goes_on(self) -> bool:
        """Whether its rows are still to be loaded."""
        return not self.failed and not self.repeated

    @property
    def replaces(self) -> bool:
        """Whether its rows replace all others."""
        return self.shaped.stream.write == "replace"

    @property
    def ends(self) -> bool:
        """Whether its table is swapped with this batch."""
        return self.replaces and self.shaped.over and self.shaped.complete

    def refuse(self, refused: Refused) -> None:
        """Leaves out rows."""
        self.dead |= refused
        if self.left is not None:
            self.left = self.left.without(refused)
            self.left = self.left if self.left.tables else None


@dataclass(slots=True)
class Busy:
    """Tables of a batch that others hold: how often each was tried, and the next wait."""

    tries: Counter[str] = field(default_factory=Counter)
    wait: Backoff = field(default_factory=lambda: Backoff(*BUSY_SECONDS))


_NO_EVENTS = np.empty(0, dtype=np.int32)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EMPTYING = ("merge", "history")
"""The ways to write that take it; appended rows stay, and so do rows that are inserted once."""


def empties(shaped: Shaped) -> bool:
    """Whether older rows of a stream's table go, or are marked."""
    return shaped.emptied is not None and shaped.stream.write in EMPTYING


def emptying(shaped: Shaped, live: TableSchema | None, rows: Ready | None, stamp: Stamp) -> Ready | None:
    """Returns the load of a stream with what becomes of older rows; None: there is nothing to load.

    Args:
        live: its table; None: there is none.
        rows: its rows; None: it has none.
    """
    said, rules = shaped.emptied, shaped.rules
    if said is None or live is None or not empties(shaped):
        return rows
    names = {key: column.name for key, column in rules.by_key(live).items()}
    cursor = names.get(rules.namer.key(rules.discriminator or ""))
    if cursor is None:  # no row of changes was ever loaded
        return rows
    history = shaped.stream.write == "history"
    marked = names.get(rules.namer.key(rules.mode.marked)) if rules.mode.marked is not None else None
    at = stamp.loaded_at if history else _EPOCH + timedelta(microseconds=said.at)
    emptied = Emptied(said.before, at, None if history else marked)
    if rows is None:
        rows = Ready(
            TableLoad(shaped.table, pa.table({}), write="history" if history else "merge", cursor=cursor, at=stamp.loaded_at),
            _NO_EVENTS,
        )
    return replace(rows, load=replace(rows.load, cursor=cursor, emptied=emptied))


def mark_patch(shaped: Shaped, live: TableSchema | None) -> list[TablePatch]:
    """Returns the patch of a table that lacks the column of marks, where a stream has no rows that would bring it."""
    if not empties(shaped) or live is None or shaped.stream.write != "merge" or shaped.batch is not None:
        return []
    missing = shaped.rules.missing_mark(shaped.rules.by_key(live))
    return [TablePatch(shaped.table, add=missing)] if missing else []
