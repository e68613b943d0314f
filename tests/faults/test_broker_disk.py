"""The broker's disk is full: what was acknowledged stays, and the broker takes messages again once it has room and was restarted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shared.errors import NotConnected
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from tests.support.nats import NatsServer

MESSAGE_BYTES = 400_000
MOST_MESSAGES = 200
FULL = "no space left on device"


async def fill(broker: Broker, log: Path) -> list[int]:
    """Publishes until the broker cannot write; returns the sequences that it acknowledged."""
    stored: list[int] = []
    for number in range(MOST_MESSAGES):
        try:
            ack = await broker.publisher.publish(
                topology.events_subject("shop"), os.urandom(MESSAGE_BYTES), msg_id=str(number), deadline_seconds=3
            )
            stored.append(ack.seq)
        except NotConnected:
            if FULL in log.read_text():
                return stored
    raise AssertionError("the disk is not full")


@pytest.mark.timeout(240)
async def test_what_was_acknowledged_before_the_disk_was_full_is_there_after_a_restart(small_disk: Path) -> None:
    # JetStream wants room for the buckets; a limit above the disk is the operator's mistake
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    server = NatsServer(small_disk / "nats")
    server.max_file = 200 * 2**30
    with server:
        async with connect(server.url, "test", patience_seconds=60) as broker:
            await topology.ensure(broker, topology.TopologySettings())
            stored = await fill(broker, server.log_path)
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        server.stop()
        server.start()
        async with connect(server.url, "test", patience_seconds=60) as broker:
            state = (await broker.js.stream_info(topology.EVENTS)).state
            assert {*range(state.first_seq, state.last_seq + 1)} >= {*stored}
            ack = await broker.publisher.publish(topology.events_subject("shop"), os.urandom(MESSAGE_BYTES), msg_id="after")
            assert ack.seq == state.last_seq + 1
