"""The NATS feed's own: messages that are larger than a pull, and plain subjects that come faster than they are read."""

from __future__ import annotations

from pathlib import Path

import nats
import pytest

from connector_runner.feeds.kinds import nats as plugin
from shared.events.outcome import DeadReason
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds import of_nats
from tests.contract.feeds.conftest import until
from tests.support.feeds import Journal, Lives, Step, record
from tests.support.nats import NatsServer


async def test_a_message_larger_than_a_pull_does_not_stop_the_others(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "PULL_BYTES", 100_000)
    with of_nats.server(tmp_path) as server:
        async with of_nats.open_source(server) as source:
            large = [record(n, text="x" * 200_000) for n in (1, 2)]
            await source.put([record(0), *large, record(3), record(4, text="x" * 900_000), record(5)])
            lives = Lives(broker.url, source.document, telemetry)
            journal = Journal(lives)
            async with lives.life() as ending:
                await journal.until(5, dead=1)
                ending.set()
            assert journal.values() == [0, 1, 2, 3, 5]
            assert [letter.reason for letter in journal.dead] == [DeadReason.TOO_LARGE]


async def test_plain_messages_that_come_too_fast_are_counted_as_lost(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "PLAIN_HELD", 100)
    with of_nats.server(tmp_path) as server:
        async with of_nats.open_source(server) as source:
            document = {key: value for key, value in source.document.items() if key != "stream"}
            lives = Lives(broker.url, {**document, "subjects": ["plain.>"]}, telemetry)
            stuck = Step("publish", 1, "before")
            async with lives.life(stuck):
                await until(lambda: any("feeds_lag" in line and lives.name in line for line in _lines(telemetry)))
                client = await nats.connect(server.url, user=of_nats.USER, password=of_nats.PASSWORD)
                for n in range(3000):
                    await client.publish("plain.x", record(n))
                await client.flush()
                await until(lambda: telemetry.value("feeds_records_lost_total", feed=lives.name, reason="slow") > 0)
                await client.close()


def _lines(telemetry: Telemetry) -> list[str]:
    return telemetry.exposition().decode().splitlines()
