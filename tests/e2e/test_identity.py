"""Visitors in a real bucket: replicas at once, a runtime that dies between two steps, a bucket that is full or gone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from functions_runtime.outcomes import Outcomes
from functions_runtime.rules.outcome import Outcome
from functions_runtime.stitcher import Stitcher
from shared.errors import Conflict, NotConnected
from shared.events.frame import Frame, Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import Place
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import MOST_TOGETHER, Bucket, Write
from shared.project.identity import Identity
from shared.project.model import Connection
from shared.project.snapshot import ConfigWatcher
from shared.reading.units import Duration
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from tests.support.nats import NatsServer

SECOND = 1_000_000
OPTIONS = Identity()
STREAM = f"KV_{topology.IDENTITY_BUCKET}"


class Died(Exception):
    """Stands for the death of a runtime."""


Make = Callable[[], "Runtime"]


@pytest.fixture
async def context(nats: NatsServer, broker: Broker) -> AsyncIterator[ServiceContext]:
    settings = ServiceSettings(nats_url=nats.url)
    telemetry = Telemetry("functions_runtime", settings)
    yield ServiceContext("functions_runtime", "here", settings, broker, ConfigWatcher(), telemetry, Health())
    telemetry.shutdown()


class Delivered(Outcomes):
    """Outcomes of which one can see what was delivered, and which die where they should."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker, "c.1", "c", persist)
        self.frames: list[Frame] = []
        self.die = ""

    async def deliver(self, headers: dict[str, str], payload: bytes, msg_id: str) -> None:
        if self.die == "before":
            raise Died
        self.frames.append(decode_frame(payload))
        if self.die == "behind":
            raise Died


async def persist(work: Callable[[], Awaitable[object]]) -> None:
    await work()


class Runtime:
    """A holder of the connection's lease."""

    def __init__(self, context: ServiceContext) -> None:
        self.outcomes = Delivered(context.broker)
        self.stitcher = Stitcher(context, "c", self.outcomes, persist)


@pytest.fixture
def make(context: ServiceContext) -> Make:
    return lambda: Runtime(context)


def frame_of(*events: tuple[float, str, str, str | None], padding: int = 0) -> Frame:
    """Events of second, message id, anonymous id and user."""
    requests = [RequestContext(round(at * SECOND), "segment", "web") for at, *_ in events]
    heads = [Head(id_, "page", None, user, name, number) for number, (_, id_, name, user) in enumerate(events)]
    bodies = [json.dumps({"messageId": id_, "pad": os.urandom(padding // 2).hex()}).encode() for _, id_, *_ in events]
    return pack("shop", requests, heads, bodies)


async def send(
    runtime: Runtime, frame: Frame, options: Identity = OPTIONS, *, die: str = "", decided: bool = False
) -> dict[str, str | None]:
    """Sends a frame; returns the users of the events that went on, by message id."""
    runtime.outcomes.die = die
    runtime.outcomes.frames = []
    outcome = Outcome(Place("live-x", 1, len(frame)), {}, encode_frame(frame))
    connection = Connection(site="shop", destination="wh", identity=options)
    with contextlib.suppress(Died):
        await runtime.stitcher.publish(outcome, frame, connection, cast("Any", None), decided=decided)
    return {head.message_id: head.user_id for made in runtime.outcomes.frames for head in made.heads}


async def test_another_replica_knows_what_the_first_one_kept(make: Make) -> None:
    assert await send(make(), frame_of((1, "a", "d", None), (1, "b", "e", None))) == {"a": None, "b": None}
    assert await send(make(), frame_of((2, "c", "d", "jane"))) == {"c": "jane", "a": "jane"}
    assert await send(make(), frame_of((3, "f", "d", None), (3, "g", "e", "joe"))) == {"f": "jane", "g": "joe", "b": "joe"}


async def test_a_runtime_that_dies_between_two_steps_stitches_all_the_same(make: Make) -> None:
    for number, (first_die, second_die) in enumerate(itertools.product(("", "before", "behind"), repeat=2)):
        name = f"d{number}"
        first, second = frame_of((1, f"a{number}", name, None)), frame_of((2, f"b{number}", name, "jane"))
        third = frame_of((3, f"c{number}", name, None))
        rows: dict[str, str | None] = {}
        for frame, die in ((first, first_die), (second, second_die)):
            rows |= await send(make(), frame, die=die)
            if die == "before":  # a frame that is in DELIVER is not run again
                rows |= await send(make(), frame)
        found = await send(make(), third)
        assert rows | found == {f"a{number}": "jane", f"b{number}": "jane", f"c{number}": "jane"}
        again = {f"a{number}": "jane"} if second_die == "behind" else {}
        assert found == {f"c{number}": "jane", **again}, "what was not forgotten goes once more, which changes no row"
        assert await send(make(), third) == {f"c{number}": "jane"}


async def test_a_frame_that_was_decided_goes_on_as_it_is_and_is_noted(make: Make) -> None:
    await send(make(), frame_of((1, "a", "d", None)))
    decided = frame_of((2, "b", "d", "jane"), (1, "a", "d", "jane"), (2, "x", "e", None))
    assert await send(make(), decided, decided=True) == {"b": "jane", "a": "jane", "x": None}
    assert await send(make(), frame_of((3, "c", "d", None), (3, "y", "e", "joe"))) == {"c": "jane", "y": "joe", "x": "joe"}


async def test_two_replicas_that_write_a_visitor_at_once_lose_nothing(make: Make) -> None:
    replicas = [make() for _ in range(6)]
    for round_ in range(3):
        name = f"d{round_}"
        await asyncio.gather(
            *(send(each, frame_of((n, f"{name}-{n}", name, None))) for n, each in enumerate(replicas)),
        )
        found = await send(make(), frame_of((9, f"{name}-i", name, "jane")))
        assert found == {**{f"{name}-{n}": "jane" for n in range(6)}, f"{name}-i": "jane"}


async def test_what_another_runtime_kept_in_the_middle_goes_with_the_next_event(make: Make) -> None:
    slow, quick = make(), make()
    await send(slow, frame_of((1, "a", "d", None)))
    await send(quick, frame_of((2, "b", "d", None)))  # `slow` does not know of it
    assert await send(slow, frame_of((3, "c", "d", "jane"))) == {"c": "jane", "a": "jane"}
    assert await send(slow, frame_of((4, "e", "d", None))) == {"e": "jane", "b": "jane"}


async def test_visitors_whose_events_compress_well_do_not_fill_the_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions_runtime.stitcher.MOST_REMEMBERED_BYTES", 500_000)
    runtime = make()

    async def come(number: int) -> None:
        request = RequestContext(SECOND, "segment", "web")
        head = Head(f"m{number}", "page", None, None, f"d{number}", 0)
        body = json.dumps({"n": number, "pad": "x" * 200_000}).encode()
        await send(runtime, pack("shop", [request], [head], [body]))

    await come(0)
    tracemalloc.start()
    try:
        for number in range(1, 40):
            await come(number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3_000_000, "39 visitors of 200,000 bytes"


async def test_a_full_bucket_holds_no_event_back(broker: Broker, make: Make, context: ServiceContext) -> None:
    config = (await broker.js.stream_info(STREAM)).config
    config.max_bytes = 64 * 1024
    await broker.js.update_stream(config)
    for number in range(8):
        await send(make(), frame_of((1, f"m{number}", f"v{number}", None), padding=40_000))
    kept = context.telemetry.value("functions_identity_kept_total", connection="c")
    lost = context.telemetry.value("functions_identity_forgotten_total", connection="c", reason="full")
    assert kept == 8
    assert lost > 0
    found = [await send(make(), frame_of((2, f"i{number}", f"v{number}", "jane"))) for number in range(8)]
    assert sum(len(each) == 2 for each in found) == 8 - lost


async def test_a_bucket_that_was_removed_is_made_again_and_that_is_said(
    broker: Broker, make: Make, context: ServiceContext
) -> None:
    await send(make(), frame_of((1, "a", "d", None), (1, "b", "e", None)))
    running = make()
    await send(running, frame_of((2, "c", "e", None)))
    await broker.js.delete_stream(STREAM)
    for stitcher in (make(), running):
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await send(stitcher, frame_of((3, "i", "d", "jane"), (3, "k", "e", "joe"))) in (
                        {"i": "jane", "k": "joe"},
                        {"i": "jane", "k": "joe", "b": "joe", "c": "joe"},  # `running` has it in its memory
                    )
                    break
                except NotConnected:
                    continue
    assert context.telemetry.value("functions_identity_lost_total", connection="c") == 1
    assert "was made again" in context.health.report().warnings["identity of connection c"]


async def test_what_is_kept_ends_with_the_look_back(broker: Broker, make: Make) -> None:
    short = Identity(look_back=Duration(1))
    await send(make(), frame_of((1, "a", "d", None)), short)
    bucket = Bucket(broker, topology.IDENTITY_BUCKET)
    (key,) = await bucket.keys("c.1.")
    async with asyncio.timeout(60):
        while await bucket.get(key) is not None:
            await asyncio.sleep(0.05)
    assert await send(make(), frame_of((1.5, "b", "d", "jane")), short) == {"b": "jane"}


async def test_a_visitor_that_cannot_be_read_begins_again(broker: Broker, make: Make, context: ServiceContext) -> None:
    await send(make(), frame_of((1, "a", "d", None)))
    bucket = Bucket(broker, topology.IDENTITY_BUCKET)
    (key,) = await bucket.keys("c.1.")
    await bucket.put(key, b"of a later version")
    assert await send(make(), frame_of((2, "b", "d", None))) == {"b": None}
    assert context.telemetry.value("functions_identity_forgotten_total", connection="c", reason="unreadable") == 1
    assert await send(make(), frame_of((3, "c", "d", "jane"))) == {"b": "jane", "c": "jane"}


async def test_many_keys_are_read_at_once(nats: NatsServer, broker: Broker) -> None:
    bucket = Bucket(broker, "store")
    await asyncio.gather(*(bucket.put(f"q.{number}", str(number).encode()) for number in range(0, 700, 2)))
    await bucket.put("q.0", b"new")
    await bucket.delete("q.2")
    found = await bucket.get_many([f"q.{number}" for number in range(700)])
    assert {key: entry.value for key, entry in found.items()} == {
        f"q.{number}": str(number).encode() if number else b"new" for number in range(0, 700, 2) if number != 2
    }
    assert found["q.4"].revision == (await bucket.get("q.4") or pytest.fail("gone")).revision
    assert await bucket.get_many([]) == {}
    large = {f"l.{number}": bytes([number]) * 3_000_000 for number in range(8)}
    await asyncio.gather(*(bucket.put(key, value) for key, value in large.items()))
    some = await bucket.get_many([*large, "l.none"])
    assert {key: entry.value for key, entry in some.items()} == large, "more than one answer holds"
    with pytest.raises(Conflict):
        await bucket.put("q.4", b"", revision=found["q.6"].revision)
    async with connect(nats.url, "away", patience_seconds=60) as other:
        with pytest.raises(NotConnected):
            await Bucket(other, "none").get_many(["a"])


async def test_values_are_written_together_or_not_at_all(nats: NatsServer, broker: Broker) -> None:
    bucket = Bucket(broker, topology.IDENTITY_BUCKET)
    revisions = await bucket.put_together([Write(f"q.{number}", b"x", 0) for number in range(MOST_TOGETHER)], ttl_seconds=60)
    assert revisions == [entry.revision for entry in (await bucket.get_many([f"q.{n}" for n in range(MOST_TOGETHER)])).values()]
    (entry,) = [await bucket.get("q.7")]
    assert entry is not None
    assert entry.ttl_seconds == 60
    assert await bucket.put_together([Write("q.7", b"y", entry.revision), Write("new", b"y", 0)], ttl_seconds=60)
    for refused in (
        [Write("q.1", b"z", 0), Write("other", b"z", 0)],
        [Write("other", b"z", 0), Write("large", bytes(17_000_000), 0)],
    ):
        assert await bucket.put_together(refused, ttl_seconds=60) is None
    assert await bucket.get("other") is None
    assert await Bucket(broker, "store").put_together([Write("a", b"z", 0), Write("b", b"z", 0)], ttl_seconds=60) is None
    assert await Bucket(broker, "none").put_together([Write("a", b"z", 0), Write("b", b"z", 0)], ttl_seconds=60) is None
    async with connect(nats.url, "away", patience_seconds=60) as other:
        await other.nc.close()
        with pytest.raises(NotConnected):
            await Bucket(other, topology.IDENTITY_BUCKET).put_together([Write("a", b"z", 0)], ttl_seconds=60)


async def test_the_visitors_of_a_frame_are_written_together_and_one_that_changed_by_itself(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, alone = Bucket.put, []

    async def noted(self: Bucket, key: str, value: bytes, **given: Any) -> int:
        alone.append(key)
        return await put(self, key, value, **given)

    monkeypatch.setattr(Bucket, "put", noted)
    slow = make()
    names = [f"v{number}" for number in range(600)]
    await send(slow, frame_of(*((1, f"a-{name}", name, None) for name in names)))
    assert not [key for key in alone if key.startswith("c.1.")]
    await send(make(), frame_of((2, "b", "v5", None)))  # `slow` does not know of it
    found = await send(slow, frame_of(*((3, f"c-{name}", name, "jane") for name in names)))
    assert found.keys() == {f"{which}-{name}" for which in "ac" for name in names}
    assert await send(slow, frame_of((4, "d", "v5", None))) == {"d": "jane", "b": "jane"}
    assert len(await Bucket(broker, topology.IDENTITY_BUCKET).keys("c.1.")) == 600


async def test_a_bucket_of_an_earlier_version_learns_to_write_together(broker: Broker) -> None:
    await broker.js.delete_stream(STREAM)
    (wanted,) = [each for each in topology.buckets(topology.TopologySettings()) if each.name == STREAM]
    await broker.js.add_stream(dataclasses.replace(wanted, allow_atomic=None))
    bucket = Bucket(broker, topology.IDENTITY_BUCKET)
    assert await bucket.put_together([Write("a", b"", 0)], ttl_seconds=60) is None
    await topology.ensure(broker, topology.TopologySettings())
    assert await bucket.put_together([Write("a", b"", 0)], ttl_seconds=60)
