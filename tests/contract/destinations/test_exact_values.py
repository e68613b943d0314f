"""Any JSON number and any text of a time, into a column of any type, under every policy.

What is read back is equal by value; or the original is in `_unmapped_data`; or the event is a dead letter. Nothing else. Equality is
told here with fractions, by none of the loader's code.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from loader.contract.warehouse import Kind
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open

TYPES = [
    "boolean", "smallint", "bigint", "real", "double precision", "decimal(38,0)", "decimal(30,2)", "decimal(5,4)",
    "varchar", "varchar(12)", "date", "time", "timestamp", "timestamptz", "json",
]  # fmt: skip
MORE = {
    "postgres": ["integer", "numeric", "timestamptz(3)", "timetz", "jsonb", "money", "interval", "timestamptz[]", "bytea"],
    "mysql": [
        "integer",
        "bigint unsigned",
        "decimal(10,0)",
        "timestamp(3) NULL",
        "datetime(0)",
        "time(3)",
        "year",
        "char(12)",
        "tinytext",
        "varbinary(20)",
        "double(20,3)",
        "bit(8)",
    ],
    "duckdb": ["utinyint", "ubigint", "timestamp_s", "timestamp_ms", "timestamp_ns", "bigint[]", "timestamptz[]", "blob"],
}

OWN = {
    "clickhouse": [
        "boolean", "smallint", "bigint", "real", "double precision", "decimal(38,0)", "decimal(30,2)", "decimal(5,4)", "varchar",
        "date", "timestamp", "timestamptz", "UInt8", "UInt64", "Int128", "UInt256", "Decimal(76, 10)", "FixedString(3)", "Date32",
        "DateTime64(0)", "DateTime64(3)", "DateTime64(9)", "uuid", "IPv4", "IPv6",
        "Enum8('now' = 1, '1.10' = 2)", "Time",
    ],
}  # fmt: skip
"""Types of a destination that has not all of the others."""

NUMBERS = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: f"{value:.17g}"),
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(-(10**6), 10**6, places=2, allow_nan=False).map(str),
    st.sampled_from(
        ["12345678901234567.89", "1e-400", "1e400", "-0", "-0.0", "1.10", "1e23", "9007199254740993", "5e-324", "1.0", "0e-999"]
    ),
    st.sampled_from(
        ["9223372036854775808", "1e19999", "0.1000000000000000055511151231257827", "1.0000000000000000001", "3.4e38", "0.1"]
    ),
)
DAYS = st.one_of(st.dates().map(str), st.sampled_from(["2026-01-01", "0044-03-15", "10000-01-01", "2026-02-30", "01/02/2026"]))
CLOCKS = st.one_of(
    st.times().map(str), st.sampled_from(["10:00", "23:59:60", "24:00:00", "10:00:00.123456789", "10:00:00.1234560"])
)
TIMES = st.one_of(
    st.tuples(DAYS, st.sampled_from("Tt "), CLOCKS, st.sampled_from(["", "Z", "z", "+02", "-05:30", " UTC", " BC", "+24:00"])).map("".join),
    DAYS,
    CLOCKS,
    st.sampled_from(["now", "epoch", "infinity", "-infinity", "today", "allballs", "{now}", "[epoch]", "007", "+7", ".5", "1e3", "1.10"]),
)  # fmt: skip
PLAIN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_ZONE = r"(?: ?(Z|z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?))?"
INSTANT = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?" + _ZONE + ")?")
CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]+)?)?" + _ZONE)
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
VALUES = st.lists(st.one_of(NUMBERS, TIMES.map(json.dumps)), min_size=6, max_size=16)


@pytest.mark.needs("evolve")
@pytest.mark.parametrize("policy", ["unmapped", "widen", "variant", "dead_letter"])
async def test_a_column_has_the_value_or_it_is_kept_or_refused(wh: Open, policy: str) -> None:
    types = OWN.get(wh.subject.label) or [*TYPES, *MORE[wh.subject.label]]
    await wh.session()  # makes the schema
    for number, batches in enumerate(generated(2), 2):
        table = f"t{secrets.token_hex(4)}"
        columns = ", ".join(f"c{place} {type_}" for place, type_ in enumerate(types))
        await wh.subject.run(f"CREATE TABLE {{}}.{table} (message_id varchar, {columns})")
        one = Delivery(wh, await wh.session(epoch=number), table=table, on_conflict=policy)
        sent: dict[str, tuple[str, str]] = {}
        dead: dict[str, str] = {}
        for values in batches:
            events = [(f"c{place}", value) for place in range(len(types)) for value in values]
            sent |= {f"m{len(sent) + place}": event for place, event in enumerate(events)}
            dead |= await one.send(*(f'{{"{name}":{value}}}'.encode() for name, value in events))
        assert one.kept.aside == 0, one.why(table)
        rows = {row["message_id"]: row for row in await wh.subject.rows(table, {})}
        assert rows.keys() | dead.keys() == sent.keys()
        assert not rows.keys() & dead.keys()
        for message_id, row in rows.items():
            name, value = sent[message_id]
            type_ = types[int(name[1:])]
            found = [(key, each) for key, each in places(row, name) if each is not None]
            assert len(found) == 1, (type_, value, found)
            ((_, each),) = found
            if type_ in ("json", "jsonb") and row.get(name) is not None:
                each = json_value(each)
            assert same(json_value(value), each), (type_, value, found)


@pytest.mark.only("local")
async def test_a_column_of_a_file_has_the_value(wh: Open) -> None:
    one = Delivery(wh, await wh.session())
    for batch in generated(1):
        values = [value for values in batch for value in values]
        # a column that all share, and one for each value, of the type that suits it
        dead = await one.send(*(f'{{"all":{value},"own_{number}":{value}}}'.encode() for number, value in enumerate(values)))
        assert dead == {}
        names = ["message_id", "all", "_unmapped_data", *(f"own_{number}" for number in range(len(values)))]
        shape = defaultdict(lambda: Kind.TEXT, dict.fromkeys(names, Kind.TEXT))
        rows = {row["message_id"]: row for row in await wh.subject.rows("events", shape)}
        for number, value in enumerate(values):
            for name in ("all", f"own_{number}"):
                found = [each for _, each in places(rows[f"m{number}"], name) if each is not None]
                assert len(found) == 1, (value, found)
                assert same(json_value(value), found[0]), (value, found)


def generated(count: int) -> list[tuple[list[str], list[str]]]:
    """Returns pairs of batches of JSON values."""
    found: list[tuple[list[str], list[str]]] = []

    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.tuples(VALUES, VALUES))
    def collect(pair: tuple[list[str], list[str]]) -> None:
        found.append(pair)

    collect()
    return found


def places(row: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """Returns where a value may be: its column, a sibling of it, or the unmapped data."""
    unmapped = json_value(row["_unmapped_data"]) if row.get("_unmapped_data") else {}
    found = [(key, value) for key, value in row.items() if key == name or key.startswith(f"{name}__")]
    return [*found, *((key, value) for key, value in unmapped.items() if key == name)]


def json_value(text: str) -> Any:
    """Returns JSON with every number as a `Decimal`."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def same(sent: Any, found: Any) -> bool:
    """Whether a value is what was sent."""
    if isinstance(found, bytes):
        found = found.decode()
    if isinstance(sent, Decimal):
        return same_number(sent, found)
    if found == sent and type(found) is str:
        return True
    match found:
        case bool():
            return sent.lower() in (("true", "t", "1") if found else ("false", "f", "0"))
        case int() | float() | Decimal():
            return PLAIN.fullmatch(sent) is not None and same_number(Decimal(sent), found)
        case datetime():
            aware = found.replace(tzinfo=found.tzinfo or UTC)
            return instant(sent) == Fraction((aware - EPOCH) // MICROSECOND, 10**6)
        case date():
            return instant(sent) == (found - EPOCH.date()).days * 86400
        case time():
            offset = found.utcoffset()
            since = timedelta(hours=found.hour, minutes=found.minute, seconds=found.second, microseconds=found.microsecond)
            return clock(sent) == (Fraction(since // MICROSECOND, 10**6), offset and offset // timedelta(seconds=1))
        case timedelta():
            return clock(sent) == (Fraction(found // MICROSECOND, 10**6), None)
        case str():
            return (instant(found) is not None and instant(found) == instant(sent)) or (
                PLAIN.fullmatch(sent) is not None and same_number(Decimal(sent), found)
            )
    return False


def same_number(sent: Decimal, found: Any) -> bool:
    """Whether a number is one that was sent; a double may be any of the usual ways to write it."""
    match found:
        case bool():
            return sent in (0, 1) and bool(sent) is found
        case int() | Decimal():
            return sent == found
        case float():
            with np.errstate(over="ignore"):
                spelled = (repr(found), f"{found:.17g}", str(np.float32(found)))
            return sent == Decimal(found) or sent in map(Decimal, spelled)
        case str():
            try:
                return Decimal(found.replace("$", "").replace(",", "")) == sent
            except InvalidOperation:
                return False
    return False


def instant(text: str) -> Fraction | None:
    """Returns the seconds since 1970 that a full date-time or a date means."""
    match = INSTANT.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        since = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC) - EPOCH
    except ValueError:
        return None
    return since // timedelta(seconds=1) + Fraction(fraction or 0) - (zone_seconds(zone) or 0)


def clock(text: str) -> tuple[Fraction, int | None] | None:
    """Returns the seconds since midnight of a time of the day, and its zone."""
    match = CLOCK.fullmatch(text)
    if match is None:
        return None
    hour, minute, second, fraction, zone = match.groups()
    return int(hour) * 3600 + int(minute) * 60 + int(second or 0) + Fraction(fraction or 0), zone_seconds(zone)


def zone_seconds(zone: str | None) -> int | None:
    """Returns a zone as seconds east."""
    if zone is None:
        return None
    if zone in ("Z", "z", "UTC"):
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return (int(digits[:2]) * 3600 + int(digits[2:]) * 60) * (-1 if zone[0] == "-" else 1)
