"""When dead letters stop a connection, and when an event waits for too long."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from loader.contract.warehouse import LoadPlan
from loader.delivery.deliver import Work
from loader.watch.limit import SLOTS, Limit, TooManyDeadError
from loader.watch.stuck import Stuck
from shared.errors import ConfigError
from shared.project.model import DeadLimit
from shared.project.read import decode_project
from shared.reading.units import Duration
from shared.telemetry.health import Health
from tests.unit.loader.shaping import frame_of
from tests.unit.loader.test_deliver import PAGE, Bench

BAD = {"type_conflict": 1}


class Now:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def limit(events: int = 10, ratio: float = 0.5, period: float = 60) -> tuple[Limit, Now]:
    now = Now()
    return Limit(DeadLimit(ratio=ratio, events=events, period=Duration(period)), now), now


def test_a_load_in_which_most_events_die_is_stopped_with_reasons_and_one_that_is_too_small_is_not() -> None:
    limited, _ = limit()
    limited.weigh(9, {"type_conflict": 9})
    with pytest.raises(TooManyDeadError) as raised:
        limited.weigh(10, {"type_conflict": 4, "missing_key": 1}, "no value for k")
    assert str(raised.value) == (
        "5 of 10 events of the last 60 s would be dead letters (type_conflict 4, missing_key 1), "
        "and the limit is 50%; the last one: no value for k"
    )
    limited.weigh(10, {"type_conflict": 4})


def test_loads_of_one_event_add_up_within_the_window_only_and_take_no_memory_of_their_own() -> None:
    limited, now = limit(events=100)
    for _ in range(99):
        limited.weigh(1, BAD)
        limited.note(1, BAD)
        now.at += 0.01
    with pytest.raises(TooManyDeadError):
        limited.weigh(1, BAD)
    now.at += 61
    limited.weigh(1, BAD)
    for _ in range(10_000):
        limited.note(1, {})
        now.at += 0.1
    assert len(limited._slots) <= SLOTS + 1


def test_good_events_of_the_window_count_against_dead_ones() -> None:
    limited, _ = limit()
    limited.note(100, {})
    limited.weigh(90, {"type_conflict": 90})
    with pytest.raises(TooManyDeadError):
        limited.weigh(100, {"type_conflict": 100})


def test_a_limit_that_is_off_or_suspended_stops_nothing_and_what_died_meanwhile_does_not_count() -> None:
    Limit("off").weigh(10_000, {"type_conflict": 10_000})
    limited, now = limit()
    limited.free_for(5)
    limited.weigh(100, {"type_conflict": 100})
    limited.note(100, {"type_conflict": 100})
    now.at += 6
    limited.weigh(5, {"type_conflict": 5})
    with pytest.raises(TooManyDeadError):
        limited.weigh(10, {"type_conflict": 10})


def test_frames_that_cannot_be_read_count_with_all_of_their_events() -> None:
    limited, _ = limit(events=1000)
    limited.weigh_unreadable(500, "a later version wrote it")
    with pytest.raises(TooManyDeadError, match="frame_unreadable 1000"):
        limited.weigh_unreadable(500, "a later version wrote it")


async def test_nothing_is_buried_or_loaded_by_the_load_that_reaches_the_limit() -> None:
    bench = Bench()
    bench.deliverer._limit, _ = limit(events=4)
    with pytest.raises(TooManyDeadError):
        await bench.deliver(PAGE, b"1", b"2", b"3")
    assert bench.published.messages == []
    assert bench.places.rows == {}
    assert await bench.deliver(PAGE, PAGE, PAGE, b"1"), "the window holds finished loads only"
    assert len(bench.published.messages) == 1


async def test_letters_of_a_replay_that_die_again_and_letters_that_are_there_stop_nothing() -> None:
    bench = Bench()
    bench.deliverer._limit, _ = limit(events=2)
    frame = frame_of([b"nonsense", b"[1]"])
    bench.desk.shaper.add(frame, 1)
    work = Work(LoadPlan("shop-wh", "live-1", 1, 1), bench.desk.shaper.take())
    bench.deliverer.buried = {"live-1:1:0", "live-1:1:1"}
    assert await bench.deliverer.deliver(work) is not None
    frame.origins = ["live:7:3", "live:8:0"]
    bench.desk.shaper.add(frame, 1)
    assert await bench.deliverer.deliver(Work(LoadPlan("shop-wh", "replay-x", 1, 1), bench.desk.shaper.take())) is not None


def project(dead_limit: Any) -> dict[str, Any]:
    return {
        "sites": {"shop": {}},
        "destinations": {"wh": {"type": "duckdb"}},
        "connections": {"c": {"site": "shop", "destination": "wh", "dead_limit": dead_limit}},
    }


def test_the_option_is_off_or_parts_of_it_are_set() -> None:
    assert decode_project(project("off")).connections["c"].dead_limit == "off"
    assert decode_project(project({"ratio": 0.9})).connections["c"].dead_limit == DeadLimit(ratio=0.9)
    for wrong in ("on", {"ratio": 0}, {"ratio": 2}, {"period": "0s"}, {"event": 5}):
        with pytest.raises(ConfigError, match=r"connections\.c\.dead_limit"):
            decode_project(project(wrong))


def test_an_event_that_waits_though_its_destination_answers_is_told_with_age_and_next_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health = Health()
    health.good("service")
    stuck = Stuck(health, "c", "wh", after_seconds=60, period_seconds=20)
    part, now = "connection c: waiting", time.time()
    with caplog.at_level(logging.ERROR):
        for at in (None, now - 90, now):
            stuck.look(at, None)
            assert part not in health.warnings
        stuck.look(now - 200, None)
        stuck.look(now - 201, None)
    assert [record.message for record in caplog.records] == ["events wait although the destination answers"]
    assert "waits for 20" in health.warnings[part]
    assert "nothing was loaded yet; see the loader's log, try `penstock check wh`" in health.warnings[part]
    stuck.look(now - 200, now - 5)
    assert "the last load was 5 s ago; it does not keep up" in health.warnings[part]
    assert health.report().ready
    health.bad("connection c", "password authentication failed")
    stuck.look(now - 300, None)
    assert part not in health.warnings, "the destination's own words say why"
    health.good("connection c")
    stuck.look(now - 300, None)
    stuck.forget()
    assert health.warnings == {}
