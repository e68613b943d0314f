"""An event on which our own code fails becomes a dead letter, and its neighbours are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract.warehouse import LoadPlan, LoadReport, TableLoad
from loader.delivery.deliver import Work
from loader.delivery.isolate import MOST_TRIALS, SAMPLE, offenders, shape_offenders
from loader.fitting.fit import fit_batch
from loader.rows.shape import Shaper
from shared.errors import Defect, NotConnected, Transient
from shared.events.dead import decode_dead
from shared.events.event import materialise
from shared.events.outcome import DeadReason
from shared.threads import ThreadGate
from tests.unit.loader.shaping import Desk, frame_of
from tests.unit.loader.test_deliver import Bench, Places

EVENTS: list[dict[str, Any]] = [{"messageId": f"m{n}", "n": n, "s": "bad" if n in (7, 30) else "good"} for n in range(40)]


@given(count=st.integers(1, 200), bad=st.sets(st.integers(0, 199), max_size=5))
async def test_exactly_the_events_that_fail_are_found(count: int, bad: set[int]) -> None:
    async def trial(part: Sequence[int]) -> bool:
        return not bad.intersection(part)

    assert await offenders(count, trial) == {index for index in bad if index < count}


async def test_of_events_that_fail_only_together_the_later_is_found() -> None:
    async def trial(part: Sequence[int]) -> bool:
        return not {3, 80} <= set(part)

    assert await offenders(100, trial) == {80}


async def test_the_search_is_bounded_where_every_event_fails() -> None:
    trials = 0

    async def trial(_: Sequence[int]) -> bool:
        nonlocal trials
        trials += 1
        return False

    assert len(await offenders(20_000, trial)) == 20_000
    assert trials <= MOST_TRIALS + 2 * SAMPLE


class Fragile(Places):
    """A destination in whose code some values raise."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        await self.probe(loads)
        return await super().load(plan, loads)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        if any("bad" in load.rows["s"].to_pylist() for load in loads):
            raise self.error


def dead_of(bench: Bench) -> dict[str, tuple[str, str]]:
    letters = [
        letter
        for subject, payload, *_ in bench.published.messages
        if subject.startswith("dead.")
        for letter in decode_dead(payload)
    ]
    return {str(letter.message_id): (letter.reason, letter.detail) for letter in letters}


@pytest.mark.parametrize("error", [IndexError("index 103 is out of bounds"), Defect("loading: KeyError: 'x'")])
async def test_an_exception_in_loading_costs_only_the_events_it_is_raised_for(error: Exception) -> None:
    bench = Bench({"layout": "passthrough"}, Fragile(error))
    assert await bench.deliver(*EVENTS)
    dead = dead_of(bench)
    assert sorted(dead) == ["m30", "m7"]
    assert {reason for reason, _ in dead.values()} == {DeadReason.INTERNAL_ERROR}
    assert str(error) in dead["m7"][1]
    assert bench.places.rows == {"events": 38}
    assert bench.telemetry.value("loader_internal_errors_total", connection="shop-wh") == 1


async def test_an_exception_in_fitting_costs_only_the_events_it_is_raised_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = fit_batch

    def fragile(batch: Any, *rest: Any) -> Any:
        letters = batch.dead_letters(dict.fromkeys(batch.tables["events"].events.tolist(), (DeadReason.INTERNAL_ERROR, "")))
        if any(b'"bad"' in letter.body for letter in letters):
            raise ZeroDivisionError("in fitting")
        return fits(batch, *rest)

    monkeypatch.setattr("loader.delivery.deliver.fit_batch", fragile)
    bench = Bench({"layout": "passthrough"})
    assert await bench.deliver(*EVENTS)
    assert sorted(dead_of(bench)) == ["m30", "m7"]
    assert bench.places.rows == {"events": 38}


@pytest.mark.parametrize("error", [MemoryError(), ImportError("no module named pgpq")])
async def test_an_exception_that_no_event_causes_holds_the_events(error: Exception) -> None:
    bench = Bench({"layout": "passthrough"}, Fragile(error))
    with pytest.raises(Transient):
        await bench.deliver(*EVENTS)
    assert bench.published.messages == []


async def test_a_connection_lost_during_the_search_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Fragile(IndexError())
    bench = Bench({"layout": "passthrough"}, places)

    async def lost(_: Sequence[TableLoad]) -> None:
        raise NotConnected("gone")

    async def load(*_: Any) -> LoadReport:
        raise IndexError

    monkeypatch.setattr(places, "load", load)
    monkeypatch.setattr(places, "probe", lost)
    with pytest.raises(NotConnected):
        await bench.deliver(*EVENTS)
    assert bench.published.messages == []


async def test_an_exception_in_shaping_costs_only_the_events_it_is_raised_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = materialise

    def fragile(body: bytes, *rest: Any) -> Any:
        if b'"bad"' in body:
            raise KeyError("in shaping")
        return reads(body, *rest)

    monkeypatch.setattr("loader.rows.shape.materialise", fragile)
    desk = Desk({"layout": "passthrough"})
    shaper: Shaper = desk.shaper
    frames = {5: (1, frame_of(EVENTS[:20])), 6: (2, frame_of(EVENTS[20:]))}
    gate = ThreadGate(1, "test")
    refused = await shape_offenders(shaper, frames, gate, "KeyError: in shaping")
    gate.close()
    assert {number: set(events) for number, events in refused.items()} == {5: {7}, 6: {10}}
    for number, (seq, frame) in frames.items():
        shaper.add(frame, seq, None, refused[number])
    batch = shaper.take()
    assert len(batch.tables["events"]) == 38
    assert [(dead.head.message_id, dead.reason, dead.index) for dead in batch.dead] == [
        ("m7", DeadReason.INTERNAL_ERROR, 7),
        ("m30", DeadReason.INTERNAL_ERROR, 10),
    ]


async def test_a_delivery_whose_every_part_passes_alone_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Fragile(IndexError())
    bench = Bench({"layout": "passthrough"}, places)
    batch = bench.desk.shape({"messageId": "1", "s": "good"})

    async def load(*_: Any) -> LoadReport:
        raise IndexError

    monkeypatch.setattr(places, "load", load)
    with pytest.raises(Transient, match="IndexError"):
        await bench.deliverer.deliver(Work(LoadPlan("shop-wh", "live", 1, 1), batch))
