"""Loads rows of one table that wait in no queue: `penstock load`.

The rows come in numbered batches, always cut the same way. A load has a token; its batches are a lane of their own in the destination's
ledger. So a load that was cut off goes on behind its last batch when it is started again with the same token, and a load that was
finished changes nothing. Where a destination has no ledger, a batch overwrites itself, or is known by its token.

A full refresh (`replace`) begins from its first batch each time, and swaps at its last.

An error of the destination is raised at once: a person waits, and starts it again.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from loader.contract.warehouse import Capabilities, LoadPlan, Part, Session, TableLoad, TableSchema
from loader.contract.writes import Write
from loader.fitting.fit import Finished, fit_batch
from loader.rows.given import Rows, shape_rows
from loader.rows.rules import AS_EVENTS, Mode, Rules, Stamp
from shared.errors import ConfigError, Permanent, Problem, RowsRejected, TableChanged, Transient
from shared.project.model import Connection

MOST_ROUNDS = 10
"""How often a batch is fitted again because another user changed the table."""
SHOWN_ROWS = 5
WITH_KEY = ("merge", "insert_only", "history")
"""The ways to write that need a key."""


@dataclass(frozen=True, slots=True)
class RowsWanted:
    """What to load.

    `key`: columns that identify a row, for all ways to write but `append`. `cursor`: the column whose largest value wins, and the time
    of a version. `deleted`: the column that rows have a value in which are deletions; for `merge` and `history`.
    """

    table: str
    token: str
    write: Write = "append"
    key: Sequence[str] = ()
    cursor: str | None = None
    column_types: Mapping[str, str] = field(default_factory=dict)
    deleted: str | None = None

    @property
    def connection(self) -> str:
        """The name under which the destination's ledger has it; no connection of a project has a colon in its name."""
        return f"load:{self.table}"


class RowLoader:
    """Loads one token's batches within one session.

    Args:
        run: the number of the full refresh; it grows with each.

    Raises:
        ConfigError: the destination cannot do what is wanted.
    """

    def __init__(self, wanted: RowsWanted, session: Session, capabilities: Capabilities, run: int) -> None:
        check_wanted(wanted, capabilities)
        self._wanted = wanted
        self._session = session
        self._run = run
        self._lane = f"load-{wanted.token}"
        self._lane_of_run = f"{self._lane}-{run}"
        self._rules = rules_of(
            key=wanted.key,
            cursor=wanted.cursor,
            column_types=wanted.column_types,
            capabilities=capabilities,
            mode=mode_of(wanted.write, wanted.deleted),
        )
        self.table = self._rules.namer.table(wanted.table)
        """The table's name there."""
        self.unmapped: Counter[str] = Counter()
        """By column, how many values fitted no column and went to `_unmapped_data`."""
        self.changed: Counter[str] = Counter()
        """Values that were changed on the way, by what was changed."""

    async def loaded(self) -> float:
        """Returns the number of the last batch that is loaded, infinity if a full refresh is over; 0 if none is, or if that cannot be
        told.

        Raises:
            NotConnected, Transient, SetupError
        """
        mark = (await self._session.marks()).get((self.table, self._lane), 0)
        return math.inf if mark and self._wanted.write == "replace" else mark

    async def load(self, rows: Rows, number: int, first: int, *, last: bool) -> int:
        """Loads a batch; returns how many rows it became: repeats of a key in it are one.

        Args:
            number: of the batch, from 1.
            first: the number of its first row among all rows, from 0.
            last: whether it is the last one.

        Raises:
            Permanent: the destination refuses rows, or the table; nothing of the batch is loaded.
            NotConnected, Transient, SetupError: start the load again; the batch may be loaded or not.
        """
        rules = self._rules
        batch = shape_rows(
            rows,
            table=self.table,
            namer=rules.namer,
            first=first,
            own_columns=rules.own_columns,
            compared=rules.compared,
        )
        plan = self._plan(number, last=last)
        stamp = Stamp(datetime.now(UTC), f"{self._lane}-{number}")
        for _ in range(MOST_ROUNDS):
            try:
                live = await self._session.describe([self.table]) if self._rules.capabilities.evolve else {}
                fitted = fit_batch(batch, live, self._rules, stamp)
                patched: dict[str, TableSchema | None] = {
                    patch.table: await self._session.patch(patch) for patch in fitted.patches
                }
                done = fitted.finish(patched)
                _refuse(done)
                loads = [self._in_mode(each.load, last=last) for each in done.ready]
                report = await self._session.load(plan, loads)
            except TableChanged:
                continue
            except RowsRejected as exc:
                shown = [f"row {first + row + 1}: {why}" for row, why in list(exc.rows.items())[:SHOWN_ROWS]]
                raise Permanent(f'table "{exc.table}" refuses rows: {"; ".join(shown) or exc}') from exc
            self.unmapped.update({column: count for (_, column), count in done.unmapped.items()})
            self.changed.update(batch.notes)
            if last and self._wanted.write == "replace":
                await self._session.forget([(self.table, self._lane_of_run)])
            return report.rows.get(self.table, 0)
        raise Transient(f'table "{self.table}" kept changing for {MOST_ROUNDS} rounds; load again later')

    def _plan(self, number: int, *, last: bool) -> LoadPlan:
        """Returns the plan of a batch. A full refresh that was cut off begins again, so its parts have a lane of the run; only the
        part that swaps has the token's."""
        of_run = self._wanted.write == "replace" and not last
        return LoadPlan(self._wanted.connection, self._lane_of_run if of_run else self._lane, number, number)

    def _in_mode(self, load: TableLoad, *, last: bool) -> TableLoad:
        return as_part(load, self._run, ends=last) if self._wanted.write == "replace" else load


def mode_of(write: str, deleted: str | None, marked: str | None = None) -> Mode:
    """Returns the mode of rows that are written so.

    Args:
        deleted: the column of deletions; None: there are none.
        marked: that of deletions after which the row stays.
    """
    match write:
        case "insert_only" | "history":
            return Mode(write, deleted)
        case _:
            return Mode(None, deleted, marked)


def rules_of(
    key: Sequence[str],
    cursor: str | None,
    column_types: Mapping[str, str],
    capabilities: Capabilities,
    mode: Mode = AS_EVENTS,
) -> Rules:
    """Returns the rules of rows that are no events.

    Args:
        key: columns; with some, rows of one key become one, or versions of one.
        cursor: the column that tells which row is newer.
        column_types: SQL types of new columns.
        capabilities: of the destination.
        mode: what a connection does not say.
    """
    connection = Connection(
        site="",
        destination="",
        deduplicate=bool(key),
        primary_key=list(key) or None,
        discriminator=cursor,
        column_types=dict(column_types),
        max_columns=capabilities.max_columns,
        max_new_columns=sys.maxsize,  # a wide row uses up its own table only; values without a column go to `_unmapped_data`
    )
    return Rules(connection, capabilities, mode)


def as_part(load: TableLoad, run: int, *, ends: bool) -> TableLoad:
    """Returns rows as a part of the full refresh of this number."""
    return replace(load, write="replace", cursor=None, coalesce=False, part=Part(run, ends))


def check_wanted(wanted: RowsWanted, capabilities: Capabilities) -> None:
    """Raises if the destination cannot do what is wanted.

    Raises:
        ConfigError
    """
    write = wanted.write
    if write in WITH_KEY and not wanted.key:
        raise ConfigError([Problem("--key", f"--mode {write} needs the columns that identify a row")])
    if write == "append" and wanted.key:
        raise ConfigError([Problem("--key", "rows that are appended have no key; write --mode merge")])
    if cannot := cannot_write(write, capabilities):
        raise ConfigError([Problem("--mode", f"this destination {cannot}; write append")])
    if cannot := cannot_delete(write, capabilities) if wanted.deleted is not None else "":
        raise ConfigError([Problem("--delete-column", f"{cannot}; without it, such rows stay and are marked")])


def cannot_write(write: str, capabilities: Capabilities) -> str:
    """Returns why a destination cannot write rows so, as the rest of a sentence; empty if it can."""
    match write:
        case "append":
            return ""
        case "merge":
            return "cannot merge" if capabilities.merge == "no" else ""
        case "replace":
            return "" if capabilities.replace else "cannot replace a table"
        case "insert_only":
            return "" if capabilities.insert_only else "cannot leave rows alone that it has"
        case "history":
            return "" if capabilities.history else "cannot keep versions of rows"
        case _:
            return f"cannot write {write}"


def cannot_delete(write: str, capabilities: Capabilities) -> str:
    """Returns why no row can be deleted by rows that are written so; empty if some can."""
    if write not in ("merge", "history"):
        return "rows are deleted by merge and history only"
    return "" if write == "history" or capabilities.deletes else "this destination cannot delete rows"


def _refuse(done: Finished) -> None:
    if done.dead:
        shown = "; ".join(f"row {each.index + 1}: {each.detail}" for each in done.dead[:SHOWN_ROWS])
        raise Permanent(f"rows that do not fit: {shown}")
