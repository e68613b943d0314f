"""Kafka against a real broker: what a consumer reads is what was sent, once, each user's events in their order, whatever happens to the link."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.delivery.sending import pace
from loader.queues.kafka import link, session
from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.support.kafka_broker import KafkaFront, Tansu, front_of
from tests.support.kafka_topics import create, ids, in_order, read
from tests.support.nats import NatsServer, nats_server
from tests.support.sending import Sending

NAMES = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(Path(tmp_path_factory.mktemp("kafka")) / "nats", sync="2m") as running:
        yield running


@pytest.fixture(scope="module")
def tansu() -> Iterator[Tansu]:
    with Tansu() as running:
        yield running


@pytest.fixture
async def front(tansu: Tansu) -> AsyncIterator[KafkaFront]:
    async with front_of(tansu) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets brokers that are away be tried again soon."""
    monkeypatch.setattr(pace, "PAUSE_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(link, "SAME_SECONDS", 0.05)
    monkeypatch.setattr(session, "OPEN_SECONDS", 3.0)


def events(first: int, count: int, users: int = 7) -> list[dict[str, Any]]:
    return [
        {
            "messageId": f"m{n}",
            "type": "track",
            "event": "é",
            "userId": f"u{n % users}",
            "n": n,
            "timestamp": "2026-01-02T03:04:05Z",
        }
        for n in range(first, first + count)
    ]


class World:
    """A connection from our broker to a topic of its own."""

    def __init__(self, server: NatsServer, front: KafkaFront, **options: Any) -> None:
        self._server = server
        self.front = front
        self.topic = f"t{next(NAMES)}"
        self._options = options

    async def __aenter__(self) -> World:
        await create(self.front.servers, self.topic)
        self._connecting = connect(self._server.url, "test", patience_seconds=60)
        self.broker = await self._connecting.__aenter__()
        await topology.ensure(self.broker, topology.TopologySettings())
        self.sending = self.another(self.topic)
        return self

    def another(self, topic: str, **options: Any) -> Sending:
        document = {"type": "kafka", "bootstrap_servers": self.front.servers, "topic": topic, "retry_delay": 0.05}
        return Sending(self.broker, f"k{next(NAMES)}", document | self._options | options)

    async def __aexit__(self, *exc: Any) -> None:
        await self._connecting.__aexit__(*exc)

    async def read(self, count: int) -> list[Any]:
        return await read(self.front.servers, self.topic, count)


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_records_are_the_events_with_key_headers_and_time(server: NatsServer, front: KafkaFront, compression: str) -> None:
    async with World(server, front, compression=compression) as world:
        for seq in (1, 2, 3):
            await world.sending.put(seq, events(20 * (seq - 1), 20))
        await world.sending.live()
        found = await world.read(60)
        assert ids(found) == Counter(f"m{n}" for n in range(60))
        assert in_order(found)
        for record in found:
            event = json.loads(record.value)
            assert record.key.decode() == event["userId"]
            assert event["event"] == "é"
            assert record.timestamp == 1767323045000
            assert dict(record.headers) == {
                "message_id": event["messageId"].encode(),
                "type": b"track",
                "site": b"shop",
                "connection": world.sending.name.encode(),
            }
        assert len({record.partition for record in found}) > 1
        counts = (await world.sending.account()).counts
        assert (counts.live, counts.delivered) == (60, 60)
        assert await world.sending.letters() == []


async def test_lost_acknowledgements_double_nothing(server: NatsServer, front: KafkaFront) -> None:
    async with World(server, front, batch_events=5) as world:
        front.lose = 3
        await world.sending.put(1, events(0, 60))
        await world.sending.live()
        assert front.lose == 0
        found = await world.read(60)
        assert ids(found) == Counter(f"m{n}" for n in range(60))
        assert in_order(found)


async def test_killed_at_any_step_nothing_is_lost_and_the_order_of_each_user_stays(server: NatsServer, front: KafkaFront) -> None:
    async with World(server, front, batch_events=4, calls_at_once=2, batch_bytes=1_000) as world:
        for kill_at in itertools.count(1):
            topic = f"{world.topic}-{kill_at}"
            await create(front.servers, topic)
            sending = world.another(topic)
            everything = events(0, 12, users=3)
            everything[5]["properties"] = {"long": "x" * 1_000}
            for seq in (1, 2):
                await sending.put(seq, everything[6 * (seq - 1) : 6 * seq])
            steps = await sending.live(kill_at)
            ended = len(steps) < kill_at
            if not ended:
                await sending.live()
            where = f"killed {steps[-1]}, step {kill_at}"
            found = await read(front.servers, topic, 11)
            assert set(ids(found)) == {f"m{n}" for n in range(12) if n != 5}, where
            assert in_order(found), where
            assert [(each.message_id, each.reason) for each in await sending.letters()] == [("m5", "too_large")], where
            counts = (await sending.account()).counts
            assert (counts.live, counts.delivered, counts.dead) == (12, 11, {"too_large": 1}), where
            assert await sending.waiting() == 0, where
            if ended:
                assert len(found) == 11, "an undisturbed life doubled a record"
                break


@pytest.mark.parametrize("how", ["refuses", "frozen"])
async def test_brokers_that_are_away_lose_nothing_and_double_nothing(server: NatsServer, front: KafkaFront, how: str) -> None:
    seen = asyncio.Event()
    front.on_produce = seen.set
    async with World(server, front, batch_events=5, timeout=60) as world:
        for seq in range(1, 5):
            await world.sending.put(seq, events(50 * (seq - 1), 50))
        living = asyncio.create_task(world.sending.live())
        await seen.wait()
        if how == "refuses":
            await front.away()
        else:
            front.vanish()
        seen.clear()
        for seq in range(5, 9):
            await world.sending.put(seq, events(50 * (seq - 1), 50))
        assert not living.done()
        if how == "refuses":
            await front.back()
        else:
            front.flow()
        await living
        found = await world.read(400)
        assert ids(found) == Counter(f"m{n}" for n in range(400))
        assert in_order(found)
        assert await world.sending.letters() == []


async def test_brokers_that_are_away_from_the_start_hold_all_events(server: NatsServer, front: KafkaFront) -> None:
    async with World(server, front) as world:
        await front.away()
        await world.sending.put(1, events(0, 30))
        steps = await world.sending.live(kill_at=8)
        assert "behind a call" in steps
        await front.back()
        await world.sending.live()
        found = await world.read(30)
        assert ids(found) == Counter(f"m{n}" for n in range(30))
        assert in_order(found)
        assert await world.sending.letters() == []


async def test_an_acknowledgement_that_never_comes_ends_the_session_and_loses_nothing(
    server: NatsServer, front: KafkaFront
) -> None:
    async with World(server, front, timeout=0.5) as world:
        front.on_produce = front.vanish
        await world.sending.put(1, events(0, 30))
        await world.sending.put(2, events(30, 30))
        living = asyncio.create_task(world.sending.live())
        counted = world.sending.telemetry.counted
        while not (counted["loader_calls_total"] >= 2 and counted["loader_call_seconds"] >= 2):
            await asyncio.sleep(0.05)
        front.on_produce = lambda: None
        front.flow()
        await living
        found = await world.read(60)
        assert set(ids(found)) == {f"m{n}" for n in range(60)}
        assert in_order(found)


async def test_an_event_chooses_its_topic_within_legal_names(server: NatsServer, front: KafkaFront) -> None:
    async with World(server, front) as world:
        topics = [f"{world.topic}.buy", f"{world.topic}.view"]
        for topic in topics:
            await create(front.servers, topic)
        sending = world.another(f"{world.topic}.{{{{ event.properties.where }}}}", batch_events=50)
        chosen = ["buy", "view", "../up", "a b", "x" * 300, "é"]
        everything = [{**event, "properties": {"where": chosen[n % 6]}} for n, event in enumerate(events(0, 36))]
        await sending.put(1, everything)
        await sending.live()
        for number, topic in enumerate(topics):
            assert ids(await read(front.servers, topic, 6)) == Counter(f"m{n}" for n in range(36) if n % 6 == number)
        letters = await sending.letters()
        assert {(each.message_id, each.reason) for each in letters} == {
            (f"m{n}", "template_failed") for n in range(36) if n % 6 > 1
        }
        assert all("a topic's name has" in each.detail for each in letters)


async def test_a_key_that_users_share_keeps_the_order_of_all_its_events(server: NatsServer, front: KafkaFront) -> None:
    async with World(server, front, key="{{ event.properties.account }}", batch_events=3) as world:
        everything = [{**event, "properties": {"account": f"a{n % 2}"}} for n, event in enumerate(events(0, 90, users=9))]
        for seq in (1, 2, 3):
            await world.sending.put(seq, everything[30 * (seq - 1) : 30 * seq])
        front.lose = 2
        await world.sending.live()
        found = await world.read(90)
        assert ids(found) == Counter(f"m{n}" for n in range(90))
        assert {record.key for record in found} == {b"a0", b"a1"}
        assert in_order(found)


async def test_values_are_rendered_skipped_and_refused_by_a_template(server: NatsServer, front: KafkaFront) -> None:
    value = "{% if event.n != 3 %}{{ event.userId }}:{{ 6 // (event.n - 4) }}{% endif %}"
    async with World(server, front, value=value, key="none", timestamp="received") as world:
        await world.sending.put(1, events(0, 6))
        await world.sending.live()
        found = await world.read(4)
        assert sorted(record.value.decode() for record in found) == ["u0:-2", "u1:-2", "u2:-3", "u5:6"]
        assert {record.key for record in found} == {None}
        assert [each.reason for each in await world.sending.letters()] == ["template_failed"]
        assert (await world.sending.account()).counts.dropped == {"template_empty": 1}
