"""Numbers of which a double would lose digits: how they are found, and that they keep them."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import exact
from tests.unit.loader.shaping import Desk

CANDIDATE = re.compile(rb"[0-9.]{16}|[eE]-[0-9]{3}")
BODIES = st.lists(st.text("0123456789.e-E+ \"'é", max_size=60).map(lambda text: f"{{{text}}}".encode()), min_size=1, max_size=6)


@given(BODIES, st.sampled_from([40, 64, 1 << 17]))
def test_a_body_that_may_hold_such_a_number_is_found_wherever_it_stands(bodies: list[bytes], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_CHUNK", chunk)
        found = exact.suspects(b"".join(bodies), [len(body) for body in bodies])
    assert found >= {number for number, body in enumerate(bodies) if CANDIDATE.search(body)}


@pytest.mark.parametrize("number", [b"1.23456789012345", b"1e-400"])
def test_such_a_number_is_found_across_the_parts_that_are_looked_through(number: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_CHUNK", 40)
    for place in range(100):
        bodies = [b"{" + b" " * place + number + b"}", b"{}"]
        assert exact.suspects(b"".join(bodies), [len(body) for body in bodies]) == {0}, place


@given(st.decimals(allow_nan=False, allow_infinity=False), st.sampled_from(["{}", "{:e}", "{:f}"]))
def test_a_number_read_is_the_number_written(value: Decimal, spelled: str) -> None:
    text = spelled.format(value)
    read = exact.decode(b'{"a":%s}' % text.encode())["a"]
    assert Decimal(repr(read) if isinstance(read, float) else read) == value
    assert isinstance(read, int) or isinstance(read, float) is exact.is_double(float(text), value)


KEPT: list[tuple[str, Any]] = [
    ("12345678901234567.89", "12345678901234567.89"),
    ("[12345678901234567.89,1e400]", "[12345678901234567.89,1E+400]"),
    ('[{"__sql_type":1,"a":12345678901234567.89}]', '[{"a":12345678901234567.89}]'),
    ("[18446744073709551616,0.12345678901234567891]", "[18446744073709551616,0.12345678901234567891]"),
    ("1e-400", "0." + "0" * 399 + "1"),
    ("1e400", "1" + "0" * 400),
    ("1e9999999999999999999", "1e9999999999999999999"),
    ("0.1", 0.1),
    ("1.10", 1.1),
    ("0.30000000000000004", 0.30000000000000004),
    ("1e23", 1e23),
    ("-0.0", -0.0),
    ("-0", 0),
]


@pytest.mark.parametrize(("text", "stored"), KEPT)
@pytest.mark.parametrize("beside", ["", ',"odd":NaN'])
def test_a_new_column_has_the_number_that_was_sent(text: str, stored: Any, beside: str) -> None:
    assert Desk().load(f'{{"v":{text}{beside}}}'.encode()).column("v") == [stored]


@pytest.mark.parametrize(
    "column", ["bigint", "double", "boolean", "timestamp", "text", "decimal(38,0)", "numeric(30,2)", "jsonb"]
)
@pytest.mark.parametrize("policy", ["unmapped", "widen", "variant", "dead_letter"])
def test_a_column_never_has_another_number(column: str, policy: str) -> None:
    texts = ["12345678901234567.89", "12345678901234567.0", "1e-400", "1e400", "0.1234567890123456789", "1.0000000000000000001"]
    desk = Desk({"column_types": {"v": column}, "on_conflict": policy})
    desk.load({"v": 1}, {"v": "x"})
    loaded = desk.load(*(f'{{"v":{text},"n":{number}}}'.encode() for number, text in enumerate(texts)))
    dead = {event.index for event in loaded.dead}
    for row in loaded.rows():
        where = {**json.loads(row.get("_unmapped_data", "{}"), parse_float=Decimal), **row}
        values = [value for name, value in where.items() if name.startswith("v")]
        assert [Decimal(value) for value in values] == [Decimal(texts[row["n"]])], (column, row)
    assert len(loaded.rows()) + len(dead) == len(texts)
