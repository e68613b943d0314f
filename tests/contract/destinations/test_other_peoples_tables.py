"""Tables that somebody made by hand: what fits is loaded, what does not goes by the rules, and nothing is rounded, cut or stuck.

Events are delivered as the loader does it, so that a refused row is searched for and its neighbours arrive.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from loader.contract.warehouse import Kind
from tests.support.delivery import Delivery
from tests.support.destinations import Open

pytestmark = pytest.mark.needs("evolve")

SAME = "00000000-0000-0000-0000-00000000000a"
COMPUTED = [
    "now",
    "epoch",
    "infinity",
    "-infinity",
    "today",
    "yesterday",
    "tomorrow",
    "allballs",
    "2026-01-01 BC",
    "0044-03-15 (BC)",
]
HELD: dict[str, list[tuple[str, Any, list[Any]]]] = {
    "both": [
        ("smallint", 32767, [32768, -32769]),
        ("integer", -(2**31), [2**31]),
        ("numeric(12,2)", "19.99", [19.999, "1e12", "abc", "NaN", "007", "+7", ".5", "5.", "1.100"]),
        ("double precision", "-0.5", ["007", "+7", ".5", "5.", "1e3", "1.10", "NaN", "infinity", "9007199254740993"]),
        ("decimal(5,0)", 99999, [100000]),
        ("real", 0.1, [3.141592653589793, "1e300"]),
        ("time", "10:00:00.123456", ["10:00:00.1234567", *COMPUTED, "10:00:00Z", "2026-01-01 10:00:00", "10:00:60"]),
        ("date", "2026-01-01", COMPUTED),
        ("timestamp", "2026-01-01t00:00:00z", [*COMPUTED, "2026-01-01T00:00:00.123456789Z"]),
    ],
    "postgres": [
        ("uuid", SAME, ["nope"]),
        ("interval", "1 day", ["epoch", "infinity"]),
        ("varchar(5)", "abcde", ["abcdef", "abc   "]),
        ("char(5)", "abcde", ["abcdef"]),
        ("varchar(3)[]", '{"abc"}', []),
        ("money", "19.99", ["19.999", "1,999.00", "007"]),
        ("timetz", "10:00:00+02", [*COMPUTED, "10:00:00"]),
        ("timestamptz", "2026-01-01T00:00:00Z", COMPUTED),
        ("interval year to month", None, ["1 year 3 days"]),
        ("tstzrange", "[2026-01-01 00:00:00Z,2026-01-02 00:00:00Z)", ["[now,)", "[epoch,2026-01-02)"]),
        ("timestamptz[]", '{"2026-01-01T00:00:00Z"}', ["{now}", "{epoch}", "{01/02/2026}"]),
        ("time[]", "{10:00}", ["{now}", "{allballs}", "{10:00+02}"]),
        ("timetz[]", "{10:00+02}", ["{10:00}"]),
        ("numeric(4,1)[]", "{1.2}", ["{1.25}"]),
        ("xid", 7, [-1, 2**32, 1.5, True, "now", "7x", "010"]),
        ("xid8", 2**60, [-1, 0.5, "99999999999999999999"]),
        ("tid", "(0,1)", ["<(0,1),2>"]),
        ("cidr", "10.0.0.0/8", [10, 10.5, "1.005"]),
        ("macaddr8", "08:00:2b:01:02:03:04:05", ["08:00:2b:01:02:03x"]),
        ("point[]", '{"(1,2.5)"}', ['{"(9007199254740993,0)"}']),
        ("polygon", "((0,0),(1,1),(1,0.5))", ["((0,0),(0.1234567890123456789,0))"]),
        ("pg_ndistinct", None, ["{}"]),
        ("{}.short[]", "{abcd}", ['{"ab  "}']),
        ("{}.pair[]", None, ['{"(2026-01-01,1)"}']),
        ("{}.floatrange", None, ["[0.1234567890123456789,1)"]),
        ("uuid[]", f"{{{SAME}}}", []),
        ("date[]", "{2026-01-01}", ["{2026-01-01 10:00:00}"]),
        ("timestamp[]", "{2026-01-01 10:00:00.123456}", ["{2026-01-01 10:00:00+02}", "{2026-01-01 10:00:00.1234567}"]),
        ("real[]", "{0.5}", ["{3.141592653589793}"]),
        ("regclass", None, ["pg_class"]),
        ("oid", "1259", ["-1"]),
        ("bytea", "\\x616263", ["a\\134"]),
        ("bit(4)", "1010", ["x0f"]),
        ("name", "abc", ["n" * 64, "ü"]),
        ('"char"', "a", ["ab"]),
        ("{}.pair", None, ["(now,1)"]),
        ("timestamp(3)", "2026-01-01T00:00:00.123Z", ["2026-01-01T00:00:00.123456Z"]),
        ("timestamptz(0)", "2026-01-01T00:00:00Z", ["2026-01-01T00:00:00.5Z"]),
        ("{}.short", "abcd", ["abcde"]),
        ("{}.mood", "good", ["bad"]),
        ("numeric", "1.123456789", ["many", "1e-20000", "0." + "1" * 16384]),
    ],
    "mysql": [
        ("tinyint unsigned", 255, [256, -1]),
        ("mediumint", 8388607, [8388608]),
        ("bigint unsigned", 2**63, [-1]),
        ("varchar(5)", "abcde", ["abcdef", "abc   "]),
        ("char(5)", "abcde", ["abcdef", "ab "]),
        ("tinytext", "ü", ["x" * 256]),
        ("varchar(20) CHARACTER SET latin1", "é", ["😀", "ł"]),
        ("enum('good', 'it''s')", "it's", ["bad", "1", "GOOD"]),
        ("set('a', 'b')", "a,b", ["b,a", "c", "a,"]),
        ("bit(4)", 5, [16, -1]),
        ("year", 2026, [0, 69, 1900]),
        ("timestamp(0) NULL", "2026-01-01T00:00:00Z", ["2026-01-01T00:00:00.5Z", "2039-01-01T00:00:00Z", "1969-12-31T23:59:59Z"]),
        ("datetime(3)", "2026-01-01T00:00:00.123Z", ["2026-01-01T00:00:00.123456Z"]),
        ("decimal(5,2) unsigned", "1.25", ["-1.25", 1.255]),
        ("decimal(65,0)", "7", [1.5]),
        ("double(10,2)", "1.25", [1.255]),
        ("varbinary(8)", "ab", ["abcdefghi"]),
        ("binary(3)", "abc", ["ab", "abcd"]),
        ("point", None, ["POINT(1 1)"]),
    ],
    "clickhouse": [
        ("UInt8", 255, [256, -1]),
        ("UInt64", 2**63, [-1]),
        ("UInt256", 10**30, [-1, 1.5]),
        ("Float32", 0.5, [3.141592653589793, "1e300"]),
        (
            "DateTime",
            "2026-01-01T00:00:00Z",
            ["2026-01-01T00:00:00.5Z", "1969-12-31T23:59:59Z", "2107-01-01T00:00:00Z", *COMPUTED],
        ),
        ("DateTime('Asia/Tokyo')", "2026-01-01T00:00:00Z", COMPUTED),
        ("DateTime64(3)", "2026-01-01T00:00:00.123Z", ["2026-01-01T00:00:00.123456Z"]),
        ("DateTime64(9)", "2026-01-01T00:00:00Z", ["9999-01-01T00:00:00Z"]),
        ("Date", "2026-01-01", ["1969-12-31", "2150-01-01"]),
        ("FixedString(3)", "abc", ["ab", "abcd", "äb"]),
        ("Enum8('good' = 1, 'it''s' = 2)", "it's", ["bad"]),
        ("UUID", SAME, ["{" + SAME + "}", SAME.replace("-", "")]),
        ("IPv4", "10.0.0.255", ["10.0.0.256", "10.0.0", 1, "::1"]),
        ("IPv6", "2001:db8::1", ["1.2.3.4", "x"]),
        ("Decimal(76, 10)", "1.5", ["1.12345678901"]),
        ("Time", None, ["10:00:00", "now"]),
        ("JSON", None, ["x", 1]),
    ],
    "duckdb": [
        ("utinyint", 255, [256, -1]),
        ("ubigint", 2**63, [-1]),
        ("timestamp_s", "2026-01-01T00:00:00+02:00", ["2026-01-01T00:00:00.5Z", *COMPUTED]),
        ("timestamptz[]", "['2026-01-01 00:00:00']", ["[epoch]", "[infinity]"]),
        ("bigint[]", "[1, 2]", ["[1.5]", "[1e1]"]),
        ("bignum[]", "[1]", ["[1.5]"]),
        ("varchar[]", ["a", "now"], [["a\nb"]]),
        ("struct(a timestamp)", "{'a': '2026-01-01 00:00:00'}", ["{'a': epoch}"]),
        ("uhugeint", "7", ["1.5", "007", "-1"]),
        ("timestamp_ms", "2026-01-01T00:00:00.123Z", ["2026-01-01T00:00:00.123456Z"]),
        ("timestamp_ns", "2026-01-01T00:00:00Z", ["9999-01-01T00:00:00Z"]),
        ("uuid", SAME, ["nope"]),
        ("interval", "1 day", ["epoch", "infinity"]),
        ("enum('good', 'it''s')", "it's", ["bad"]),
    ],
}


async def delivery(wh: Open, ddl: str, **options: Any) -> Delivery:
    """Runs DDL, and opens a connection to what it made."""
    session = await wh.session()  # makes the schema
    await wh.subject.run(ddl)
    return Delivery(wh, session, **options)


def keyed(wh: Open, key: str) -> str:
    """Returns what makes a table merge by a key, where that is the table's engine."""
    clickhouse = f" ENGINE = ReplacingMergeTree ORDER BY {key} SETTINGS allow_nullable_key = 1"
    return clickhouse if wh.subject.label == "clickhouse" else ""


async def rows(wh: Open, *columns: str) -> list[tuple[Any, ...]]:
    """Returns columns of the table `events`, in the order of the messages."""
    found = await wh.rows("events", dict.fromkeys(("message_id", *columns), Kind.TEXT), "message_id")
    return [tuple(row[name] for name in columns) for row in found]


@pytest.mark.timeout(90)
async def test_a_value_that_a_column_would_round_or_cut_or_refuse_goes_to_the_unmapped_data(wh: Open) -> None:
    await wh.session()  # makes the schema
    if wh.subject.label == "postgres":
        await wh.subject.run("CREATE DOMAIN {}.short AS varchar(4)")
        await wh.subject.run("CREATE TYPE {}.mood AS ENUM ('good', 'it''s')")
        await wh.subject.run("CREATE TYPE {}.pair AS (at timestamptz, n integer)")
        await wh.subject.run("CREATE TYPE {}.floatrange AS RANGE (subtype = float8)")
    for number, (type_, good, bad) in enumerate([*HELD["both"], *HELD[wh.subject.label]]):
        if wh.subject.label == "clickhouse" and type_ in ("time", "interval"):
            continue  # it has none that is like theirs
        table = f"t{number}"
        await wh.subject.run(f"CREATE TABLE {{}}.{table} (message_id varchar, v {type_})")
        one = Delivery(wh, await wh.session(epoch=number + 2), table=table)
        events = [{"messageId": str(index), "v": value} for index, value in enumerate([good, *bad])]
        assert await one.send(*events) == {}, type_
        found = await wh.rows(table, {"message_id": Kind.TEXT, "v": Kind.TEXT, "_unmapped_data": Kind.JSON}, "message_id")
        assert (found[0]["v"] is None) is (good is None), (type_, found[0])
        assert [(row["v"], json.loads(row["_unmapped_data"])["v"]) for row in found[1:]] == [(None, value) for value in bad], (
            type_
        )


async def test_widen_makes_a_narrower_column_hold_all_of_its_kind(wh: Open) -> None:
    one = await delivery(wh, 'CREATE TABLE "{}".events (message_id varchar, n integer)', on_conflict="widen")
    assert await one.send({"messageId": "1", "n": 1}, {"messageId": "2", "n": 2**40}) == {}
    assert await rows(wh, "n") == [(1,), (2**40,)]


SURVIVING: list[tuple[str, str, Any, list[Any]]] = [
    ("bigint", "9007199254740992", 1.5, [9007199254740992.0, 1.5]),
    ("bigint", "9007199254740993", 1.5, [9007199254740993, None]),
    ("bigint", "9223372036854775807", 1.5, [9223372036854775807, None]),
    ("bigint", "9223372036854775807", "x", ["9223372036854775807", "x"]),
    ("double precision", "9223372036854774784", "x", ["9223372036854774784", "x"]),
    ("double precision", "-9007199254740994", "x", ["-9007199254740994", "x"]),
    ("double precision", "-0.0000001", "x", ["-0.0000001", "x"]),
    ("double precision", "1e23", "x", ["99999999999999991611392", "x"]),
    ("double precision", "1e300", "x", [1e300, None]),
    ("real", "0.1", 0.123456789012345, [0.1, 0.123456789012345]),
    ("timestamptz", "'2026-01-01 00:00:00.123456+00'", "x", ["2026-01-01T00:00:00.123456Z", "x"]),
    ("bytea", "'\\x3c'", "a\\b", [b"<", None]),
    ("date", "'0044-03-15 BC'", "x", [..., None]),
    ("date", "'infinity'", "2026-01-01T10:00:00Z", [..., None]),
]
"""A type, a value stored in it, one that does not fit, and what the column has afterwards."""


@pytest.mark.timeout(90)
@pytest.mark.apart("clickhouse", "it widens only what any value survives")
async def test_a_column_is_widened_only_if_every_stored_value_survives(wh: Open) -> None:
    await wh.session()  # makes the schema
    for number, (type_, stored, value, expected) in enumerate(SURVIVING):
        if wh.subject.label == "mysql" and (type_ == "bytea" or ... in expected):
            continue  # it has no such type, and no such days
        table = f"w{number}"
        await wh.subject.run(f"CREATE TABLE {{}}.{table} (message_id varchar, v {type_})")
        await wh.subject.run(f"INSERT INTO {{}}.{table} VALUES ('1', {stored.replace(' BC', wh_era(wh))})")
        one = Delivery(wh, await wh.session(epoch=number + 2), table=table, on_conflict="widen")
        assert await one.send({"messageId": "2", "v": value}) == {}
        assert one.kept.aside == 0, one.why(table)
        if ... in expected:
            await wh.subject.run(f"DELETE FROM {{}}.{table} WHERE message_id = '1'")  # Python has no such day
        found = await wh.rows(table, {"message_id": Kind.TEXT, "v": Kind.TEXT, "_unmapped_data": Kind.JSON}, "message_id")
        assert [row["v"] for row in found] == [each for each in expected if each is not ...], (type_, stored)
        assert found[-1]["v"] is not None or json.loads(found[-1]["_unmapped_data"]) == {"v": value}, (type_, stored)


def wh_era(wh: Open) -> str:
    """Returns how a database marks years before the first."""
    return " BC" if wh.subject.label == "postgres" else " (BC)"


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


@pytest.mark.only("postgres")
@pytest.mark.parametrize("deduplicate", [False, True])
async def test_a_row_larger_than_a_page_is_found_and_its_neighbours_arrive(wh: Open, deduplicate: bool) -> None:
    # the server names the last row it has read, or one behind the last
    one = Delivery(wh, await wh.session(), deduplicate=deduplicate, max_new_columns=1500)
    events: list[dict[str, Any]] = [{"messageId": f"{n:03}", "n": n} for n in range(103)]
    events.insert(40, {"messageId": "wide", **{f"n{n}": n + 0.5 for n in range(1050)}})
    dead = await one.send(*events)
    assert list(dead) == ["wide"]
    assert "row is too big" in dead["wide"]
    assert len(await rows(wh, "n")) == 103


@pytest.mark.only("postgres")
@pytest.mark.parametrize("deduplicate", [False, True])
async def test_a_column_whose_type_has_no_binary_form_stops_nothing(wh: Open, deduplicate: bool) -> None:
    # the server asks for the binary form of every column of a table that COPY writes to, be it named in the COPY or not
    one = await delivery(wh, 'CREATE TABLE "{}".events (message_id varchar, rights aclitem)', deduplicate=deduplicate)
    assert await one.send(*({"messageId": f"{n:03}"} for n in range(103))) == {}
    assert await one.send({"messageId": "103"}) == {}
    assert one.why() == ""
    assert len(await rows(wh, "rights")) == 104


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


async def test_a_type_that_cannot_be_widened_holds_up_nobody(wh: Open) -> None:
    one = await delivery(wh, 'CREATE TABLE "{}".events (message_id varchar, n bigint)' + keyed(wh, "n"), on_conflict="widen")
    in_the_way = {
        "postgres": 'CREATE VIEW "{}".needs AS SELECT n FROM "{}".events',
        "duckdb": "CREATE INDEX needs ON events (n)",
        "mysql": "CREATE INDEX needs ON events (n)",
    }
    if wh.subject.label in in_the_way:
        await wh.subject.run(in_the_way[wh.subject.label])
    assert await one.send({"messageId": "1", "n": 1}, {"messageId": "2", "n": "text", "new": True}) == {}
    found = [(n, new, json.loads(data)["n"] if data else None) for n, new, data in await rows(wh, "n", "new", "_unmapped_data")]
    assert found == [(1, None, None), (None, True, "text")]


@pytest.mark.parametrize(
    ("options", "alteration"),
    [
        ({"schema_policy": "freeze"}, 'ALTER TABLE "{}".events ADD COLUMN v varchar'),
        ({"schema_policy": "strict"}, 'ALTER TABLE "{}".events ADD COLUMN v varchar'),
        ({}, 'ALTER TABLE "{}".events ALTER COLUMN n TYPE varchar'),
        ({"on_conflict": "dead_letter"}, 'ALTER TABLE "{}".events ALTER COLUMN n TYPE varchar'),
    ],
)
async def test_a_table_altered_by_hand_takes_the_next_value(wh: Open, options: dict[str, Any], alteration: str) -> None:
    ddl = 'CREATE TABLE "{}".events (message_id varchar, n bigint, type varchar, received_at timestamptz, "timestamp" timestamptz, _unmapped_data json)'
    one = await delivery(wh, ddl, **options)
    column = "v" if "schema_policy" in options else "n"
    shape = {"messageId": "1", "n": 1} if column == "v" else {"messageId": "1"}
    refused = await one.send({**shape, column: "x"})
    assert bool(refused) == (options.get("schema_policy") == "strict" or "on_conflict" in options)
    await wh.subject.run(alteration)
    # as a replay of the dead letter, in the same session
    assert await one.send({**shape, "messageId": "2", column: "x"}) == {}
    assert (await rows(wh, column))[-1] == ("x",)
