"""When syncs are due: intervals, cron, time zones, daylight saving, jitter."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from shared.syncs.schedule import Schedule


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def due(schedule: Schedule, after: str, times: int) -> list[str]:
    moment, found = at(after), []
    for _ in range(times):
        moment = schedule.after(moment)
        found.append(datetime.fromtimestamp(moment, UTC).strftime("%m-%d %H:%M"))
    return found


def test_an_interval_is_the_same_for_all() -> None:
    assert due(Schedule("every 15m"), "2026-03-01T10:03", 3) == ["03-01 10:15", "03-01 10:30", "03-01 10:45"]


def test_cron_is_in_its_time_zone() -> None:
    assert due(Schedule("0 6 * * 1", "America/New_York"), "2026-03-01T00:00", 2) == ["03-02 11:00", "03-09 10:00"]


def test_the_hour_that_is_left_out_and_the_one_that_comes_twice() -> None:
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    assert due(schedule, "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:30"]
    assert due(schedule, "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]


def test_jitter_spreads_names_and_keeps_each_at_its_place() -> None:
    places = {Schedule("every 1h", jitter=600, name=f"sync-{number}").after(0) % 3600 for number in range(50)}
    assert len(places) == 50
    assert max(places) < 600
    assert Schedule("every 1h", jitter=600, name="crm").after(0) == Schedule("every 1h", jitter=600, name="crm").after(0)


def test_a_run_whose_clock_was_ahead_puts_off_nothing() -> None:
    schedule, now = Schedule("every 1h"), at("2026-03-01T10:03")
    assert schedule.behind(at("2031-01-01T00:00"), now) == at("2026-03-01T11:00")
    assert schedule.behind(at("2026-03-01T08:30"), now) == at("2026-03-01T09:00")


def test_none_is_due_without_a_schedule() -> None:
    assert Schedule("").after(0) == math.inf
    assert Schedule("").manual


@pytest.mark.parametrize(
    ("text", "zone", "why"),
    [
        ("every", "UTC", "no schedule"),
        ("every now and then", "UTC", "duration"),
        ("every 1s", "UTC", "shortest"),
        ("61 * * * *", "UTC", "no schedule"),
        ("* * *", "UTC", "no schedule"),
        ("0 0 30 2 *", "UTC", "no schedule"),
        ("* * * * * * *", "UTC", "no schedule"),
        ("0 0 * * *", "Europe/Nowhere", "time zone"),
        ("0 0 * * *", "../../etc/passwd", "time zone"),
    ],
)
def test_what_is_no_schedule_is_said(text: str, zone: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Schedule(text, zone)
