"""A service that has not begun yet: what a signal does to it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from shared import service
from shared.reading.units import Duration
from shared.settings import ServiceSettings


async def test_a_service_that_waits_for_its_broker_stops_at_the_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.Event()

    async def never(*_: object) -> bool:
        waiting.set()
        return await asyncio.Future[bool]()

    async def main(_: service.ServiceContext) -> None:
        pytest.fail("it has no broker")

    monkeypatch.setattr(service, "_wait_for_broker", never)
    loop = asyncio.get_running_loop()
    live = asyncio.create_task(
        service._live("loader", ServiceSettings(nats_url="nats://127.0.0.1:1", drain_period=Duration(3600)), main, True)
    )
    try:
        await waiting.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait({live}, timeout=60)  # a drain would take an hour
        assert live.done()
    finally:
        live.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
