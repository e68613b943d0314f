"""Columns that a person made: they hold exactly what they can hold, and are widened only where nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loader.contract.warehouse import Kind
from tests.contract.destinations.made_by_hand import delivery, keyed, rows
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open

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
