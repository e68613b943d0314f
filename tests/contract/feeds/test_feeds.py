"""All kinds of feeds: each record arrives once, in the order of its partition, whatever ends or fails on the way."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any, Literal

import pytest

from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits
from shared.reading.units import ByteSize
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds.conftest import until
from tests.support.feeds import SECONDS, Journal, Lives, Side, Step, record
from tests.support.nats import NatsServer


async def test_each_record_becomes_one_event_with_its_position(
    kind: ModuleType, server: Any, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with kind.open_source(server) as source:
        lives = Lives(broker.url, source.document, telemetry)
        await source.put([record(n) for n in range(700)])
        journal = Journal(lives)
        async with lives.life() as ending:
            await journal.until(700)
            await source.put([record(n) for n in range(700, 750)])
            await journal.until(750)
            ending.set()
        assert sorted(journal.values()) == list(range(750))
        assert set(journal.ids.values()) == {1}
        assert journal.in_order()
        places = {(feed["topic"], feed["partition"], feed["offset"]) for feed in (e["context"]["feed"] for e in journal.events)}
        assert len(places) == 750
        assert all(event["type"] == "track" and event["event"] for event in journal.events)
        assert telemetry.value("feeds_records_total", feed=lives.name) == 750
        assert lives.problem == ""
        # what is committed does not come again
        await source.put([record(750)])
        async with lives.life() as ending:
            await journal.until(751)
            ending.set()
        assert set(journal.ids.values()) == {1}


STEPS: list[tuple[Literal["publish", "commit"], int, Side]] = [
    ("publish", 1, "before"),
    ("publish", 2, "behind"),
    ("commit", 1, "behind"),
    ("commit", 2, "before"),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: "-".join(map(str, step)))
async def test_a_feed_that_ends_between_two_steps_loses_and_doubles_nothing(
    step: tuple[Literal["publish", "commit"], int, Side],
    kind: ModuleType,
    server: Any,
    broker: NatsServer,
    telemetry: Telemetry,
) -> None:
    async with kind.open_source(server) as source:
        lives = Lives(broker.url, source.document, telemetry)
        await source.put([record(n) for n in range(1200)])
        death = Step(*step)
        async with lives.life(death):
            async with asyncio.timeout(SECONDS):
                await death.reached.wait()
        journal = Journal(lives)
        async with lives.life() as ending:
            await journal.until(1200)
            ending.set()
        assert sorted(journal.values()) == list(range(1200))
        assert journal.in_order() or not source.repeats_in_order


async def test_a_source_that_goes_away_is_said_and_followed_again(
    kind: ModuleType, server: Any, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with kind.open_source(server) as source:
        lives = Lives(broker.url, source.document, telemetry)
        await source.put([record(n) for n in range(100)])
        journal = Journal(lives)
        async with lives.life() as ending:
            await journal.until(100)
            await source.away()
            await until(lambda: lives.problem != "")
            await source.back()
            await source.put([record(n) for n in range(100, 200)])
            await journal.until(200)
            assert lives.problem == ""
            ending.set()
        assert sorted(journal.values()) == list(range(200))
        assert telemetry.value("feeds_errors_total", feed=lives.name) >= 1


async def test_records_that_cannot_be_read_are_dead_letters_and_their_neighbours_events(
    kind: ModuleType, server: Any, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with kind.open_source(server) as source:
        lives = Lives(broker.url, source.document, telemetry, SiteLimits(event_bytes=ByteSize(2000)))
        large = record(3, text="x" * 3000)
        await source.put([record(0), b'{"n": 1', b"\xff\xfe", record(2), large, record(4)])
        journal = Journal(lives)
        async with lives.life() as ending:
            await journal.until(3, dead=3)
            ending.set()
        assert sorted(journal.values()) == [0, 2, 4]
        assert sorted((str(letter.reason), letter.body) for letter in journal.dead) == sorted(
            [
                (DeadReason.MALFORMED_JSON, b'{"n": 1'),
                (DeadReason.MALFORMED_JSON, b"\xff\xfe"),
                (DeadReason.TOO_LARGE, large),
            ]
        )
        (detail,) = (letter.detail for letter in journal.dead if letter.reason == DeadReason.TOO_LARGE)
        assert f"has {len(large)} bytes, the limit is 2000" in detail
        assert telemetry.value("feeds_records_dead_total", feed=lives.name, reason=DeadReason.MALFORMED_JSON) == 2


@pytest.mark.parametrize(
    "kind", ["mqtt", "nats"], indirect=True
)  # Kafka's logins: test_kafka.py; the stand-in of Kinesis takes any key
async def test_a_login_that_is_refused_says_what_to_check(
    kind: ModuleType, server: Any, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with kind.open_source(server) as source:
        lives = Lives(broker.url, {**source.document, **source.wrong_login}, telemetry)
        async with lives.life():
            # the server's words may get lost with the connection that it resets; the next try has them
            await until(lambda: "login" in lives.problem or "credentials" in lives.problem)


async def test_a_topic_that_is_gone_is_said(
    kind: ModuleType, server: Any, broker: NatsServer, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connector_runner.feeds.worker.LAG_SECONDS", 0.2)
    monkeypatch.setattr("connector_runner.feeds.kinds.kafka.feed.TOPICS_SECONDS", 0.0)
    async with kind.open_source(server) as source:
        lives = Lives(broker.url, source.document, telemetry)
        await source.put([record(1)])
        journal = Journal(lives)
        async with lives.life():
            await journal.until(1)
            await source.spoil()
            await until(lambda: source.name in lives.problem)
            assert "check" in lives.problem


async def test_the_lag_is_told(kind: ModuleType, server: Any, broker: NatsServer, telemetry: Telemetry) -> None:
    async with kind.open_source(server) as source:
        lives = Lives(broker.url, source.document, telemetry)
        await source.put([record(n) for n in range(20)])
        exposed = f'feed="{lives.name}"'
        async with lives.life():
            await until(
                lambda: any(
                    line.startswith("feeds_lag_") and exposed in line for line in telemetry.exposition().decode().splitlines()
                )
            )
