"""Which text a warehouse's own types are given: what they hold as it stands, and nothing they would round, cut or compute."""

from __future__ import annotations

import pyarrow as pa
import pytest

from loader.contract.warehouse import Column, Kind, Limits
from loader.fitting.limits import fit_values
from loader.warehouses.duckdb import types as duckdb
from loader.warehouses.postgres import types as postgres

LONG = "0.1234567890123456789"
POSTGRES: list[tuple[str, list[str], list[str]]] = [
    ("integer[]", ["{1,-2,NULL}", "{{1},{2}}"], ["{1.5}", "{007}", "{+7}", "{0x1f}", "{1e3}"]),
    ("boolean[]", ["{t,false}"], ["{yes}", "{1}"]),
    ("real[]", ["{0.5,3.14159}"], ["{3.141592653589793}", "{16777217}", "{1e39}"]),
    ("double precision[]", ["{0.1,-2}", "{9007199254740992}"], ["{9007199254740993}", f"{{{LONG}}}", "{.5}", "{NaN}"]),
    ("numeric[]", [f"{{1.10,{LONG}}}"], ["{1e-20000}", "{0." + "1" * 1001 + "}"]),
    ("numeric(4,1)[]", ["{1.2,3}"], ["{1.25}"]),
    ("numeric(5,0)[]", ["{12}"], ["{1.2}"]),
    ("numeric(5,-2)[]", [], ["{100}", "{1}"]),
    ("character varying(3)[]", ['{abc,"a b"}'], ['{"ab  "}', "{ab\\ }"]),
    ("text[]", ['{now,"a  "}'], []),
    ("jsonb[]", [], ['{"1e-20000"}']),
    ("time(0) without time zone[]", [], ["{10:00:00.7}", "{10:00}"]),
    ("timestamp(0) without time zone[]", [], ["{2026-01-01 10:00:00.7}"]),
    ("money[]", [], ["{1.005}"]),
    ("xid[]", [], ["{1.5}"]),
    ("interval[]", [], ["{00:00:00.1234567}"]),
    ("interval(0)[]", [], ["{00:00:00.7}"]),
    ("name[]", [], ["{" + "n" * 70 + "}"]),
    ("oid[]", [], ["{-1}"]),
    ("inet[]", ["{10.0.0.1}"], []),
    ("point", ["(1,2.5)", "1,-2"], [f"({LONG},1)", "(9007199254740993,1)", "(1e400,1)", "(infinity,1)"]),
    ("point[]", ['{"(1,2)"}'], [f'{{"({LONG},1)"}}']),
    ("path", ["[(0,0),(1,1)]"], [f"[(0,0),(1,{LONG})]"]),
    ("polygon", ["((0,0),(1,1),(1,0))"], ["((0,0),(1,1),(007,0))"]),
    ("box", ["(1,1),(0,0)"], [f"({LONG},1),(0,0)"]),
    ("lseg", ["[(0,0),(1,1)]"], [f"[({LONG},1),(0,0)]"]),
    ("circle", ["<(0,0),1>"], [f"<(0,0),{LONG}>"]),
    ("line", ["{1,-1,0.5}"], ["[(0,0),(1,1)]", f"{{1,-1,{LONG}}}"]),
    ("line[]", [], ['{"{1,-1,0}"}']),
    ("int4range", ["[1,5)", "empty"], ["[1.5,2)", "[01,5)"]),
    ("numrange", [f"[{LONG},2)", "(,2]"], ["[1e-20000,1)"]),
    ("nummultirange", ["{[1,2),[3,4.5)}"], ["{[1e3,)}"]),
    ("numrange[]", ['{"[1,2)"}'], []),
    ("tstzrange[]", ['{"[2026-01-01,)"}'], ['{"[now,)"}']),
    ("macaddr8", ["08:00:2b:01:02:03", "08002b010203", "0800.2b01.0203"], ["9007199254740993", "995805.82860892848"]),
    ("cube", ["(0.5)", f"({0.1 + 0.2})"], [f"({LONG})"]),
    ("vector(3)", ["[0.5,0.1,3.14159]"], ["[0.123456789,1,1]"]),
    ("geometry(Point,4326)", ["POINT(-71.060316 48.432044)", "0101000020E6100000" + "0" * 32], [f"POINT({LONG} 1)"]),
    ("tsvector", ["cat:3 dog"], ["cat:20000", "\\xcat"]),
    *((each, [], ["1", "{}"]) for each in ("int2vector", "aclitem", "pg_ndistinct", "pg_snapshot", "regclass")),
]
"""A type, text that it is given, and text that it is not."""
MADE: list[tuple[str, tuple[str, str], list[str], list[str]]] = [
    ("pair", ("pair", "c"), [], ["(1,a)"]),
    ("pair[]", ("pair", "c"), [], ['{"(1,a)"}']),
    ("floatrange", ("floatrange", "r"), [], ["[0.5,1)"]),
    ("floatmultirange[]", ("floatmultirange", "m"), [], ['{"{[0.5,1)}"}']),
    ("numrange", ("numrange", "r"), ["[0.5,1)"], []),
    ("short[]", ("character varying(4)", "b"), ["{abcd}"], ['{"ab  "}']),
    ("cents[]", ("numeric(10,2)", "b"), ["{1.25}"], ["{1.255}"]),
    ("stamp[]", ("timestamp(0) without time zone", "b"), [], ["{2026-01-01 10:00:00.7}"]),
]
"""The same of types made by their owner, with the type inside."""
DUCKDB: list[tuple[str, list[str], list[str]]] = [
    ("VARCHAR[]", ['["now","a\\"b","c d"]', "[1.5]"], ['["a\\nb"]', '["\\u0001"]']),
    ("STRUCT(a VARCHAR)", ['{"a":"x"}'], ['{"a":"x\\ny"}']),
    ("JSON[]", ['["a\\nb",1.5]', f"[{0.1 + 0.2}]"], [f"[{LONG}]", "[9007199254740993]"]),
    ("BIGINT[]", ["[1,-2]"], ["[1.5]", "[1e1]", "['007']", "['+7']", "['1_000']", "['0x1f']"]),
    ("BIGNUM[]", ["[1]"], ["[1.5]", "['.5']", "['1\\5']"]),
    ("DOUBLE[]", ["[0.5,1.0]", f"[{0.1 + 0.2}]", "[1e300]"], ["[9007199254740993]", f"[{LONG}]", "[1e400]", "[-007]"]),
    ("DOUBLE[3]", ["[0.5,1.0,2]"], [f"[{LONG},1,2]"]),
    ("FLOAT[]", ["[0.5,3.14159]"], ["[3.141592653589793]"]),
    ("DECIMAL(5,2)[]", ["[1]"], ["[1.005]", "[1e-5]"]),
    ("BOOLEAN[]", ["[true,1]"], ["[yes]"]),
    ("BIT[]", ["[101]"], ["[x0f]"]),
    ("INTERVAL[]", [], ["[00:00:00.1234567]"]),
    ("BLOB", ["abc", "\\x61\\x62"], ["a\\x41", "\\x6162"]),
    ("BLOB[]", [], ["[a\\x41]"]),
    ("DATE[]", ["[2026-01-01]", '["2026-01-01"]'], ["[2026-01-01 10:00:00]", "[epoch]"]),
    ("TIME[]", ["[10:00:00.5]"], ["[10:00:00.1234567]", "[10:00:00+02]", "[2026-01-01 10:00:00]"]),
    ("TIME WITH TIME ZONE[]", ["[10:00:00+02]"], ["[10:00:00]"]),
    ("TIMESTAMP_S[]", ["[2026-01-01 10:00:00]"], ["[2026-01-01 10:00:00.7]"]),
    ("TIMESTAMP_MS[]", ["[2026-01-01 10:00:00.123]"], ["[2026-01-01 10:00:00.1234]"]),
    ("TIMESTAMP WITH TIME ZONE[]", ["['2026-01-01 10:00:00+02']"], ["[2026-01-01 10:00:00 Europe/Berlin]", "[infinity]"]),
    ("STRUCT(a INTEGER, b TIMESTAMP)", ["{'a': 1, 'b': '2026-01-01 10:00:00'}"], ["{'a': 007, 'b': '2026-01-01 10:00:00'}"]),
    ("STRUCT(d DATE)", ["{'d': 2026-01-01}"], ["{'d': '2026-01-01 10:00:00'}"]),
    ("STRUCT(b INTERVAL)", [], ["{'b': 1 day}"]),
    ("MAP(VARCHAR, INTEGER)", ["{a=1}"], ["{a=1.5}"]),
]


@pytest.mark.parametrize(("native", "good", "bad"), POSTGRES)
def test_types_of_postgres_are_given_what_they_hold(native: str, good: list[str], bad: list[str]) -> None:
    assert taken(postgres.limits_of(native), good, bad) == [*good]


@pytest.mark.parametrize(("native", "inside", "good", "bad"), MADE)
def test_types_made_by_their_owner_are_given_what_the_type_inside_holds(
    native: str, inside: tuple[str, str], good: list[str], bad: list[str]
) -> None:
    assert taken(postgres.limits_of(native, (), inside), good, bad) == [*good]


@pytest.mark.parametrize(("native", "good", "bad"), DUCKDB)
def test_types_of_duckdb_are_given_what_they_hold(native: str, good: list[str], bad: list[str]) -> None:
    assert taken(duckdb.limits_of(native), good, bad) == [*good]


def taken(limits: Limits | None, good: list[str], bad: list[str]) -> list[str]:
    """Returns which texts a column takes."""
    fitted, _ = fit_values(pa.array([*good, *bad], pa.string()), Kind.TEXT, Column("c", Kind.OTHER, limits=limits))
    return [text for text in fitted.to_pylist() if text is not None]
