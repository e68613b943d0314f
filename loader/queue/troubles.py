"""Shows troubles with tables to operators.

A failing table has a gauge, and a problem in `/ready` with the reason, the waiting rows and the next try. If a person dropped a
table and new rows create it again, there is a warning: old rows are loaded again only if a person asks for them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from loader.queue.aside import Failing, frame_of
from loader.queue.look_back import missing_part
from loader.queue.memory import Memory
from shared.events.headers import is_live
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

MOST_TABLES = 20
"""Most tables with their own gauge: clients choose their names, so there must be a bound. All others share one gauge."""
OTHERS = "(others)"
SHOWN = 3
WARN_SECONDS = 24 * 3600.0
"""How long the warning of a dropped table lasts."""

log = logging.getLogger(__name__)


class Troubles:
    """The failing tables of one connection, as operators see them."""

    def __init__(self, connection: str, failing: Failing, telemetry: Telemetry, health: Health) -> None:
        self._connection = connection
        self._failing = failing
        self._telemetry = telemetry
        self._health = health
        self._shown: set[str] = set()

    def show(self, waiting: Mapping[str, int]) -> None:
        """Shows which tables fail now.

        Args:
            waiting: waiting rows by table. A table with waiting rows that is not known to fail will be tried in a moment.
        """
        states = self._failing.states()
        names = sorted(states)
        shown = {*names[:MOST_TABLES], *([OTHERS] if len(names) > MOST_TABLES else [])}
        for table in self._shown - shown:
            self._telemetry.forget("loader_table_failing", connection=self._connection, table=table)
        for table in shown:
            count = len(names) - MOST_TABLES if table == OTHERS else 1
            self._telemetry.gauge("loader_table_failing", count, connection=self._connection, table=table)
        self._shown = shown
        part = f"connection {self._connection}: tables"
        if not names:
            self._health.good(part)
            return
        words = [
            f'table "{name}" fails, {waiting.get(name, 0)} rows wait, next try in {states[name][1]:.0f} s: {states[name][0]}'
            for name in names[:SHOWN]
        ]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        self._health.bad(part, "; ".join([*words, *more]))

    def forget(self) -> None:
        """Removes all gauges and problems: another process has the connection, or it was removed."""
        for table in self._shown:
            self._telemetry.forget("loader_table_failing", connection=self._connection, table=table)
        self._shown = set()
        self._health.good(f"connection {self._connection}: tables")
        self._health.good(dropped_part(self._connection))
        self._health.good(missing_part(self._connection))


class DroppedTables:
    """Tables of one connection that a person dropped and that were created again; warns until a replay loads into them, or for a
    day.

    Args:
        key: maps all spellings of a table's name to one.
        memory: keeps them over restarts.
        clock: epoch seconds.
    """

    def __init__(
        self,
        connection: str,
        site: str,
        key: Callable[[str], str],
        memory: Memory,
        telemetry: Telemetry,
        health: Health,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._site = site
        self._key = key
        self._memory = memory
        self._telemetry = telemetry
        self._health = health
        self._clock = clock
        self._loaded: set[str] = set()

    def begin(self, loaded: Iterable[str]) -> None:
        """Takes the tables in the ledger, and shows earlier notes."""
        self._loaded = {self._key(table) for table in loaded}
        self._tell()

    async def creates(self, tables: Iterable[str]) -> None:
        """Notes that missing tables are about to be created.

        Raises:
            Fenced, NotConnected, Transient: they may not be noted; do not create them.
        """
        gone = {table: self._clock() for table in tables if self._key(table) in self._loaded}
        if not gone:
            return
        self._telemetry.count("loader_tables_dropped_total", len(gone), connection=self._connection)
        for table in gone:
            log.warning(
                "a table was dropped by hand, it is created again and gets new rows only",
                extra={"connection": self._connection, "table": table, "next": self._advice()},
            )
        await self._memory.note_dropped({**self._still(), **gone})
        self._tell()

    async def loads(self, lane: str, tables: Iterable[str]) -> None:
        """Notes a committed load into tables, of a lane or of rows that were aside.

        Raises:
            Fenced, NotConnected, Transient
        """
        keys = {self._key(table) for table in tables}
        self._loaded |= keys
        told, aside = self._memory.here.dropped, frame_of(lane)
        if told and not is_live(lane if aside is None else aside[0]) and any(self._key(table) in keys for table in told):
            await self._memory.note_dropped({table: at for table, at in self._still().items() if self._key(table) not in keys})
            self._tell()

    def _still(self) -> dict[str, float]:
        return {table: at for table, at in self._memory.here.dropped.items() if self._clock() - at < WARN_SECONDS}

    def _tell(self) -> None:
        names = sorted(self._still())
        part = dropped_part(self._connection)
        if not names:
            self._health.good(part)
            return
        some = ", ".join(f'"{name}"' for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        self._health.warn(part, f"dropped by hand and created again, with new rows only: {some}{more}; {self._advice()}")

    def _advice(self) -> str:
        return (
            f"older rows, as far as EVENTS keeps them, come with `penstock replay --site {self._site} --from 7d --connection "
            f"{self._connection}`; tables that rows are appended to get them twice, so choose events with --where"
        )


def dropped_part(connection: str) -> str:
    """Returns the part of `/ready` that tells of dropped tables."""
    return f"connection {connection}: dropped tables"
