"""ClickHouse's own: tokens and blocks, the view of final rows, engines, keys, types, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch as replaced

import pytest

from loader.contract.warehouse import Column, Kind, TableLoad, TablePatch
from loader.warehouses.clickhouse import inserts as cutting
from loader.warehouses.clickhouse.connect import Link
from loader.warehouses.clickhouse.session import ClickHouseSession
from penstock.control.data.query import ask
from shared.errors import Fenced, NotConnected, PenstockError, Permanent
from tests.support.clickhouse import PASSWORD, ClickHouseServer
from tests.support.delivery import Delivery
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.opened import Open, append, arrow, make, merge, opened, plan
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.only("clickhouse")

SHAPE = {"id": Kind.TEXT, "n": Kind.BIGINT, "received_at": Kind.TIMESTAMP}
AT = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
EVENTS = [{"messageId": str(number), "event": name, "properties": {"n": number}} for number, name in enumerate("aabbc")]


def subject_of(wh: Open) -> ClickHouseSubject:
    assert isinstance(wh.subject, ClickHouseSubject)
    return wh.subject


async def ids(wh: Open, table: str, column: str = "id") -> list[str]:
    return sorted(row[column] for row in await wh.subject.rows(table, {}))


@pytest.mark.parametrize("inserts", [1, 2, 3, 4])
@pytest.mark.parametrize("arrives", [False, True])
async def test_a_plan_that_is_cut_off_at_any_of_its_inserts_arrives_once(wh: Open, inserts: int, arrives: bool) -> None:
    await Delivery(wh, await wh.session(epoch=1), layout="segment", lane="before").send({**EVENTS[0], "messageId": "x"})
    one = Delivery(wh, await wh.session(epoch=2), layout="segment")
    insert, count = Link.insert, 0

    async def breaks(self: Link, *arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count < inserts or arrives:
            await insert(self, *arguments, **named)
        if count >= inserts:
            raise NotConnected("no answer")

    with replaced.object(Link, "insert", breaks), pytest.raises(NotConnected):
        await one.send(*EVENTS)
    for epoch in (3, 4):
        again = Delivery(wh, await wh.session(epoch=epoch), layout="segment")
        assert await again.send(*EVENTS) == {}
    assert await ids(wh, "tracks") == ["0", "1", "2", "3", "4", "x"]
    assert [await ids(wh, table) for table in "abc"] == [["0", "1", "x"], ["2", "3"], ["4"]]


async def test_more_rows_than_a_block_are_inserts_with_numbered_tokens(wh: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "BLOCK_ROWS", 100)
    session = await wh.session()
    await make(session, "t", SHAPE)
    sent = [{"id": f"{n:04}", "n": n, "received_at": AT} for n in range(250)]
    insert, count = Link.insert, 0

    async def breaks(self: Link, *arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        await insert(self, *arguments, **named)
        if count == 2:
            raise NotConnected("no answer")

    with replaced.object(Link, "insert", breaks), pytest.raises(NotConnected):
        await append(session, 1, "t", SHAPE, *sent)
    assert len(await ids(wh, "t")) == 200
    await append(await wh.session(epoch=2), 1, "t", SHAPE, *sent)
    assert await ids(wh, "t") == [row["id"] for row in sent]


async def test_an_insert_is_one_block_however_many_parts_its_stream_has(wh: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.warehouses.clickhouse.encode.PART_ROWS", 10)
    session = await wh.session()
    await make(session, "t", SHAPE)
    sent = [{"id": str(n), "n": n, "received_at": AT} for n in range(1000)]
    await append(session, 1, "t", SHAPE, *sent)
    query = "SELECT rows FROM system.parts WHERE database = '{}' AND table = 't' AND active"
    assert await subject_of(wh).ask(query) == "1000\n"


async def test_a_repeat_brings_the_partitions_that_are_missing(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    months = [{"id": str(month), "n": month, "received_at": AT.replace(month=month, day=1)} for month in range(1, 13)]
    await append(session, 1, "t", SHAPE, *months)
    query = "SELECT count() FROM system.parts WHERE database = '{}' AND table = 't' AND active"
    assert await subject_of(wh).ask(query) == "12\n"
    await append(await wh.session(epoch=2), 1, "t", SHAPE, *months)
    assert len(await ids(wh, "t")) == 12


async def test_a_plan_is_known_for_as_many_inserts_as_the_window_says(wh: Open) -> None:
    destination = await wh.another(deduplication_window=100)
    session = await wh.session(destination=destination)
    await make(session, "t", SHAPE)
    for sequence in [*range(1, 101), 1]:
        await append(session, sequence, "t", SHAPE, {"id": str(sequence)})
    assert len(await ids(wh, "t")) == 100
    await append(session, 101, "t", SHAPE, {"id": "101"})
    await append(session, 1, "t", SHAPE, {"id": "1"})
    assert len(await ids(wh, "t")) == 102, "and no longer: this is the bound that the page of the destination gives"


async def test_a_table_of_somebody_else_gets_a_window(wh: Open) -> None:
    session = await wh.session()
    await wh.subject.run('CREATE TABLE "{}".t (id varchar) ENGINE = MergeTree ORDER BY tuple()')
    shape = {"id": Kind.TEXT}
    for epoch in (2, 3):
        await append(session, 1, "t", shape, {"id": "a"})
        session = await wh.session(epoch=epoch)
    assert await ids(wh, "t") == ["a"]


@pytest.mark.parametrize("engine", ["Memory", "Log", "Null", "SummingMergeTree ORDER BY id"])
async def test_an_engine_that_knows_no_repeat_or_changes_rows_is_refused(wh: Open, engine: str) -> None:
    one = Delivery(wh, await wh.session())
    await wh.subject.run(f'CREATE TABLE "{{}}".events (id varchar NOT NULL) ENGINE = {engine}')
    assert await one.send({"messageId": "1", "n": 1}) == {}
    assert "has the engine" in one.why()
    assert one.kept.aside == 1


async def test_a_refused_event_of_many_tables_is_in_none_of_them(wh: Open) -> None:
    one = Delivery(wh, await wh.session(), layout="segment")
    check = "CONSTRAINT positive CHECK n >= 0"
    for table in ("a", "c"):
        await wh.subject.run(f'CREATE TABLE "{{}}".{table} (id varchar, n bigint, {check}) ENGINE = MergeTree ORDER BY tuple()')
    bad = [{"messageId": f"bad {name}", "event": name, "properties": {"n": -1}} for name in "ac"]
    assert sorted(await one.send(*EVENTS, *bad)) == ["bad a", "bad c"]
    assert await ids(wh, "tracks") == ["0", "1", "2", "3", "4"]
    assert [await ids(wh, table) for table in "abc"] == [["0", "1"], ["2", "3"], ["4"]]
    query = "SELECT count() FROM system.tables WHERE database = '{}' AND name LIKE '\\\\_penstock\\\\_try%'"
    assert await subject_of(wh).ask(query) == "0\n"


async def test_the_view_of_a_merging_table_shows_final_rows_and_new_columns(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"], "received_at")
    await merge(session, 1, "t", SHAPE, {"id": "a", "n": 1, "received_at": AT}, cursor="received_at")
    await session.patch(TablePatch("t", add=(Column("x", Kind.TEXT),)))
    shape = {**SHAPE, "x": Kind.TEXT}
    await merge(session, 2, "t", shape, {"id": "a", "n": 2, "received_at": AT, "x": "new"}, cursor="received_at")
    late = AT.replace(year=2025)
    await merge(session, 3, "t", shape, {"id": "a", "n": 3, "received_at": late, "x": "late"}, cursor="received_at")
    query = "SELECT id, n, x FROM {}.t_final"
    assert await subject_of(wh).ask(query) == "a\t2\tnew\n"


async def test_a_table_takes_the_place_of_a_view_and_a_view_of_nobody_else(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"])
    await make(session, "t_final", SHAPE)
    await append(session, 1, "t_final", SHAPE, {"id": "a"})
    await session.patch(TablePatch("t", add=(Column("x", Kind.TEXT),)))
    assert await ids(wh, "t_final") == ["a"]
    for options in ({"final_view": ""}, {"final_view": "v_{table}"}):
        another = await wh.session("another", destination=await wh.another(**options))
        await make(another, f"u{len(options['final_view'])}", SHAPE, ["id"])
    query = "SELECT name FROM system.tables WHERE database = '{}' AND engine = 'View'"
    assert await subject_of(wh).ask(query) == "v_u9\n"


async def test_events_that_are_called_like_the_view_of_others_are_loaded(wh: Open) -> None:
    one = Delivery(wh, await wh.session(), layout="segment", deduplicate=True)
    assert await one.send({"messageId": "1", "type": "track", "event": "Group"}) == {}
    assert await one.send({"messageId": "2", "type": "track", "event": "Group Final"}) == {}
    assert await one.send({"messageId": "3", "type": "track", "event": "Group", "properties": {"n": 1}}) == {}
    assert one.kept.aside == 0
    assert await ids(wh, "group_final") == ["2"]
    assert await ids(wh, "group") == ["1", "3"]


async def test_a_key_that_changes_is_refused_with_what_to_do_and_a_renamed_table_makes_room(wh: Open) -> None:
    appends = Delivery(wh, await wh.session())
    assert await appends.send({"messageId": "1"}) == {}
    merges = Delivery(wh, await wh.session(epoch=2), deduplicate=True, lane="two")
    assert await merges.send({"messageId": "1"}) == {}
    assert "rename it" in merges.why()
    assert merges.kept.aside == 1
    await wh.subject.run('RENAME TABLE "{}".events TO "{}".events_old')
    again = Delivery(wh, await wh.session(epoch=3), deduplicate=True, lane="three")
    assert await again.send({"messageId": "1"}) == {}
    assert await ids(wh, "events", "message_id") == ["1"]
    appends = Delivery(wh, await wh.session(epoch=4), lane="four")
    assert await appends.send({"messageId": "2"}) == {}
    assert "set deduplicate: true" in appends.why()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Kind.BIGINT, [-(2**63) + 1, -1, 0, 1, 2**63 - 1]),
        (Kind.DOUBLE, [-1e300, -0.5, 0.0, 5e-324, 0.1, 1e300]),
        (Kind.DATE, [AT.date().replace(year=year) for year in (1950, 2026, 2250)]),
        (Kind.TIMESTAMP, [AT.replace(year=year) for year in (1950, 1970, 2026, 2250)]),
        (Kind.BOOLEAN, [False, True]),
    ],
)
async def test_the_newest_cursor_wins_in_whatever_order_rows_come(wh: Open, kind: Kind, values: list[Any]) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, "at": kind, "n": Kind.BIGINT}
    await make(session, "t", shape, ["id"], "at")
    sequence = 0
    for one, older in enumerate([None, *values]):
        for two, newer in enumerate(values[one:]):
            for name, order in (("up", (older, newer)), ("down", (newer, older))):
                for at in order:
                    sequence += 1
                    row = {"id": f"{name} {one} {two}", "at": at, "n": int(at == newer)}
                    await merge(session, sequence, "t", shape, row, cursor="at")
    assert {row["n"] for row in await wh.subject.rows("t", {})} == {1}


async def test_a_cursor_that_has_no_number_is_refused_with_what_to_do(wh: Open) -> None:
    session = await wh.session()
    with pytest.raises(Permanent, match="choose another discriminator"):
        await make(session, "t", {"id": Kind.TEXT, "at": Kind.TEXT}, ["id"], "at")


async def test_lists_and_lowcardinality_arrive(wh: Open) -> None:
    one = Delivery(wh, await wh.session())
    types = "l LowCardinality(String) DEFAULT 'none', m LowCardinality(Nullable(String)), `as` Array(String), `is` Array(Int64)"
    await subject_of(wh).ask(f"CREATE TABLE {{}}.events (message_id String, {types}) ENGINE = MergeTree ORDER BY tuple()")
    await one.send({"messageId": "1", "l": "x", "m": "y", "as": ["a b", "ü"], "is": [1, -2]}, {"messageId": "2", "as": ["a\nb"]})
    first, second = sorted(await wh.subject.rows("events", {}), key=lambda row: str(row["message_id"]))
    assert (first["l"], first["m"], first["as"], first["is"]) == ("x", "y", ["a b", "ü"], [1, -2])
    assert (second["l"], second["m"], second["as"]) == ("none", None, [])
    assert second["_unmapped_data"] == '{"as":["a\\nb"]}'


async def test_a_row_without_a_value_gets_what_the_server_makes_up_where_a_person_says_so(wh: Open) -> None:
    one = Delivery(wh, await wh.session(destination=await wh.another(null_as_default=True)))
    await subject_of(wh).ask("CREATE TABLE {}.events (message_id String, n Int64) ENGINE = MergeTree ORDER BY tuple()")
    assert await one.send({"messageId": "1"}, {"messageId": "2", "n": None}, {"messageId": "3", "n": 3}) == {}
    assert sorted(row["n"] for row in await wh.subject.rows("events", {})) == [0, 0, 3]


async def test_a_column_of_a_forced_type_of_low_cardinality_can_be_null(wh: Open) -> None:
    one = Delivery(wh, await wh.session(), column_types={"l": "LowCardinality(String)"})
    assert await one.send({"messageId": "1", "l": "x"}, {"messageId": "2"}) == {}
    assert sorted(str(row["l"]) for row in await wh.subject.rows("events", {})) == ["None", "x"]


async def test_wide_tables_and_their_statements_are_taken(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, **{f"column_of_a_long_name_{n:04}_{'x' * 30}": Kind.TEXT for n in range(998)}}
    await make(session, "t", shape)
    await append(session, 1, "t", shape, {"id": "a"})
    assert await ids(wh, "t") == ["a"]


async def test_ids_are_found_in_the_tables_of_a_connection(wh: Open) -> None:
    one = Delivery(wh, await wh.session(), layout="segment", deduplicate=True)
    await one.send(*EVENTS)
    found = await wh.destination.find_ids("shop-wh", ["0", "4", "gone", *map(str, range(100, 300))], "id")  # type: ignore[attr-defined]
    assert found["tracks"] == {"0": 1, "4": 1}
    assert (found["a"], found["b"], found["c"]) == ({"0": 1}, {}, {"4": 1})


async def test_a_question_is_answered_and_a_change_is_refused(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, *[{"id": str(n), "n": n} for n in range(5)])
    answer = await ask("wh", wh.subject.document, "SELECT id, n FROM t ORDER BY n", 2)
    assert (answer.columns, answer.rows, answer.more) == (["id", "n"], [["0", 0], ["1", 1]], True)
    for statement in ("DROP TABLE t", "INSERT INTO t (id) VALUES ('x')", "SELECT nosuch FROM t", "SELECT 1 FORMAT CSV"):
        with pytest.raises(PenstockError):
            await ask("wh", wh.subject.document, statement, 0)
    assert len(await ids(wh, "t")) == 5


async def test_an_older_session_is_refused_by_the_server_even_behind_its_own_look(wh: Open) -> None:
    older = await wh.session(epoch=1)
    assert isinstance(older, ClickHouseSession)
    await make(older, "t", SHAPE)
    ready = older._make_ready

    async def overtaken(*arguments: Any) -> None:
        await ready(*arguments)
        await wh.session(epoch=2, destination=await wh.another())

    with replaced.object(older, "_make_ready", overtaken), pytest.raises(Fenced):
        await append(older, 1, "t", SHAPE, {"id": "a"})
    assert await ids(wh, "t") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"password": "wrong"}, "check user and password"),
        ({"database": "nosuch"}, "check `database`"),
        ({"url": "http://127.0.0.1:9"}, "check `url`"),
    ],
)
async def test_what_cannot_be_reached_says_what_to_change(wh: Open, options: dict[str, str], words: str) -> None:
    (result,) = await (await wh.another(**options)).check()
    assert (result.step, result.ok) == ("reach", False)
    assert words in result.message
    assert PASSWORD not in result.message


async def test_asynchronous_inserts_arrive_once_too(wh: Open) -> None:
    session = await wh.session(destination=await wh.another(async_rows=1000))
    await make(session, "t", SHAPE)
    for _ in range(2):
        await append(session, 1, "t", SHAPE, {"id": "a"})
    await append(session, 2, "t", SHAPE, {"id": "b"})
    assert await ids(wh, "t") == ["a", "b"]


async def test_all_ddl_names_the_cluster_and_is_what_the_engine_parses(wh: Open) -> None:
    """The engine of the tests runs no `ON CLUSTER` and has no Keeper: it parses each statement, and runs it for itself alone."""
    run, seen = Link.run, list[str]()

    async def alone(self: Link, doing: str, statement: str, *arguments: Any, **named: Any) -> None:
        await run(self, doing, f"EXPLAIN AST {statement}", parameters=named.get("parameters"))
        seen.append(statement)
        own = statement.replace(" ON CLUSTER `main`", "").replace("ENGINE = Replicated", "ENGINE = ")
        await run(self, doing, own, *arguments, **named)

    with replaced.object(Link, "run", alone):
        destination = await wh.another(cluster="main", engine="ReplicatedMergeTree")
        session = await wh.session(destination=destination)
        await make(session, "t", SHAPE, ["id"], "received_at")
        await make(session, "u", SHAPE)
        await session.patch(TablePatch("t", add=(Column("x", Kind.TEXT),)))
        await session.patch(TablePatch("u", widen=(Column("n", Kind.TEXT),)))
        assert all(result.ok for result in await destination.check())
    ddl = [each for each in seen if each.split()[0] in ("CREATE", "ALTER", "DROP", "KILL")]
    assert {each.split()[0] for each in ddl} == {"CREATE", "ALTER", "DROP", "KILL"}
    assert all(" ON CLUSTER `main`" in each for each in ddl)
    made = [each for each in ddl if each.startswith("CREATE TABLE")]
    assert [each for each in made if "ENGINE = Replicated" not in each and " AS `" not in each] == []


@pytest.mark.parametrize("sent", [2_000, 100_000, 400_000])
async def test_a_connection_that_breaks_in_the_middle_of_the_rows_leaves_none(wh: Open, sent: int) -> None:
    place = subject_of(wh).place
    port = int(place.url.rpartition(":")[2])
    async with TcpProxy(port) as proxy:
        session = await wh.session(destination=await wh.another(url=f"http://127.0.0.1:{proxy.port}"))
        await make(session, "t", SHAPE)
        rows = arrow(SHAPE, [{"id": f"{n} {'x' * 100}", "n": n} for n in range(60_000)])
        proxy.after(sent, proxy.cut)
        with pytest.raises(NotConnected):
            await session.load(plan(1), [TableLoad("t", rows)])
    assert await wh.subject.rows("t", SHAPE) == []
    await (await wh.session(epoch=2)).load(plan(1), [TableLoad("t", rows)])
    assert len(await wh.subject.rows("t", SHAPE)) == 60_000


@pytest.fixture
async def mortal() -> AsyncIterator[tuple[ClickHouseServer, Open]]:
    """A server of its own, that a test may kill."""
    with ClickHouseServer() as server:
        async with opened(ClickHouseSubject(server.place)) as wh:
            yield server, wh


async def test_a_server_that_is_killed_and_comes_back_has_what_it_acknowledged_and_knows_the_tokens(
    mortal: tuple[ClickHouseServer, Open],
) -> None:
    server, wh = mortal
    session = await wh.session()
    await make(session, "t", SHAPE)
    for sequence in range(1, 4):
        await append(session, sequence, "t", SHAPE, {"id": str(sequence)})
    server.kill()
    with pytest.raises(NotConnected):
        await append(session, 4, "t", SHAPE, {"id": "4"})
    with pytest.raises(NotConnected):
        await wh.session(epoch=2)
    server.start()
    session = await wh.session(epoch=2)
    for sequence in range(3, 5):
        await append(session, sequence, "t", SHAPE, {"id": str(sequence)})
    assert await ids(wh, "t") == ["1", "2", "3", "4"]
