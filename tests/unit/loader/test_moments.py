"""Which text is a date-time."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.types.moments import all_moments, moments, parse_date, parse_one

NOON = datetime(2026, 9, 1, 12, 34, 56, tzinfo=UTC)
FULL = {
    "2026-09-01T12:34:56Z": NOON,
    "2026-09-01t12:34:56z": NOON,
    "2026-09-01 12:34:56": NOON,
    "2026-09-01T12:34:56": NOON,
    "2026-09-01 12:34:56 UTC": NOON,
    "2026-09-01 14:34:56+02": NOON,
    "2026-09-01 14:34:56 +0200": NOON,
    "2026-09-01T14:34:56+02:00": NOON,
    "2026-09-01T07:04:56-05:30": NOON,
    "2026-09-01T12:34:56.5Z": NOON.replace(microsecond=500_000),
    "2026-09-01T12:34:56.789Z": NOON.replace(microsecond=789_000),
    "2026-09-01 12:34:56.123456000+00:00": NOON.replace(microsecond=123_456),
    "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T23:59:59.999999Z": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
}
NOT_FULL = [
    "2026-09-01",
    "2026-09-01T12:34Z",
    "2026-09-01T12:34+00:00",
    "20260901T123456Z",
    "2026-09-01T12:34:56,5Z",
    "2026-09-01T12:34:56.Z",
    "2026-09-01T12:34:56.1234567891Z",
    "2026-09-01T12:34:56.123456789Z",
    "2026-09-01T12:34:56.1234560001Z",
    "2026-02-30T12:34:56Z",
    "2026-13-01T12:34:56Z",
    "2026-09-01T24:00:00Z",
    "2026-09-01T12:60:00Z",
    "2026-09-01T12:34:60Z",
    "2026-09-01T12:34:56+24:00",
    "2026-09-01T12:34:56+05:75",
    "2026-09-01T12:34:56+05:",
    "2026-09-01T12:34:56Z\n",
    " 2026-09-01T12:34:56Z",
    "2026-09-01  12:34:56",
    "2026-W36-2T12:34:56Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-01:00",
    "+2026-09-01T12:34:56Z",
    "２026-09-01T12:34:56Z",
    "Tue, 01 Sep 2026 12:34:56 GMT",
    "https://example.com/some/page",
    "",
]


@pytest.mark.parametrize(("text", "moment"), FULL.items())
def test_a_full_date_time_is_a_moment(text: str, moment: datetime) -> None:
    assert parse_one(text) == moment
    parsed = all_moments(pa.array([text]))
    assert parsed is not None
    assert parsed.to_pylist() == [moment]


@pytest.mark.parametrize("text", NOT_FULL)
def test_anything_else_is_text(text: str) -> None:
    assert parse_one(text) is None
    assert all_moments(pa.array([text])) is None
    assert all_moments(pa.array(["2026-09-01T12:34:56Z", text, "2026-09-01T12:34:56Z"])) is None


def test_a_column_of_all_spellings_is_read_as_a_whole() -> None:
    parsed = all_moments(pa.array(list(FULL)))
    assert parsed is not None
    assert parsed.to_pylist() == list(FULL.values())


def test_where_only_some_are_moments_the_others_are_marked() -> None:
    values, bad = moments(pa.array(["2026-09-01T12:34:56Z", "soon", "2026-09-01", "2026-02-30"]))
    assert values.to_pylist() == [NOON, None, datetime(2026, 9, 1, tzinfo=UTC), None]
    assert bad is not None
    assert bad.tolist() == [False, True, False, True]


def test_a_date_alone_is_one_only_where_asked() -> None:
    assert parse_date("2026-09-01") == datetime(2026, 9, 1, tzinfo=UTC)
    assert moments(pa.array(["2026-09-01"]), dates=False)[0].to_pylist() == [None]


PIECES = st.lists(
    st.sampled_from(
        ["2026", "-09", "-01", "-31", "T", " ", "12", ":34", ":56", ".5", ".1234567", "Z", "+02", ":00", "-0530", " UTC"]
    ),
    max_size=10,
).map("".join)


@given(st.lists(st.one_of(PIECES, st.sampled_from(list(FULL)), st.sampled_from(NOT_FULL), st.text(max_size=40)), min_size=1))
def test_whole_columns_are_judged_as_their_values_one_by_one(texts: list[str]) -> None:
    one_by_one = [parse_one(text) for text in texts]
    whole = all_moments(pa.array(texts))
    assert (whole is not None) == all(moment is not None for moment in one_by_one)
    if whole is not None:
        assert whole.to_pylist() == one_by_one
    values, _ = moments(pa.array(texts), dates=False)
    assert values.to_pylist() == one_by_one
