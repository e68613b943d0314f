"""Changes of a real PostgreSQL come from its log: each of them, with its values, in the order of commits."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from connector_runner.contract import Checkpoint, Rows
from connector_runner.sources.postgres.changes import log
from tests.contract.postgres_source.conftest import Place, Reading, Replica, chosen, read
from tests.contract.postgres_source.values import EXPECTED, INSERTS, TYPES, meant


def own(rows: list[dict[str, Any]]) -> list[tuple[int, str | None, bool]]:
    """Returns id, name and whether it is deleted, of each row."""
    return [(row["id"], row["name"], row["_deleted_at"] is not None) for row in rows]


async def test_inserts_updates_and_deletes_come_behind_a_copy(place: Place) -> None:
    await place.driver.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')"
    )
    source = await place.open(method="cdc")
    assert (await source.check()).ok
    (stream,) = await source.discover()
    assert (stream.source_cursor, stream.cursor, stream.deleted, stream.primary_key) == (
        True,
        ("_lsn",),
        ("_deleted_at",),
        (("id",),),
    )
    first = await read(source, chosen([stream], "t"))
    assert own(first.rows("t")) == [(1, "one", False), (2, "two", False), (3, "three", False)]
    async with place.driver.transaction():
        await place.driver.execute(
            "INSERT INTO t VALUES (4, 'four'); UPDATE t SET name = 'eins' WHERE id = 1; DELETE FROM t WHERE id = 2"
        )
    await place.driver.execute("UPDATE t SET id = 33 WHERE id = 3; UPDATE t SET name = name WHERE id = 33")
    try:
        async with place.driver.transaction():
            await place.driver.execute("INSERT INTO t VALUES (5, 'never')")
            raise KeyError
    except KeyError:
        pass
    second = await read(source, chosen([stream], "t"), first.states)
    assert own(second.rows("t")) == [
        (4, "four", False), (1, "eins", False), (2, None, True), (3, None, True), (33, "three", False), (33, "three", False),
    ]  # fmt: skip
    lsns = [row["_lsn"] for row in second.rows("t")]
    assert lsns == sorted(lsns)
    assert min(lsns) >= max(row["_lsn"] for row in first.rows("t"))
    assert len(set(lsns)) == 2, "a transaction has one"
    assert all(row["_committed_at"].startswith("20") for row in second.rows("t"))
    assert second.ended == {"t": True}
    assert "bytes behind" in " ".join(second.said)
    again = await read(source, chosen([stream], "t"), first.states)
    assert own(again.rows("t")) == own(second.rows("t")), "from a state again"
    assert (await read(source, chosen([stream], "t"), again.states)).rows("t") == []


async def test_every_type_comes_from_the_log_as_from_a_copy(place: Place) -> None:
    await place.driver.execute(TYPES)
    source = await place.open(method="cdc")
    selected = chosen(await source.discover(), "everything")
    first = await read(source, selected)
    for insert in INSERTS:
        await place.driver.execute(insert)
    changed = await read(source, selected, first.states)
    ours = ("_lsn", "_committed_at", "_deleted_at")
    rows = [{name: value for name, value in row.items() if name not in ours} for row in changed.rows("everything")]
    assert {row["id"]: meant(row) for row in rows} == EXPECTED
    assert '"tz": 2 times outside' in " ".join(changed.said) or '"tz": 1 times outside' in " ".join(changed.said)


async def test_a_large_value_that_an_update_does_not_touch_is_not_lost(place: Place) -> None:
    await place.driver.execute("CREATE TABLE t (a char(4), b int, body text, list text[], name text, PRIMARY KEY (a, b))")
    await place.driver.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL, ALTER list SET STORAGE EXTERNAL")
    source = await place.open(method="cdc")
    selected = chosen(await source.discover(), "t")
    states = (await read(source, selected)).states
    long = "long'\\" * 2000
    insert = "INSERT INTO t VALUES ('x''', 1, $1, ARRAY[$1], 'a'), ('y', 2, $1, ARRAY[$1], 'b'), ('z', 3, $1, NULL, 'c')"
    await place.driver.execute(insert, long)
    states = (await read(source, selected, states)).states
    await place.driver.execute(
        "UPDATE t SET name = upper(name); UPDATE t SET b = 22 WHERE b = 2; UPDATE t SET name = 'd' WHERE b = 3"
    )
    await place.driver.execute("DELETE FROM t WHERE b = 3")
    rows = (await read(source, selected, states)).rows("t")
    last = {(row["a"], row["b"]): row for row in rows if row["_deleted_at"] is None}
    assert last["x'  ", 1]["body"] == last["y   ", 22]["body"] == long
    assert last["x'  ", 1]["list"] == last["y   ", 22]["list"] == [long]
    assert [row["b"] for row in rows if row["_deleted_at"] is not None] == [2, 3]


async def test_the_former_values_are_told_where_the_log_has_them(place: Place) -> None:
    await place.driver.execute("""
        CREATE TABLE f (id int, name text, n numeric, body text); ALTER TABLE f REPLICA IDENTITY FULL;
        ALTER TABLE f ALTER body SET STORAGE EXTERNAL;
        CREATE TABLE i (id int PRIMARY KEY, code text NOT NULL UNIQUE, name text); ALTER TABLE i REPLICA IDENTITY USING INDEX i_code_key
    """)
    source = await place.open(method="cdc", before_image=True)
    streams = {each.name: each for each in await source.discover()}
    assert streams["f"].primary_key == ()
    assert streams["i"].primary_key == (("code",),)
    selected = chosen(list(streams.values()), "f", "i")
    states = (await read(source, selected)).states
    long = "body" * 2000
    await place.driver.execute("INSERT INTO f VALUES (1, 'a', 1.50, $1)", long)
    await place.driver.execute("UPDATE f SET name = 'b'; DELETE FROM f")
    await place.driver.execute(
        "INSERT INTO i VALUES (1, 'x', 'a'); UPDATE i SET code = 'y'; UPDATE i SET name = 'z'; DELETE FROM i"
    )
    got = await read(source, selected, states)
    full = got.rows("f")
    assert [(row["name"], row["_deleted_at"] is not None, row["body"]) for row in full] == [
        ("a", False, long), ("b", False, long), ("b", True, long),
    ]  # fmt: skip
    assert [row["_before"] for row in full] == [
        None, {"id": 1, "name": "a", "n": 1.5, "body": long}, {"id": 1, "name": "b", "n": 1.5, "body": long},
    ]  # fmt: skip
    assert [(row["code"], row["name"], row["_deleted_at"] is not None) for row in got.rows("i")] == [
        ("x", "a", False), ("x", None, True), ("y", "a", False), ("y", "z", False), ("y", None, True),
    ]  # fmt: skip


async def test_tables_change_while_they_are_followed(place: Place) -> None:
    await place.driver.execute(
        """CREATE TABLE "Or""der" (id int PRIMARY KEY, "na me" text); CREATE TABLE gone (id int PRIMARY KEY)"""
    )
    source = await place.open(method="cdc", slot="own_slot")
    streams = await source.discover()
    selected = chosen(streams, 'Or"der', "gone", columns=None)
    states = (await read(source, selected)).states
    await place.driver.execute("""
        INSERT INTO "Or""der" VALUES (1, 'a'); INSERT INTO gone VALUES (1);
        CREATE TYPE mood AS ENUM ('calm'); ALTER TABLE "Or""der" ADD mood mood DEFAULT 'calm', ADD n numeric(6,2)
    """)
    await place.driver.execute("""INSERT INTO "Or""der" VALUES (2, 'b', 'calm', 1.50); ALTER TABLE "Or""der" DROP "na me" """)
    await place.driver.execute("""INSERT INTO "Or""der" VALUES (3, NULL, 7); ALTER TABLE "Or""der" ALTER n TYPE text""")
    await place.driver.execute("""INSERT INTO "Or""der" VALUES (4, NULL, 'seven'); DROP TABLE gone""")
    got = await read(source, selected, states)
    rows = [{name: value for name, value in row.items() if name[0] != "_"} for row in got.rows('Or"der')]
    assert rows == [
        {"id": 1, "na me": "a"}, {"id": 2, "na me": "b", "mood": "calm", "n": 1.5}, {"id": 3, "mood": None, "n": 7},
        {"id": 4, "mood": None, "n": "seven"},
    ]  # fmt: skip
    said = " ".join(got.said)
    assert 'column "mood" is new' in said
    assert 'column "na me" is gone' in said
    assert "no such table" in said
    assert got.ended == {'Or"der': True, "gone": False}


@pytest.mark.parametrize("most", [2, 10_000])
async def test_a_truncation_empties_what_was_there_before(place: Place, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(log, "MOST_ROWS", most)
    await place.driver.execute("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a'), (2, 'a')")
    source = await place.open(method="cdc")
    selected, replica = chosen(await source.discover(), "t"), Replica()
    got = await read(source, selected)
    replica.take(got.messages, "t")
    await place.driver.execute("INSERT INTO t VALUES (3, 'b')")
    async with place.driver.transaction():  # rows of it may be given on before the table is emptied
        await place.driver.execute(
            "INSERT INTO t SELECT i, 'c' FROM generate_series(4, 9) i; TRUNCATE t; INSERT INTO t VALUES (2, 'd')"
        )
    await place.driver.execute("INSERT INTO t VALUES (3, 'e')")
    got = await read(source, selected, got.states)
    replica.take(got.messages, "t")
    assert replica.rows() == {2: {"id": 2, "name": "d"}, 3: {"id": 3, "name": "e"}}
    assert "was truncated" in " ".join(got.said)
    assert got.ended == {"t": True}
    assert (await read(source, selected, got.states)).rows("t") == []


async def test_partitions_are_one_table_and_only_wanted_columns_come(place: Place) -> None:
    await place.driver.execute("""
        CREATE TABLE t (day date, id int, name text, secret text, twice text GENERATED ALWAYS AS (name || name) STORED, PRIMARY KEY (day, id))
            PARTITION BY RANGE (day);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        INSERT INTO t VALUES ('2024-05-05', 1, 'a', 's')
    """)
    source = await place.open(method="cdc")
    streams = await source.discover()
    assert "twice" not in streams[0].json_schema["properties"], "the log does not tell it"
    selected = chosen(streams, "t", columns=["name"])
    first = await read(source, selected)
    await place.driver.execute("INSERT INTO t VALUES ('2025-05-05', 2, 'b', 's'); UPDATE t SET day = '2025-01-01' WHERE id = 1")
    second = await read(source, selected, first.states)
    found = [(row["day"], row["id"], row["name"], row["_deleted_at"] is not None) for row in first.rows("t") + second.rows("t")]
    assert found == [
        ("2024-05-05", 1, "a", False), ("2025-05-05", 2, "b", False), ("2024-05-05", 1, None, True), ("2025-01-01", 1, "a", False),
    ]  # fmt: skip
    assert {tuple(row) for row in first.rows("t") + second.rows("t")} == {
        ("day", "id", "name", "_lsn", "_committed_at", "_deleted_at")
    }


async def test_a_person_asks_for_a_copy_by_a_row_in_the_table_of_signals(place: Place) -> None:
    await place.driver.execute("""
        CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a'), (2, 'b');
        CREATE TABLE signals (id bigserial PRIMARY KEY, stream text)
    """)
    source = await place.open(method="cdc", signals="public.signals")
    selected = chosen(await source.discover(), "t")
    states = (await read(source, selected)).states
    await place.driver.execute(
        "INSERT INTO t VALUES (3, 'c'); INSERT INTO signals (stream) VALUES ('public.t'), ('public.other')"
    )
    await place.driver.execute("UPDATE t SET name = 'd' WHERE id = 1")
    got = await read(source, selected, states)
    replica = Replica()
    replica.load([{"id": 7, "name": "never there", "_lsn": 1, "_deleted_at": None}])
    replica.take(got.messages, "t")
    assert replica.rows() == {1: {"id": 1, "name": "d"}, 2: {"id": 2, "name": "b"}, 3: {"id": 3, "name": "c"}}
    assert own(got.rows("t"))[0] == (3, "c", False)
    cut = next(
        index for index, each in enumerate(got.messages) if isinstance(each, Checkpoint) and b'"done":true' not in each.state
    )
    rest = await read(source, selected, Reading(got.messages[: cut + 1]).states)
    assert {row["id"] for row in rest.rows("t")} == {1, 2, 3}, "the request is part of the state"


async def test_a_large_transaction_among_small_ones_comes_whole(place: Place) -> None:
    await place.driver.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    source = await place.open(method="cdc")
    selected = chosen(await source.discover(), "t")
    states = (await read(source, selected)).states
    other = await (await place.open()).discover()
    assert other[0].cursor == ()
    large = await asyncpg.connect(place.dsn)
    async with large.transaction():
        await large.execute("INSERT INTO t SELECT i, 'large' FROM generate_series(1, 15000) i")
        await place.driver.execute("INSERT INTO t VALUES (-1, 'small')")
        await large.execute("SAVEPOINT s; INSERT INTO t VALUES (-5, 'back'); ROLLBACK TO s; INSERT INTO t VALUES (-6, 'kept')")
        await place.driver.execute("INSERT INTO t VALUES (-2, 'small')")
    await place.driver.execute("INSERT INTO t VALUES (-3, 'small')")
    await large.close()
    got = await read(source, selected, states)
    ids = [row["id"] for row in got.rows("t")]
    assert ids == [-1, -2, *range(1, 15001), -6, -3], "in the order of commits"
    blocks = [each for each in got.messages if isinstance(each, Rows)]
    assert max(len(each.rows) for each in blocks) <= 10_000
    middle = got.messages[: got.messages.index(blocks[0]) + 2]
    name = selected[0].stream.known_as
    state = json.loads(Reading(middle).states[name])
    assert state["lsn"] < json.loads(got.states[name])["lsn"]
    rest = await read(source, selected, Reading(middle).states)
    assert {row["id"] for row in rest.rows("t")} >= set(ids) - {-1, -2}, "no state is in the middle of it"
