"""Replays of dead letters that overlap each other, purges, and a kill at every step: each letter arrives once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from penstock.control.letters import redeliver
from penstock.control.letters.letters import Filter, find, remove, remove_all
from penstock.control.letters.redeliver import NOTE, Redelivery
from shared.errors import NotConnected
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.model import Project, Site
from tests.e2e.test_redeliver import REQUEST, bury_all, dead_ids, frames_on, letter, redelivery


async def loaded(broker: Broker) -> list[str]:
    """The message ids that a loader would load from the queue, whose ledger leaves out what a lane brings again."""
    marks: dict[str, int] = {}
    found: list[str] = []
    for place, frame in await frames_on(broker, topology.DELIVER):
        assert place is not None
        if place.seq > marks.get(place.lane, 0):
            marks[place.lane] = place.seq
            found += [head.message_id for head in frame.heads]
    return sorted(found)


async def test_two_replays_at_once_send_each_letter_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(3):
        await bury_all(
            broker,
            [letter(10 * part + number, reason=("type_conflict", "too_large")[number % 2]) for number in range(4)],
            msg_id=str(part),
        )

    async def overtaken(*arguments: Any, **more: Any) -> Any:
        """Reads everything, then another replay takes a half of it."""
        stored = [each async for each in find(*arguments, **more)]
        monkeypatch.undo()
        assert (await redelivery(broker).run(Filter(reason="too_large"))).replayed == 6
        for each in stored:
            yield each

    monkeypatch.setattr(redeliver, "find", overtaken)
    outcome = await redelivery(broker).run(Filter())
    assert outcome.replayed == 6
    assert await loaded(broker) == sorted(f"m{10 * part + number}" for part in range(3) for number in range(4))
    assert await dead_ids(broker) == []


async def test_replays_that_overlap_send_each_letter_once(broker: Broker) -> None:
    for part in range(12):
        await bury_all(broker, [letter(100 * part + number) for number in range(60)], msg_id=str(part))
    outcomes = await asyncio.gather(*(redelivery(broker).run(Filter()) for _ in range(3)))
    assert await loaded(broker) == sorted(f"m{100 * part + number}" for part in range(12) for number in range(60))
    assert await dead_ids(broker) == []
    assert await Bucket(broker, topology.STATE_BUCKET).get(NOTE) is None
    # one that helps another to finish counts its letters, too
    assert sum(outcome.replayed + outcome.finished for outcome in outcomes) >= 720


@pytest.mark.parametrize("step", range(8))
async def test_a_replay_killed_anywhere_loses_and_doubles_nothing_though_some_letters_are_purged_meanwhile(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Full events have a frame of their own, so the group has three; the purge takes a letter of two messages."""
    full = msgspec.structs.replace(REQUEST, complete=True)
    await bury_all(broker, [letter(1), letter(2)], msg_id="1")
    await bury_all(broker, [letter(3, request=full), letter(4, request=full)], msg_id="2")
    await bury_all(broker, [letter(5), letter(6)], msg_id="3")
    left = step

    def killing(function: Any) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise NotConnected("killed here")
            return await function(*arguments, **more)

        return call

    monkeypatch.setattr(broker.publisher, "publish", killing(broker.publisher.publish))
    monkeypatch.setattr(redeliver, "remove", killing(remove))
    with contextlib.suppress(NotConnected):
        await redelivery(broker).run(Filter())
    monkeypatch.undo()
    sent = set(await loaded(broker))
    await remove_all(broker, Filter(ids=["1.0", "2.1"]), 1000, lambda _: None)
    await redelivery(broker).run(Filter())
    assert await dead_ids(broker) == []
    found = await loaded(broker)
    assert len(found) == len(set(found)), "doubled"
    assert set(found) == {"m2", "m3", "m5", "m6"} | (sent & {"m1", "m4"})


async def test_an_interrupted_replay_into_a_connection_that_is_gone_keeps_its_letters(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury_all(broker, [letter(1)])

    async def killed(*_: object) -> None:
        raise NotConnected("killed here")

    monkeypatch.setattr(Redelivery, "_publish", killed)
    with pytest.raises(NotConnected):
        await redelivery(broker).run(Filter())
    monkeypatch.undo()
    outcome = await redelivery(broker, project=Project(sites={"shop": Site()})).run(Filter(site="another"))
    assert (outcome.finished, outcome.foreign) == (0, 1)
    assert await dead_ids(broker) == ["m1"]
    assert (await redelivery(broker).run(Filter())).replayed == 1, "the note of the first is gone"
