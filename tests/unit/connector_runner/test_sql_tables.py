"""The kit of databases as sources: streams of tables, chosen tables and columns, times before others."""

from __future__ import annotations

import pytest

from connector_runner.contract import StreamName
from connector_runner.sql.plan import earlier
from connector_runner.sql.tables import Column, Table, json_schema, stream_of
from connector_runner.sql.wanted import is_wanted


def moment(name: str, *, touched: bool = False) -> Column:
    return Column(name, "timestamp", "moment", name, nullable=False, ordered=True, touched=touched)


@pytest.mark.parametrize(
    ("name", "include", "exclude", "wanted"),
    [
        (StreamName("orders"), ["*"], [], True),
        (StreamName("orders"), ["ord*"], ["*s"], False),
        (StreamName("Orders"), ["orders"], [], False),
        (StreamName("orders", "shop"), ["shop.*"], [], True),
        (StreamName("orders", "shop"), ["orders"], ["log.*"], True),
        (StreamName("orders", "shop"), ["*"], ["shop.o*"], False),
    ],
)
def test_patterns_choose_tables(name: StreamName, include: list[str], exclude: list[str], wanted: bool) -> None:
    assert is_wanted(name, include, exclude) is wanted


@pytest.mark.parametrize(
    ("columns", "cursor"),
    [
        ([moment("created_at"), moment("updated_at")], ("updated_at",)),
        ([moment("created_at"), moment("LastModified")], ("LastModified",)),
        ([moment("created_at"), moment("seen", touched=True)], ("seen",)),
        ([moment("created_at")], ()),
        ([Column("updated_at", "text", "text", "updated_at", ordered=True)], ()),
    ],
)
def test_a_cursor_is_proposed_only_where_it_says_when_a_row_changed(columns: list[Column], cursor: tuple[str, ...]) -> None:
    stream = stream_of(Table(StreamName("t"), "t", tuple(columns)))
    assert stream.cursor == cursor
    assert stream.modes == ("full_refresh", "incremental")


def test_a_schema_says_types_and_nulls() -> None:
    columns = [
        Column("id", "bigint", "integer", "id", nullable=False),
        Column("at", "timestamp", "moment", "at"),
        Column("anything", "json", "json", "anything"),
    ]
    assert json_schema(columns)["properties"] == {
        "id": {"type": "integer"},
        "at": {"type": ["null", "string"], "format": "date-time"},
        "anything": {},
    }


@pytest.mark.parametrize(
    ("text", "seconds", "found"),
    [
        ("2026-03-01 00:00:30", 60, "2026-02-28 23:59:30"),
        ("2026-03-01 00:00:30.250000", 60, "2026-02-28 23:59:30.250000"),
        ("2026-03-01 00:00:30+00", 60, "2026-02-28 23:59:30+00:00"),
        ("2026-03-01 00:00:30.123456789", 0, "2026-03-01 00:00:30.123456789"),
        ("0000-00-00 00:00:00", 60, "0000-00-00 00:00:00"),
        ("0001-01-01 00:00:00", 60, "0001-01-01 00:00:00"),
    ],
)
def test_a_time_becomes_an_earlier_one(text: str, seconds: float, found: str) -> None:
    assert earlier(moment("at"), text, seconds) == found
