"""A task that is cancelled in the very moment its answer arrives is cancelled."""

from __future__ import annotations

import asyncio
import random

from shared.jetstream.broker import Broker


async def test_no_cancellation_gets_lost_in_a_call_to_the_broker(broker: Broker) -> None:
    chance = random.Random(5)

    async def ask_for_ever() -> None:
        while True:
            await broker.js.account_info()

    async def flush_for_ever() -> None:
        while True:
            await broker.nc.flush(timeout=5)

    for _ in range(40):
        tasks = [asyncio.create_task(call()) for call in (ask_for_ever, flush_for_ever) * 10]
        for task in tasks:
            await asyncio.sleep(chance.uniform(0, 0.002))
            task.cancel()
        _, alive = await asyncio.wait(tasks, timeout=1)
        for task in alive:
            task.cancel()
        assert not alive, f"{len(alive)} tasks went on"
