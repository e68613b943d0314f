"""Tables that a person made: their keys, defaults, checks, references and names."""

from __future__ import annotations

import json

import pytest

from loader.contract.warehouse import Kind
from tests.contract.destinations.made_by_hand import delivery, keyed, rows
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open

pytestmark = pytest.mark.needs("evolve")

SAME = "00000000-0000-0000-0000-00000000000a"


async def test_a_value_for_a_column_that_the_database_computes_goes_to_the_unmapped_data(wh: Open) -> None:
    stored = "STORED" if wh.subject.label == "postgres" else ""
    computed = "MATERIALIZED n * 2" if wh.subject.label == "clickhouse" else f"GENERATED ALWAYS AS (n * 2) {stored}"
    one = await delivery(wh, f'CREATE TABLE "{{}}".events (message_id varchar, n bigint, twice bigint {computed})')
    assert await one.send({"messageId": "1", "n": 1, "twice": 5}, {"messageId": "2", "n": 2}) == {}
    assert [
        (twice, json.loads(data)["twice"] if data else None) for twice, data in await rows(wh, "twice", "_unmapped_data")
    ] == [
        (2, 5),
        (4, None),
    ]


@pytest.mark.parametrize("deduplicate", [False, True])
async def test_a_row_without_a_value_gets_the_default_also_beside_one_with_a_value(wh: Open, deduplicate: bool) -> None:
    ddl = """CREATE TABLE "{}".events (message_id varchar, state varchar NOT NULL DEFAULT 'new', n bigint DEFAULT 7)""" + keyed(
        wh, "message_id"
    )
    one = await delivery(wh, ddl, deduplicate=deduplicate)
    assert await one.send({"messageId": "1", "state": "paid", "n": 1}, {"messageId": "2"}) == {}
    assert await rows(wh, "state", "n") == [("paid", 1), ("new", 7)]


async def test_a_row_without_a_value_is_a_dead_letter_where_the_column_must_have_one(wh: Open) -> None:
    one = await delivery(wh, 'CREATE TABLE "{}".events (message_id varchar, n bigint NOT NULL)')
    events = {"messageId": "0", "n": 0}, {"messageId": "1", "n": None}, {"messageId": "2"}, {"messageId": "3", "n": "x"}
    dead = {**await one.send(*events), **await one.send({"messageId": "4"})}
    assert sorted(dead) == ["1", "2", "3", "4"]
    assert await rows(wh, "message_id", "n") == [("0", 0)]


@pytest.mark.needs("coalesce")
async def test_the_latest_traits_keep_what_is_stored_where_a_default_would_take_its_place(wh: Open) -> None:
    ddl = """CREATE TABLE "{}".users (id varchar PRIMARY KEY, plan varchar NOT NULL DEFAULT 'free', received_at timestamptz)"""
    one = await delivery(wh, ddl, layout="segment")
    identify = {"type": "identify", "userId": "a"}
    await one.send({**identify, "messageId": "1", "traits": {"plan": "gold"}})
    others = {"messageId": "3", "type": "identify", "userId": "b", "traits": {"plan": "silver"}}
    await one.send({**identify, "messageId": "2", "traits": {"x": 1}}, others, {**identify, "messageId": "4", "userId": "c"})
    found = await wh.rows("users", {"id": Kind.TEXT, "plan": Kind.TEXT})
    assert [(row["id"], row["plan"]) for row in found] == [("a", "gold"), ("b", "silver"), ("c", "free")]


@pytest.mark.parametrize("count", [20, 150])
@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.apart("clickhouse", "nothing is unique in it")
async def test_rows_that_share_a_unique_value_leave_the_first_of_them(wh: Open, deduplicate: bool, count: int) -> None:
    one = await delivery(
        wh, 'CREATE TABLE "{}".events (message_id varchar PRIMARY KEY, email varchar UNIQUE)', deduplicate=deduplicate
    )
    dead = await one.send(*({"messageId": f"{n:03}", "email": f"e{n % (count - 3)}"} for n in range(count)))
    assert sorted(dead) == [f"{n:03}" for n in range(count - 3, count)]
    assert len(await rows(wh, "email")) == count - 3


@pytest.mark.apart("clickhouse", "the key of a table is what it was created with")
async def test_a_connection_that_appends_drops_the_key_of_one_that_merged_and_leaves_others(wh: Open) -> None:
    one = Delivery(wh, await wh.session(), deduplicate=True)
    assert await one.send({"messageId": "1"}) == {}
    appending = Delivery(wh, await wh.session(epoch=2))
    assert await appending.send({"messageId": "1"}, {"messageId": "2"}) == {}
    assert await appending.send({"messageId": "2"}, {}) == {}
    assert len(await rows(wh, "type")) == 5
    await wh.subject.run('CREATE TABLE "{}".theirs (message_id varchar PRIMARY KEY)')
    theirs = Delivery(wh, await wh.session(epoch=3), table="theirs")
    assert list(await theirs.send({"messageId": "1"}, {"messageId": "1"})) == ["1"]


async def test_keys_that_differ_as_text_and_are_one_key_to_the_database_are_merged_in_order(wh: Open) -> None:
    ddl = 'CREATE TABLE "{}".events (message_id varchar, k uuid PRIMARY KEY, v bigint)' + keyed(wh, "k")
    one = await delivery(wh, ddl, deduplicate=True, primary_key=["k"])
    spelled = (SAME, SAME.upper(), SAME)
    assert await one.send(*({"messageId": str(n), "k": key, "v": n} for n, key in enumerate(spelled))) == {}
    assert await rows(wh, "v") == [(2,)]


async def test_a_row_that_a_check_refuses_is_named_and_its_neighbours_arrive(wh: Open) -> None:
    check = ", CONSTRAINT positive CHECK n > 0" if wh.subject.label == "clickhouse" else " CHECK (n > 0)"
    one = await delivery(wh, f'CREATE TABLE "{{}}".events (message_id varchar, n bigint{check})')
    dead = await one.send({"messageId": "1", "n": 1}, {"messageId": "2", "n": -1}, {"messageId": "3", "n": 3})
    assert list(dead) == ["2"]
    assert await rows(wh, "n") == [(1,), (3,)]


@pytest.mark.apart("clickhouse", "it has no foreign keys")
async def test_tables_that_refer_to_each_other_are_loaded_in_their_order(wh: Open) -> None:
    # the rows of `aaa` come first and refer to those of `zzz` in the same batch
    columns = "message_id varchar, k varchar"
    await wh.session()
    await wh.subject.run(f'CREATE TABLE "{{}}".zzz ({columns} UNIQUE)')
    await wh.subject.run(f'CREATE TABLE "{{}}".aaa ({columns} REFERENCES "{{}}".zzz (k))')
    one = Delivery(wh, await wh.session(epoch=2), table="{{ event.event }}", schema_policy="freeze")
    events = [("aaa", "1"), ("aaa", "2"), ("aaa", "nowhere"), ("zzz", "1"), ("zzz", "2")]
    dead = await one.send(*({"messageId": f"{table}{k}", "event": table, "k": k} for table, k in events))
    assert list(dead) == ["aaanowhere"]
    assert [len(await wh.rows(table, {"k": Kind.TEXT}, "k")) for table in ("aaa", "zzz")] == [2, 2]


async def test_a_column_stays_that_of_the_path_it_was_made_for(wh: Open) -> None:
    one = Delivery(wh, await wh.session(), on_conflict="widen")
    await one.send({"messageId": "1", "orderId": 1, "it's": 1})
    await one.send({"messageId": "2", "orderId": "widened"})
    other = Delivery(wh, await wh.session(epoch=2), lane="later")  # as after a restart
    await other.send({"messageId": "3", "order_id": "late", "orderId": "3", "it_s": 2, "it's": 3})
    await other.send({"messageId": "4", "order_id": "4", "it_s": 4})
    assert await rows(wh, "order_id", "it_s") == [("1", 1), ("widened", None), ("3", 3), ("4", 4)]


async def test_names_of_system_columns_are_names_like_others(wh: Open) -> None:
    one = Delivery(wh, await wh.session())
    names = ("ctid", "xmin", "tableoid", "rowid", "oid")
    assert await one.send({"messageId": "1", **dict.fromkeys(names, "x")}) == {}
    assert one.kept.aside == 0


@pytest.mark.parametrize("deduplicate", [True, False], ids=["merge", "append"])
async def test_names_that_the_loader_uses_itself_cost_no_value(wh: Open, deduplicate: bool) -> None:
    one = Delivery(wh, await wh.session(), on_conflict="widen", deduplicate=deduplicate)
    names = ("widened", "turn", "index", "rows", "stage", "n", "0", "1", "version")
    ours = {f"_penstock_{name}": name for name in names}
    assert await one.send({"messageId": "1", "x": True, **ours}) == {}
    assert await one.send({"messageId": "2", "x": "text", **ours}, {"messageId": "2", "x": "text", **ours}) == {}
    stored = await rows(wh, *(f"__penstock_{name}" for name in names))
    assert set(stored) == {names}
    assert one.kept.aside == 0


async def test_a_view_of_that_name_says_so(wh: Open) -> None:
    one = await delivery(wh, 'CREATE VIEW "{}".events AS SELECT 1 AS n')
    assert await one.send({"messageId": "1", "n": 1}) == {}
    assert "is a view" in one.why()
    assert one.kept.aside == 1
