"""The layouts of sites in a router's memory: none is missed, and an unreadable one holds its site alone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from router import layouts as layouts_module
from router.archive import wishes as wishes_module
from router.archive.wishes import Wishes
from router.layouts import Layouts
from shared.errors import NotConnected
from shared.events.shards import WHOLE, Layout
from shared.jetstream.broker import Broker
from shared.streams.runs import WISHES, Wish
from shared.telemetry.health import Health

NOBODY = cast("Broker", None)


async def test_an_unreadable_layout_holds_its_site_alone_and_layouts_are_asked_for_until_the_broker_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Any] = [NotConnected("away"), ({"shop": Layout()}, {"hurt": "damaged"})]

    async def read(_: Broker) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(layouts_module, "read_layouts", read)
    monkeypatch.setattr(layouts_module, "AGAIN_SECONDS", 0.0)
    health = Health()
    layouts = Layouts(health)
    waiting = layouts.changed()
    await layouts.load(NOBODY)
    assert layouts.of("shop") == Layout()
    assert (list(layouts.shards("hurt")), list(layouts.shards("other"))) == ([], [WHOLE])
    assert "its events wait in EVENTS" in health.problems["layout of hurt"]
    async with asyncio.timeout(10):
        await waiting  # it counts from the call on, although it is only awaited now


async def test_a_wish_that_cannot_be_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"a": b'{"run":"r","wish":"hurry"}', "b": msgspec.json.encode(Wish(run="r", wish="cancel", last=7))}

    class Bucket:
        def __init__(self, *_: object) -> None: ...

        async def watch(self, _: str) -> Any:
            for name, value in values.items():
                yield SimpleNamespace(key=WISHES + name, value=value)

    monkeypatch.setattr(wishes_module, "Bucket", Bucket)
    wishes = Wishes()
    await wishes.follow(NOBODY)
    assert (wishes.left_out("a"), wishes.left_out("b")) == (0, 7)
