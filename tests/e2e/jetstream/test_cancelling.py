"""A task that is cancelled in the very moment its answer arrives is cancelled."""

from __future__ import annotations

import asyncio
import random
import signal
from typing import Any

import psutil
import pytest
import uvloop
from nats.aio.msg import Msg
from nats.errors import FlushTimeoutError

from shared.jetstream.broker import Broker, connect
from shared.jetstream.client import HearingClient
from tests.support.nats import NatsServer


@pytest.mark.timeout(240)
async def test_no_cancellation_gets_lost_in_a_call_to_the_broker(broker: Broker) -> None:
    chance = random.Random(5)

    async def ask_for_ever() -> None:
        while True:
            await broker.js.account_info()

    async def flush_for_ever() -> None:
        while True:
            await broker.nc.flush(timeout=60)
            await asyncio.sleep(0)  # a client whose tasks have ended answers without waiting

    for _ in range(40):
        tasks = [asyncio.create_task(call()) for call in (ask_for_ever, flush_for_ever) * 10]
        for task in tasks:
            await asyncio.sleep(chance.uniform(0, 0.002))
            task.cancel()
        _, alive = await asyncio.wait(tasks, timeout=60)
        for task in alive:
            task.cancel()
        assert not alive, f"{len(alive)} tasks went on"


async def test_a_flush_that_is_given_up_does_not_cost_the_connection(broker: Broker, nats: NatsServer) -> None:
    lost = 0

    def note() -> None:
        nonlocal lost
        lost += 1

    forget = broker.on_reconnect(note)
    nats.send_signal(signal.SIGSTOP)
    stopped = psutil.Process(nats.pid)
    async with asyncio.timeout(60):
        # until all of its threads have stopped, it may still answer
        while any(psutil.Process(each.id).status() != psutil.STATUS_STOPPED for each in stopped.threads()):
            await asyncio.sleep(0.01)
    with pytest.raises(FlushTimeoutError):
        await broker.nc.flush(timeout=1)
    nats.send_signal(signal.SIGCONT)
    await broker.nc.flush(timeout=60)
    await broker.js.account_info()
    await asyncio.sleep(0.5)
    forget()
    assert lost == 0


async def test_closing_in_the_middle_of_a_reconnection_leaves_no_task_behind(nats: NatsServer) -> None:
    for pause in (0.0, 0.1, 0.2, 0.26, 0.3, 0.35):
        before = asyncio.all_tasks()
        async with connect(nats.url, "test", patience_seconds=60):
            nats.kill()
            await asyncio.sleep(0.3)
            nats.start()
            await asyncio.sleep(pause)
        async with asyncio.timeout(60):  # one that is left behind stays for ever
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0.01)


async def test_every_task_of_a_client_can_be_ended_whatever_its_close_left(nats: NatsServer) -> None:
    async def ignore(_: Msg) -> None:
        """Takes nothing."""

    before = asyncio.all_tasks()
    client = HearingClient()
    await client.connect(nats.url)
    await client.subscribe("anything", cb=ignore)
    assert len(asyncio.all_tasks() - before) >= 4
    await client.end_tasks()
    assert asyncio.all_tasks() - before == set()
    await client.close()


def test_a_transport_that_is_closed_and_not_yet_noticed_to_be_is_a_lost_connection(nats: NatsServer) -> None:
    """On the loop that services run on, which has words of its own for it."""

    async def use() -> None:
        async def ignore(_: Msg) -> None:
            """Takes nothing."""

        client = HearingClient()
        await client.connect(nats.url)
        subscription = await client.subscribe("anything", cb=ignore)
        await client.flush()
        for task in (client._flusher_task, client._reading_task, client._ping_interval_task):
            assert task is not None
            task.cancel()
        transport: Any = client._transport
        transport._io_writer.transport.abort()
        await asyncio.sleep(0.1)
        assert client.is_connected
        with pytest.raises(OSError, match="lost"):
            await client.publish("anything", b"x")
        with pytest.raises(OSError, match="lost"):
            await client.flush()
        with pytest.raises(OSError, match="lost"):
            await subscription.unsubscribe()

    uvloop.run(use())


def test_bytes_that_wait_for_a_broker_that_is_gone_do_not_end_a_close_half_way(nats: NatsServer) -> None:
    """On the loop that services run on. A service that stops while its broker is away ends in order."""

    async def use() -> None:
        async with connect(nats.url, "test", patience_seconds=60) as broker:
            nats.kill()
            async with asyncio.timeout(60):
                while broker.connected.is_set():
                    await asyncio.sleep(0.01)
            await broker.nc.publish("anything", b"x")
            assert broker.nc.pending_data_size
        assert broker.nc._subs == {}
        assert broker.nc.is_closed

    uvloop.run(use())
