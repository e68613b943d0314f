"""When a site counts as silent and its traffic as unusual, hour by hour of a moved clock."""

from __future__ import annotations

import msgspec
import pytest

from router.alerts.judge.volume import HOUR, KEPT_HOURS, UNKNOWN, History, Usual, begin, note, silent, unusual, usual

START = 1_800_000_000 // 3600 * HOUR


def by_hours(counts: list[int], start: float = START) -> History:
    """Returns the history after whole hours with these counts, the oldest first."""
    total, history = 0, begin(0, start)
    for number, count in enumerate(counts):
        total += count
        history = note(history, total, start + (number + 1) * HOUR + 10, start)
    return history


def day(number: int) -> list[int]:
    """Returns the counts of a day: busy by day, quiet at night."""
    return [10 if hour < 6 else 1000 + 20 * number for hour in range(24)]


def test_hours_are_kept_for_four_weeks_and_no_longer() -> None:
    history = by_hours([number % 50 for number in range(KEPT_HOURS + 100)])
    assert len(history.counts) == KEPT_HOURS
    assert history.counts[0] == (KEPT_HOURS + 99) % 50
    assert len(msgspec.json.encode(history)) < 4096


def test_an_hour_that_was_not_watched_to_its_ends_is_unknown() -> None:
    history = note(begin(0, START + 1800), 500, START + HOUR + 10, START)
    assert history.counts == [UNKNOWN]
    late = note(history, 900, START + 2 * HOUR + 1000, START)
    assert late.counts == [UNKNOWN, UNKNOWN]
    gap = note(by_hours([5, 6]), 400, START + 5 * HOUR + 10, START)
    assert gap.counts == [UNKNOWN, UNKNOWN, UNKNOWN, 6, 5]


def test_a_count_that_goes_back_begins_again_and_keeps_what_is_known() -> None:
    history = by_hours([100, 100])
    again = note(history, 3, START + 2 * HOUR + 60, START)
    assert (again.accepted, again.counts) == (3, [100, 100])


WEEK = [*day(0), *day(1), *day(2), *day(3), *day(4), *[60] * 48]
"""A week that begins on a Monday, with a quiet weekend; longer ones are this one again."""


def at(hours: int) -> float:
    """Returns the moment so many whole hours after the start, and a little."""
    return START + hours * HOUR + 10


def test_like_hours_are_the_same_hours_of_weekdays_each_with_its_neighbours() -> None:
    counts = list(range(KEPT_HOURS))
    # the fourth week ago is one hour too old
    assert usual(counts, 1) == Usual(167, 505, 336, 335)
    assert usual(counts, 0) == Usual(166, 671, 419.0, 418.0)


def test_nothing_is_decided_before_the_same_weekday_is_known() -> None:
    six_days = by_hours(WEEK[: 6 * 24])
    assert unusual(by_hours([*WEEK[: 6 * 24], 9000]), 2.0) == ""
    assert silent(six_days, at(6 * 24), at(6 * 24) + 6 * HOUR, None) == ""


def test_the_first_weekends_of_a_site_are_neither_silent_nor_unusual() -> None:
    weeks = [*WEEK, *WEEK, *WEEK]
    for hours in range(7 * 24, len(weeks)):
        history = by_hours(weeks[:hours])
        assert unusual(history, 2.0) == "", hours
    for number in (1, 2):
        saturday = (number * 7 + 5) * 24 + 12
        history = by_hours(weeks[:saturday])
        assert silent(history, at(saturday), at(saturday) + 900, None) == "", "by working days it would be"
        assert silent(history, at(saturday), at(saturday) + 1800, None)


def test_traffic_beyond_the_range_of_like_hours_is_unusual_and_night_is_not() -> None:
    weeks = [*WEEK] * 3
    assert unusual(by_hours([*weeks, *day(0)[:13]]), 2.0) == ""
    much = by_hours([*weeks, *day(0)[:12], 2200])
    assert unusual(much, 2.0) == "2200 events in the last whole hour; the same hours of earlier days had 1000 to 1000"
    assert unusual(much, 3.0) == ""
    assert "499 events" in unusual(by_hours([*weeks, *day(0)[:12], 499]), 2.0)
    assert unusual(by_hours([*weeks, 10, 10, 0]), 2.0) == "", "few events at night vary by chance"


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_change_to_or_from_summer_time_is_neither_silence_nor_unusual(shift: int) -> None:
    weeks = [*WEEK] * 4
    moved = [*(WEEK[shift:] + WEEK[:shift])] * 2
    for hours in range(len(moved)):
        history = by_hours([*weeks, *moved[: hours + 1]])
        assert unusual(history, 2.0) == "", hours
        # the site goes to sleep an hour earlier than the weeks before
        assert silent(history, at(len(weeks) + hours + 1) - 60, at(len(weeks) + hours + 1) + 500, None) == ""


def test_an_hour_in_which_the_router_lagged_is_unknown_and_so_is_the_one_that_catches_up() -> None:
    weeks = [*WEEK] * 3
    history = by_hours([*weeks, *day(0)[:12]])
    begun, total = START + (len(weeks) + 12) * HOUR, history.accepted
    history = note(history, total, begun + 1800, begun, behind=True)
    history = note(history, total + 10, begun + HOUR + 10, begun, behind=True)
    assert history.counts[0] == UNKNOWN
    history = note(history, total + 4000, begun + 2 * HOUR + 10, begun, behind=False)
    assert history.counts[0] == UNKNOWN
    assert unusual(history, 2.0) == ""
    assert note(history, total + 5000, begun + 3 * HOUR + 10, begun).counts[0] == 1000


def test_a_burst_is_unusual_once_and_the_hours_after_it_are_not() -> None:
    weeks = [*WEEK] * 3
    assert unusual(by_hours([*weeks, *day(0)[:12], 9000]), 2.0)
    assert unusual(by_hours([*weeks, *day(0)[:12], 9000, 1000]), 2.0) == ""


def test_a_site_of_three_events_a_day_is_never_called_silent_or_unusual_by_its_traffic() -> None:
    few = [1 if hour in (9, 12, 17) else 0 for hour in range(24)] * 28
    history = by_hours(few)
    assert unusual(by_hours([*few, *few[:9], 30]), 2.0) == ""
    assert silent(history, at(27 * 24), at(35 * 24), None) == ""
    assert silent(history, at(27 * 24), at(28 * 24), 12 * HOUR).startswith("no event for 24 h")


def test_a_site_is_silent_when_events_are_missed_not_when_few_come_anyway() -> None:
    weeks = [*WEEK] * 3
    noon = by_hours([*weeks, *day(0)[:12]])
    begun = START + (len(weeks) + 12) * HOUR
    assert silent(noon, begun, begun + 300, None) == "", "at least ten minutes"
    assert silent(noon, begun, begun + 660, None).startswith("no event for 11 min; about 1")
    night = by_hours([*weeks, 10])
    begun = START + (len(weeks) + 1) * HOUR
    assert silent(night, begun, begun + 3000, None) == ""


def test_time_in_which_no_router_looked_is_not_silence() -> None:
    weeks = [*WEEK] * 3
    noon = by_hours([*weeks, *day(0)[:12]])
    begun = START + (len(weeks) + 12) * HOUR
    back = begun + 3 * HOUR
    noon = note(noon, noon.accepted, back, begun)
    assert silent(noon, begun, back + 300, None, watched_since=back) == ""
    assert silent(noon, begun, back + 660, None, watched_since=back).startswith("no event for 3 h")
    assert silent(noon, begun, back + 300, 600.0, watched_since=back) == ""
    assert silent(noon, begun, back + 660, 600.0, watched_since=back)


def test_silence_over_nights_and_days_stays_silence() -> None:
    history = by_hours([*([*WEEK] * 3), *[0] * 24 * 3])
    assert silent(history, at(21 * 24), at(24 * 24) + 60, None)


def test_a_bound_of_the_author_decides_alone() -> None:
    new = begin(5, START)
    assert silent(new, START, START + 60, 120.0) == ""
    assert silent(new, START, START + 121, 120.0) == "no event for 2 min; at most 2 min is allowed"
    assert silent(new, 0.0, START + 10**6, 120.0) == "", "it never sent one"
