"""Makes failing tables seen: a gauge for each, and a problem in `/ready` with the reason, the rows that wait and the next try."""

from __future__ import annotations

from collections.abc import Mapping

from loader.queue.aside import Failing
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

MOST_TABLES = 20
"""Tables with a gauge of their own; clients choose their names, so there must be a bound. The others are one."""
OTHERS = "(others)"
SHOWN = 3


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
            waiting: rows that wait, by table. A table that waits and is not known to fail will be tried in a moment.
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
        """Shows nothing any more: the connection is another process's, or gone."""
        for table in self._shown:
            self._telemetry.forget("loader_table_failing", connection=self._connection, table=table)
        self._shown = set()
        self._health.good(f"connection {self._connection}: tables")
