"""Frames of a forgotten person leave EVENTS only when nobody needs the events of others in them any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from router.forgetting.work import _Work
from router.forwarding.state import Mark, SiteState, state_key
from shared.archive.note import ArchiveNote, write_note
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.forget.requests import PartReceipt, Request
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.hold_back import hold_back
from shared.jetstream.identity import identify
from shared.jetstream.kv import Bucket
from shared.project.archive import ArchiveOptions, LocalArchive
from shared.project.read import decode_project
from shared.threads import ThreadGate

PROJECT = decode_project({"sites": {"shop": {}}})


async def put(broker: Broker, number: int, *people: str) -> None:
    request = RequestContext(received_at=1_772_366_400_000_000, protocol="segment", key="k")
    heads = [Head(f"m{number}.{at}", "track", "Order", name) for at, name in enumerate(people)]
    payload = encode_frame(pack("shop", [request], heads, [b"{}"] * len(heads)))
    await broker.publisher.publish(topology.events_subject("shop"), payload, msg_id=f"f{number}")


async def routed(broker: Broker, **more: Any) -> None:
    state = SiteState(incarnation=(await identify(broker, topology.EVENTS)).incarnation, **more)
    await Bucket(broker, topology.STATE_BUCKET).put(state_key("shop"), msgspec.json.encode(state))


@pytest.mark.parametrize("is_archived", [False, True])
async def test_frames_go_when_every_reader_has_passed_them(broker: Broker, is_archived: bool) -> None:
    for number in range(1, 4):
        await put(broker, number, "jane", "joe") if number != 2 else await put(broker, number, "joe")
    gate = ThreadGate(1, "test")
    context = SimpleNamespace(broker=broker, instance="i", config=SimpleNamespace(current=SimpleNamespace(project=PROJECT)))
    request = Request(id="r", names=["jane"], digests=[], at=0.0, purge_events=True)
    archived: dict[str, ArchiveOptions] = {}
    work = _Work(cast("Any", context), gate, request, archived=lambda: archived, place=lambda: None)
    receipt = PartReceipt()

    async def save() -> None:
        """Keeps nothing."""

    async def look() -> tuple[bool, str, int]:
        if is_archived:  # its archive needs no rewriting here
            archived["shop"] = LocalArchive(path="/nowhere")
            work._done.add("shop")
        done = await work.run(receipt, save)
        left = (await broker.js.stream_info(topology.EVENTS)).state.messages
        return done, receipt.places[topology.EVENTS].note.partition("needed by ")[2], left

    try:
        assert await look() == (False, "site shop, which no router has begun yet", 3)
        await routed(broker, position=2)
        assert await look() == (False, "site shop, whose router is behind", 3)
        await routed(broker, position=3, behind={"c": Mark(seq=3, at_seconds=0.0)})
        assert await look() == (False, "connection c, which is behind", 3)
        await routed(broker, position=3)
        async with hold_back(broker, lambda: 2):
            assert await look() == (False, "a replay", 3)
        if is_archived:
            assert await look() == (False, "an archive, which is behind", 3)
            events = await identify(broker, topology.EVENTS)
            await write_note(broker, "shop", ArchiveNote(incarnation=events.incarnation, position=3))
        # a frame behind the first look stays: its router may not have read it
        await put(broker, 4, "jane", "joe")
        done, _, left = await look()
        assert (done, left) == (True, 2)
        place = receipt.places[topology.EVENTS]
        assert (place.removed, place.left) == (2, 1)
        assert "in 1 frames" in place.note
    finally:
        gate.close()
