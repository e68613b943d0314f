"""A table with a column of every kind of type, rows with every kind of value, and what a reader must get."""

from __future__ import annotations

from typing import Any

TYPES = """
    CREATE TYPE mood AS ENUM ('calm', 'very "loud"'); CREATE TYPE pair AS (x int, y text);
    CREATE DOMAIN price AS numeric(12,2);
    CREATE TABLE everything (
        id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, n12 price, n40 numeric(60,2), neg numeric(5,-2),
        t text, v varchar(10), c char(4), by bytea, d date, ts timestamp, tz timestamptz, ti time, iv interval, u uuid,
        j json, jb jsonb, m mood, p pair, r int4range, ip inet, ai int[], at text[], am mood[], an numeric[], ab bool[], aj jsonb[],
        ad timestamptz[], ap pair[], bi bit(3), x xml
    )
"""
INSERTS = (
    """INSERT INTO everything VALUES (1, true, -32768, 9223372036854775807, 0.1, 1e300, 12345678901234567890.0123456789, 12.50,
        123456789012345678901234567890123456789012.25, 12300, E'a,"b"\\n''c''\\r\\t\\\\é😀', '', 'ab', '\\x00ff', '2024-02-29',
        '2024-01-01 12:00:00.123456', '2024-01-01 12:00:00.5+02', '23:59:59.999999', '1 year 2 days 03:04:05.6',
        '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '{"a": 1.10, "b": [null]}', '{"a": 1.10, "b": "\\"x\\""}', 'very "loud"', '(1,"a,b")',
        '[1,5)', '10.0.0.1/8', '{{1,2},{3,NULL}}', ARRAY['', NULL, 'NULL', 'a"b', 'c\\d', '{e,f}', E'g\\nh'],
        ARRAY['calm', 'very "loud"']::mood[], '{1.10,NaN}', '{t,f,NULL}', ARRAY['{"k": "v, {\\"}"}', '3']::jsonb[],
        '{2024-01-01 00:00:00+00}', ARRAY['(1,"x y")']::pair[], '101', '<a>1</a>')""",
    "INSERT INTO everything (id) VALUES (2)",
    """INSERT INTO everything (id, f4, f8, n, n12, t, v, d, ts, tz, j, ai, at) VALUES
        (3, 'NaN', '-Infinity', 'NaN', 'NaN', '\\N', 'null', 'infinity', '-infinity', '0044-03-15 12:00:00+00 BC', 'null', '{}',
         '[0:1]={a,b}')""",
    """INSERT INTO everything (id, d, tz, n, t) VALUES
        (4, '10000-01-01', '294276-01-01', 1e100, '\\.'), (5, '0001-01-01', '9999-12-31 23:59:59.999999+00', -0.5, ' ')""",
)
EXPECTED: dict[int, dict[str, Any]] = {
    1: {
        "id": 1, "b": True, "i2": -32768, "i8": 9223372036854775807, "f4": 0.1, "f8": 1e300, "n12": 12.5, "neg": 12300,
        "t": "a,\"b\"\n'c'\r\t\\é😀", "v": "", "c": "ab  ", "by": "\\x00ff", "d": "2024-02-29",
        "ts": "2024-01-01T12:00:00.123456", "tz": "2024-01-01T10:00:00.500000Z", "ti": "23:59:59.999999", "iv": "P1Y2DT3H4M5.6S",
        "u": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "j": {"a": 1.1, "b": [None]}, "jb": {"a": 1.1, "b": '"x"'}, "m": 'very "loud"',
        "p": '(1,"a,b")', "r": "[1,5)", "ip": "10.0.0.1/8", "ai": [[1, 2], [3, None]],
        "at": ["", None, "NULL", 'a"b', "c\\d", "{e,f}", "g\nh"], "am": ["calm", 'very "loud"'], "an": [1.1, "NaN"],
        "ab": [True, False, None], "aj": [{"k": 'v, {"}'}, 3], "ad": ["2024-01-01 00:00:00+00"], "ap": ['(1,"x y")'], "bi": "101",
        "x": "<a>1</a>",
    },
    2: {"id": 2},
    3: {
        "id": 3, "t": "\\N", "v": "null", "d": "9999-12-31", "ts": "0001-01-01T00:00:00.000000", "tz": "0001-01-01T00:00:00.000000Z", "ai": [],
        "at": ["a", "b"],
    },
    4: {"id": 4, "d": "9999-12-31", "tz": "9999-12-31T23:59:59.999999Z", "t": "\\."},
    5: {"id": 5, "d": "0001-01-01", "tz": "9999-12-31T23:59:59.999999Z", "t": " "},
}  # fmt: skip
"""By id, nulls left out. JSON has no NaN and no infinity, so doubles that are such are left out too."""


def meant(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row without nulls, and without two columns that JSON's numbers do not hold exactly."""
    return {name: value for name, value in row.items() if value is not None and name not in ("n", "n40")}
