"""What every source promises that is a database: against real servers, with hostile names."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector_runner.contract import Checkpoint, Ended, Rows, Said, StreamName
from shared.errors import SetupError
from tests.support.sql_sources import CURSOR, TABLE, Database, clickhouse_database, duckdb_database, ids, mysql_database, rows_of

PAGE = 4


@pytest.fixture(params=["clickhouse", "duckdb", "mysql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Each database in turn, with an empty table."""
    found: Database
    if request.param == "mysql":
        found = await mysql_database(request.getfixturevalue("mysql_dsn"), tmp_path)
    elif request.param == "clickhouse":
        found = await clickhouse_database(request.getfixturevalue("clickhouse"), tmp_path)
    else:
        found = await duckdb_database(tmp_path)
    await found.make()
    return found


def seconds(count: int) -> dict[int, str | None]:
    """Returns rows, five of which share each value of the cursor, and some have none."""
    return {id_: None if id_ % 11 == 3 else f"00:00:{id_ // 5:02d}" for id_ in range(count)}


async def test_a_table_is_a_stream_with_its_key_and_all_its_rows(database: Database) -> None:
    await database.add(seconds(30))
    await database.run(f"CREATE VIEW seen AS SELECT id FROM {database.name(TABLE)}")
    streams = await database.streams()
    assert set(streams) == {TABLE, "seen"}
    stream = streams[TABLE]
    assert stream.primary_key == (("id",),)
    assert stream.modes == ("full_refresh", "incremental")
    assert list(stream.json_schema["properties"]) == ["id", CURSOR, "note"]
    assert stream.json_schema["properties"]["id"] == {"type": "integer"}
    assert stream.json_schema["properties"][CURSOR] == {"type": ["null", "string"], "format": "date-time"}
    messages = await database.read(full=True)
    assert sorted(ids(messages)) == list(range(30))
    assert {row["id"]: row["note"] for row in rows_of(messages)} == {id_: f"note {id_}" for id_ in range(30)}
    assert messages[-1] == Ended(StreamName(TABLE), complete=True)
    assert not any(isinstance(each, Checkpoint) for each in messages), "a full read begins from the beginning"
    assert sorted(ids(await database.read(full=True, table="seen"))) == list(range(30))
    assert set(await database.streams(exclude=["se*"])) == {TABLE}


async def test_a_read_that_is_left_at_any_message_goes_on_without_a_gap(database: Database) -> None:
    await database.add(seconds(24))
    whole = await database.read({}, page_rows=PAGE)
    assert sum(isinstance(each, Checkpoint) for each in whole) > 3
    for most in range(1, len(whole)):
        states: dict[StreamName | None, bytes] = {}
        got = ids(await database.read(states, most=most, page_rows=PAGE))
        rest = ids(await database.read(states, page_rows=PAGE))
        assert set(got) | set(rest) == set(range(24)), f"left behind message {most}"


async def test_a_row_with_the_last_value_that_comes_later_is_read_and_so_is_one_without_a_value(database: Database) -> None:
    await database.add({5: "00:00:01", 6: "00:00:02"})
    states: dict[StreamName | None, bytes] = {}
    assert sorted(ids(await database.read(states))) == [5, 6]
    await database.add({1: "00:00:02", 2: None, 3: "00:00:02.001"})
    messages = await database.read(states)
    assert sorted(ids(messages)) == [1, 2, 3, 6]
    assert any(isinstance(each, Said) and "1 rows without" in each.text for each in messages)
    assert sorted(ids(await database.read(states, lookback="1s"))) == [1, 2, 3, 6]
    assert sorted(ids(await database.read(states, lookback="1h"))) == [1, 2, 3, 5, 6]


async def test_a_column_that_was_added_or_dropped_between_two_reads_is_there_or_not(database: Database) -> None:
    await database.add({1: "00:00:01"})
    states: dict[StreamName | None, bytes] = {}
    await database.read(states)
    await database.run(f"ALTER TABLE {database.name(TABLE)} ADD COLUMN more {database.text} DEFAULT 'new'")
    await database.run(f"ALTER TABLE {database.name(TABLE)} DROP COLUMN note")
    (row,) = rows_of(await database.read(states))
    assert set(row) == {"id", CURSOR, "more"}
    assert row["more"] == "new"
    with pytest.raises(SetupError, match='has no column "note"'):
        await database.read(states, columns=(("note",),))


async def test_an_empty_table_is_complete_and_has_a_state(database: Database) -> None:
    states: dict[StreamName | None, bytes] = {}
    messages = await database.read(states)
    assert [type(each) for each in messages] == [Checkpoint, Ended]
    assert not any(isinstance(each, Rows) for each in await database.read(full=True))
    await database.add({7: "00:00:01"})
    assert ids(await database.read(states)) == [7]


async def test_chosen_columns_come_with_the_key_and_the_cursor_alone(database: Database) -> None:
    await database.add({1: "00:00:01"})
    (row,) = rows_of(await database.read(columns=(("id",),)))
    assert list(row) == ["id", CURSOR]


async def test_options_that_do_not_work_are_told_in_words_that_help(database: Database) -> None:
    async with database.source() as source:
        assert (await source.check()).ok
    for options, words in database.wrong:
        async with database.source(**options) as source:
            checked = await source.check()
            assert not checked.ok
            assert words in checked.message
            assert "wrong" not in checked.message or "password" in checked.message
