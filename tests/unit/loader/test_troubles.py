"""A failing table is seen while it fails, and no longer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from loader.queue.aside import Failing, aside_lane
from loader.queue.memory import Memory, Remembered
from loader.queue.troubles import MOST_TABLES, OTHERS, WARN_SECONDS, DroppedTables, Troubles
from shared.errors import Permanent
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry


class Watched:
    def __init__(self) -> None:
        self.telemetry, self.health = Telemetry("loader", ServiceSettings()), Health()
        self.failing = Failing(lambda: 0.0)
        self.troubles = Troubles("shop", self.failing, self.telemetry, self.health)

    @property
    def said(self) -> str:
        return self.health.problems.get("connection shop: tables", "")

    def gauge(self, table: str) -> float:
        return self.telemetry.value("loader_table_failing", connection="shop", table=table)


def test_a_failing_table_is_seen_until_it_works() -> None:
    watched = Watched()
    watched.failing.fails("orders", Permanent("column is gone"))
    watched.troubles.show({"orders": 7})
    assert watched.said == 'table "orders" fails, 7 rows wait, next try in 10 s: column is gone'
    assert watched.gauge("orders") == 1
    watched.failing.works("orders")
    watched.troubles.show({})
    assert watched.said == ""
    assert watched.telemetry.value("loader_table_failing") == 0


def test_a_connection_that_is_given_up_shows_nothing() -> None:
    watched = Watched()
    watched.failing.fails("orders", Permanent("no"))
    watched.troubles.show({})
    watched.troubles.forget()
    assert watched.said == ""
    assert watched.telemetry.value("loader_table_failing") == 0


def test_many_failing_tables_are_shown_in_bounds() -> None:
    watched = Watched()
    for number in range(MOST_TABLES + 5):
        watched.failing.fails(f"t{number:02}", Permanent("no"))
    watched.troubles.show({})
    assert watched.gauge(OTHERS) == 5
    assert watched.telemetry.value("loader_table_failing") == MOST_TABLES + 5
    assert watched.said.endswith(f"and {MOST_TABLES + 2} more")


class Noted:
    """A memory that forgets at the end of the test."""

    def __init__(self) -> None:
        self.here = Remembered()

    async def note_dropped(self, dropped: Mapping[str, float]) -> None:
        self.here = Remembered(dropped=dict(dropped))


async def test_a_dropped_table_is_told_over_a_restart_until_a_replay_loads_into_it_or_a_day_is_over() -> None:
    noted, watched, now = Noted(), Watched(), 0.0

    def opened() -> DroppedTables:
        memory = cast("Memory", noted)
        return DroppedTables("shop", "web", str.casefold, memory, watched.telemetry, watched.health, lambda: now)

    def said() -> str:
        return watched.health.warnings.get("connection shop: dropped tables", "")

    tables = opened()
    tables.begin(["orders"])
    await tables.creates(["views"])
    assert said() == "", "it is new"
    await tables.loads("live-1-web", ["Views", "clicks"])
    await tables.creates(["Orders", "views"])
    assert said().startswith('dropped by hand and created again, with new rows only: "Orders", "views"; ')
    assert "penstock replay --site web --from 7d --connection shop" in said()
    watched.troubles.forget()
    assert said() == ""
    tables = opened()
    tables.begin(["orders", "views"])
    await tables.loads("live-1-web", ["orders"])
    await tables.loads(aside_lane("live-1-web", 7), ["orders"])
    assert '"Orders"' in said()
    await tables.loads("replay-x", ["orders"])
    assert 'only: "views"; ' in said()
    now = WARN_SECONDS
    opened().begin(["orders", "views"])
    assert said() == ""
    assert watched.telemetry.value("loader_tables_dropped_total", connection="shop") == 2
