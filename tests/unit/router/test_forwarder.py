"""What a forwarder counts of a frame when it falls behind, or when the frame turns out to be damaged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from router.forwarding.catch_up import _forward
from router.forwarding.forwarder import Forwarder, Parcel, ShardsChange
from router.forwarding.front import Cursor, Front
from router.forwarding.send import QueueWriter
from router.forwarding.state import Mark
from router.rules.compiled import compile_project
from router.rules.match import Matched
from router.rules.spread import Spread
from shared.errors import Permanent, QueueFull
from shared.events.dead import DeadLetter
from shared.events.event import facts_of
from shared.events.frame import Frame, Head, RequestContext, encode_frame, pack
from shared.events.outcome import DeadReason
from shared.events.shards import Split
from shared.jetstream.reader import Message
from shared.telemetry.metrics import Telemetry
from tests.support.router import REQUEST, frame, snapshot


class Counting:
    """Stands for the telemetry."""

    tracing = None

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_named: None


class Queue:
    """Stands for the broker: takes a frame when told to."""

    site = "shop"

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.free = asyncio.Event()
        self.buried = 0
        self.full = False
        self.letters: list[DeadLetter] = []

    async def try_send(self, *_: object, **__: object) -> None:
        self.asked.set()
        await self.free.wait()
        if self.full:
            raise QueueFull("full")

    async def bury_frame(self, **_: object) -> None:
        self.buried += 1

    async def bury_events(self, *, letters: Sequence[DeadLetter], **_: object) -> None:
        self.letters += letters


def forwarder_of(queue: Queue, **options: Any) -> Forwarder:
    rules = compile_project(snapshot({"wh": options}))["shop"].connections["wh"]
    telemetry = cast("Telemetry", Counting())
    cursor = Cursor(1, 0.0, -3)
    forwarder = Forwarder(
        rules, Front(5, 0.0), cast("QueueWriter", queue), telemetry, lane="live", max_frames=2, max_bytes=99, cursor=cursor
    )
    forwarder.account.join(0, 0)
    return forwarder


def message(payload: bytes) -> Message:
    return Message(subject="events.shop.0", payload=payload, headers={}, seq=1, at_seconds=1.0, waiting=0)


async def test_a_forwarder_that_falls_behind_while_it_sends_counts_what_the_frame_left_out() -> None:
    queue = Queue()
    forwarder = forwarder_of(queue, where=[{"field": "event", "eq": "x"}])
    payload = frame([{"event": "x"}, {"event": "y"}, {"event": "y"}])
    assert forwarder.cursor is not None
    sending = asyncio.create_task(_forward(forwarder, forwarder.cursor, message(payload), None))
    await queue.asked.wait()
    forwarder.collect()
    forwarder.fall_behind()
    queue.free.set()
    await sending
    account = forwarder.account.settle(2, 3)
    assert (account.forwarded, account.dropped, account.received(3)) == (1, {"filtered": 2}, account.ended)


LETTER = DeadLetter(
    stage="router", site="shop", connection="wh", reason=DeadReason.TRACKING_PLAN, detail="x", body=b"{}", at=1.0, origin="live:6"
)


@pytest.mark.parametrize("is_full", [True, False])
async def test_events_that_break_the_plan_are_buried_once_although_their_forwarder_falls_behind(*, is_full: bool) -> None:
    queue = Queue()
    forwarder = forwarder_of(queue)
    forwarder.go_live()
    parcel = Parcel(seq=6, at_seconds=1.0, events_before=0, payload=b"x", events=2, total=3, revision=1, letters=[LETTER])
    forwarder.take(6, Matched([0, 1], {}, 0, [2]), parcel)
    queue.full = is_full
    queue.free.set()
    sending = asyncio.create_task(forwarder.send(parcel))
    if is_full:
        await queue.asked.wait()
        assert queue.letters == []
        forwarder.fall_behind()
        assert await sending is False
        queue.full = False
        sending = asyncio.create_task(forwarder.send(parcel))
    assert await sending is True
    assert queue.letters == [LETTER]
    account = forwarder.account.settle(7, 3)
    assert (account.forwarded, account.dead, forwarder.account.sent) == (2, {"tracking_plan": 1}, 2)
    forwarder.fall_behind()
    assert forwarder.cursor is not None
    forwarder.cursor.counted = 6
    assert await forwarder.send(parcel) is True
    assert queue.letters == [LETTER], "it is read again for its destination only"


async def test_a_forwarder_that_waits_for_other_shards_is_behind_and_says_for_whom() -> None:
    said: list[tuple[str, str]] = []
    waits = asyncio.Event()

    async def may_send(_forwarder: Forwarder, _seq: int) -> None:
        if not waits.is_set():
            waits.set()
            raise ShardsChange("it waits for wh=2")

    queue = Queue()
    queue.free.set()
    forwarder = forwarder_of(queue)
    forwarder._may_send, forwarder._on_held = may_send, lambda *words: said.append(words)
    forwarder.rules = replace(forwarder.rules, spread=Spread("wh", 0, (Split(1, 1), Split(6, 2))))
    forwarder.go_live()
    parcel = Parcel(seq=6, at_seconds=1.0, events_before=0, payload=b"x", events=2, total=2, revision=1)
    forwarder.take(6, Matched([0, 1], {}, 0), parcel)
    assert await forwarder.send(parcel) is False
    assert forwarder.cursor is not None
    assert forwarder.cursor.mark(Cursor(9, 0.0, 2)) == Mark(seq=6, at_seconds=1.0, owed=2, why="it waits for wh=2")
    assert await forwarder.send(parcel) is True
    assert forwarder.cursor.why == ""
    assert said == [("wh", "it waits for wh=2"), ("wh", "")]


def damaged(request: RequestContext = REQUEST, block: bytes = b"{") -> bytes:
    heads = [Head("1", "track", "x"), Head("2", "track", "y")]
    whole = pack("shop", [request], heads, [b"{}", b"{}"])
    return encode_frame(
        Frame(
            version=whole.version, site="shop", requests=whole.requests, heads=heads, sizes=whole.sizes, codec=whole.codec,
            block=block,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [damaged(), damaged(RequestContext(received_at=10**18 * 9, protocol="segment", key="k"), b"{}{}")],
    ids=["block", "request"],
)
async def test_all_events_of_a_frame_that_is_damaged_inside_are_dead(payload: bytes) -> None:
    queue = Queue()
    forwarder = forwarder_of(queue, where=[{"field": "properties.a", "eq": 1}])
    assert forwarder.cursor is not None
    await _forward(forwarder, forwarder.cursor, message(payload), None)
    account = forwarder.account.settle(2, 2)
    assert (queue.buried, account.dead, account.received(2)) == (1, {"frame_unreadable": 2}, account.ended)


def test_a_request_that_is_damaged_is_permanent() -> None:
    for request in (
        RequestContext(received_at=10**18 * 9, protocol="segment", key="k"),
        RequestContext(received_at=0, protocol="segment", key="k", defaults=b"["),
    ):
        with pytest.raises(Permanent, match="cannot be read"):
            facts_of(request)
