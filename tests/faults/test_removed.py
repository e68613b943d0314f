"""A connection is removed under load, with its services killed around it, and added again: each life of it has an account that balances."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.forwarding.state import SiteState, StateKeeper
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import current_snapshot
from tests.faults.places import Schema
from tests.faults.project import QUICK, SITE, project, stream
from tests.support.exactly_once import settled, unbalanced
from tests.support.sender import Sender
from tests.support.stack import Stack, stack

NewSchema = Callable[[], Schema]


def amount(running: Stack, incarnation: str, *fates: str) -> float:
    """Returns how many events of a removed connection met these fates, by metrics alone."""
    labels = {"connection": "c", "incarnation": incarnation}
    return sum(running.metric("router", "account_removed_events", **labels, fate=fate) for fate in fates)


def present(running: Stack, *fates: str) -> float:
    """Returns the same of the connection that is there."""
    services = ("router", "loader")
    return sum(running.metric(service, f"account_{fate}_events", connection="c") for service in services for fate in fates)


async def begun(broker: Broker, incarnation: str) -> None:
    """Waits until a router has put events into the queue of this life."""
    async with asyncio.timeout(60):
        while True:
            state = await StateKeeper(broker, SITE).load() or SiteState()
            account = state.accounts.get("c")
            if account is not None and account.queue.endswith(incarnation) and account.forwarded:
                return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
async def test_each_life_of_a_connection_that_was_removed_under_load_balances_by_metrics_alone(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schemas = [new_schema() for _ in range(3)]
    lives: list[str] = []

    def revision(number: int, *, there: bool) -> dict[str, Any]:
        connections = {"c": stream(f"wh{number}")} if there else {}
        return project(connections, {f"wh{each}": schema.destination for each, schema in enumerate(schemas)})

    with stack(tmp_path, QUICK) as running:
        await running.apply(revision(0, there=True))
        await asyncio.to_thread(running.start_all)
        async with connect(running.nats.url, "test") as broker:
            async with Sender(running.port, chance.randrange(10**6)).running() as books:
                for number in range(len(schemas) - 1):
                    lives.append((await current_snapshot(broker)).incarnations["c"])
                    await begun(broker, lives[-1])
                    await asyncio.sleep(chance.uniform(0, 1))
                    for name in ("loader", "router")[number:]:  # the second time the loader is told while it loads
                        running.kill(name)
                    await running.apply(revision(number, there=False))
                    for name in ("loader", "router")[number:]:
                        running.start(name)
                    await running.apply(revision(number + 1, there=True))
                await asyncio.sleep(1)
            await settled(running)
            assert not await unbalanced(running)
        async with asyncio.timeout(60):
            while any(not amount(running, life, "received") or amount(running, life, "waiting") for life in lives):
                await asyncio.sleep(0.2)
        for life, schema in zip(lives, schemas, strict=False):
            rows = (await schema.rows()).get("events", Counter())
            assert amount(running, life, "delivered") == sum(rows.values()) == len(rows)
            assert amount(running, life, "received") == amount(running, life, "delivered", "dropped", "dead")
        # the life of now, by the gauges of its router and its loader, which look at what waits every two seconds
        async with asyncio.timeout(60):
            while present(running, "received") != present(running, "delivered", "dropped", "dead", "waiting"):
                await asyncio.sleep(0.2)
        assert present(running, "waiting") == 0
        assert present(running, "delivered") == sum((await schemas[-1].rows())["events"].values()) > 0
        assert books.acknowledged
