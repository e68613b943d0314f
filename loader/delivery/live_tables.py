"""The tables of a destination as one session knows them: described once, created and patched when a batch needs it.

Many new tables are created in one transaction. If that fails, each is tried alone, so that a table that cannot be made holds back
only its own rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from loader.contract.warehouse import Session, TablePatch, TableSchema
from shared.errors import NotConnected, PenstockError, Permanent, SetupError, TableBusy, TableSetupError, Transient

CREATED_TOGETHER = 50
"""Most new tables of one transaction. It holds a few locks for each, and if one fails all of them go the slow way."""

OF_ONE_TABLE = (Permanent, TableSetupError, TableBusy)
"""Errors that leave the other tables of the destination alone."""

REFUSED_SECONDS = 300.0
"""How long a column that could not be added or widened is left alone."""

log = logging.getLogger(__name__)

Failed = dict[str, PenstockError]
"""Errors by table."""


class LiveTables:
    """A session's knowledge of its destination's tables.

    Args:
        session: reads and changes them.
        connection: for the log.
        evolve: whether tables have a stored schema; without one there is nothing to read.
        clock: seconds that only grow.
    """

    def __init__(self, session: Session, connection: str, *, evolve: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._connection = connection
        self._evolve = evolve
        self._clock = clock
        self._refused_at: dict[str, float] = {}
        self.known: dict[str, TableSchema | None] = {}
        """By name; None: there is no such table."""
        self.fresh: set[str] = set()
        """Tables that were read from the destination in the present delivery."""

    async def describe(self, tables: Sequence[str]) -> Failed:
        """Reads tables from the destination; returns the unreadable ones."""
        if not tables or not self._evolve:
            return {}
        failed: Failed = {}
        try:
            found = await self._session.describe(tables)
        except OF_ONE_TABLE as exc:
            if len(tables) == 1:
                failed[tables[0]] = exc
            else:
                for name in tables:
                    failed |= await self.describe([name])
        else:
            self.known |= {name: self._still_refused(name, found[name]) for name in tables}
        self.fresh.update(tables)
        return failed

    async def is_other(self, tables: Sequence[str]) -> tuple[bool, Failed]:
        """Reads tables again; returns whether one of them has changed, and the unreadable ones."""
        before = {name: self.known.get(name) for name in tables}
        failed = await self.describe(tables)
        return not failed and any(self.known.get(name) != before[name] for name in tables), failed

    async def patch(self, patches: Sequence[TablePatch]) -> tuple[dict[str, TableSchema | None], Failed]:
        """Makes tables fit; returns their new state, and the tables that cannot be made to fit."""
        new = sorted((patch for patch in patches if self.known.get(patch.table) is None), key=lambda patch: patch.table)
        patched: dict[str, TableSchema | None] = {}
        failed: Failed = {}
        for start in range(0, len(new), CREATED_TOGETHER):
            patched |= await self._create(new[start : start + CREATED_TOGETHER])
        self.known |= patched
        for patch in patches:
            if patch.table not in patched:
                try:
                    patched[patch.table] = self.known[patch.table] = await self._patch(patch)
                except OF_ONE_TABLE as exc:
                    failed[patch.table] = exc
        self.fresh.update(patched)
        return patched, failed

    async def _create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """Creates new tables together; returns none of them if one fails."""
        if len(patches) == 1:
            return {}
        try:
            return await self._session.create(patches)
        except NotConnected:
            raise
        except (Transient, SetupError, Permanent) as exc:
            log.info("new tables are created one by one", extra={"connection": self._connection, "error": str(exc)})
            return {}

    async def _patch(self, patch: TablePatch) -> TableSchema:
        known = self.known.get(patch.table)
        after = await self._session.patch(patch)
        if known is None or not known.refused:
            return after
        return replace(after, refused=after.refused | (known.refused - {column.name for column in (*patch.add, *patch.widen)}))

    def _still_refused(self, name: str, found: TableSchema | None) -> TableSchema | None:
        """Remembers columns that could not be added or widened: each try locks the table, so tries are rare."""
        known = self.known.get(name)
        if known is None or found is None or not known.refused or replace(known, refused=frozenset()) != found:
            return found
        since = self._refused_at.setdefault(name, self._clock())
        if self._clock() - since < REFUSED_SECONDS:
            return known
        del self._refused_at[name]
        return found
