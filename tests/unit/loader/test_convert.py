"""Every cell of the conversion table."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract.warehouse import Kind
from loader.types.convert import convert
from loader.types.lattice import ARROW

NO = "does not convert"
T1 = datetime(2026, 9, 1, 12, 34, 56, 789_000, tzinfo=UTC)
MIDNIGHT = datetime(2026, 9, 1, tzinfo=UTC)
HUGE = Decimal(2**70)
B, L, F, N, X, T, S, J, D = (
    Kind.BOOLEAN, Kind.BIGINT, Kind.DOUBLE, Kind.DECIMAL, Kind.NUMBER, Kind.TEXT, Kind.TIMESTAMP, Kind.JSON, Kind.DATE,
)  # fmt: skip

CELLS: dict[tuple[Kind, Kind], list[tuple[Any, Any]]] = {
    (B, B): [(True, True), (False, False)],
    (B, L): [(True, 1), (False, 0)],
    (B, F): [(True, 1.0), (False, 0.0)],
    (B, N): [(True, Decimal(1)), (False, Decimal(0))],
    (B, T): [(True, "true"), (False, "false")],
    (B, S): [(True, NO)],
    (B, D): [(True, NO)],
    (B, J): [(True, "true"), (False, "false")],
    (L, B): [(1, True), (0, False), (2, NO), (-1, NO)],
    (L, L): [(2**63 - 1, 2**63 - 1)],
    (L, F): [(7, 7.0), (2**53, float(2**53)), (2**53 + 1, NO), (2**63 - 1, NO), (-(2**63), -(2.0**63))],
    (L, N): [(2**63 - 1, Decimal(2**63 - 1)), (-5, Decimal(-5))],
    (L, T): [(0, "0"), (-12, "-12"), (2**63 - 1, "9223372036854775807")],
    (L, S): [(1_788_000_000, NO)],
    (L, D): [(20, NO)],
    (L, J): [(-12, "-12")],
    (F, B): [(1.0, True), (0.0, False), (0.5, NO), (2.0, NO)],
    (F, L): [(3.0, 3), (-3.0, -3), (3.5, NO), (1e300, NO), (2.0**63, NO), (-(2.0**63), NO), (6.415465605911198e16, 64154656059111980)],
    (F, F): [(0.1, 0.1)],
    (F, N): [(3.0, Decimal(3)), (1e23, Decimal(10**23)), (0.5, NO), (1e38, NO), (1e300, NO)],
    (F, T): [
        (1.5, "1.5"),
        (100.0, "100"),
        (0.1, "0.1"),
        (1e21, "1000000000000000000000"),
        (1e-7, "0.0000001"),
        (-2.5e-10, "-0.00000000025"),
        (1234567.5, "1234567.5"),
        (123456789012345680.0, "123456789012345680"),
    ],
    (F, S): [(1.5, NO)],
    (F, D): [(1.5, NO)],
    (F, J): [(1.5, "1.5"), (1e21, "1000000000000000000000")],
    (N, B): [(Decimal(1), True), (HUGE, NO)],
    (N, L): [(Decimal(5), 5), (HUGE, NO)],
    (N, F): [(HUGE, float(2**70)), (Decimal(2**70 + 1), NO)],
    (N, N): [(HUGE, HUGE)],
    (N, T): [(HUGE, "1180591620717411303424"), (Decimal(-(10**37)), "-1" + "0" * 37)],
    (N, S): [(HUGE, NO)],
    (N, D): [(HUGE, NO)],
    (N, J): [(HUGE, "1180591620717411303424")],
    (X, B): [("12345678901234567.5", NO)],
    (X, L): [("12345678901234567.0", 12345678901234567), ("12345678901234567.5", NO), ("9223372036854775808.0", NO), ("1E+400", NO), ("1E-400", NO)],
    (X, F): [("0.10000000000000001", 0.1), ("0.1000000000000000055511151231257827021181583404541015625", 0.1), ("0.1000000000000000001", NO), ("1E+400", NO), ("1E-400", NO), ("-1E-324", NO)],
    (X, N): [("1180591620717411303424.00", HUGE), ("1.5000000000000000001", NO), ("1E+38", NO), ("1E+999999999", NO), ("1E-999999999", NO)],
    (X, T): [
        ("12345678901234567.890", "12345678901234567.890"),
        ("1.2345678901234567891E-8", "0.000000012345678901234567891"),
        ("1E+400", "1" + "0" * 400),
        ("1E+999999999", "1E+999999999"),
    ],
    (X, S): [("1788000000.1234567891", NO)],
    (X, D): [("20.000000000000000001", NO)],
    (X, J): [("12345678901234567.890", "12345678901234567.890"), ("1E+400", "1E+400"), ("1E+401", '"1E+401"'), ("0." + "1" * 1000, '"0.' + "1" * 1000 + '"')],
    (T, B): [("true", True), ("TRUE", True), ("t", True), ("1", True), ("false", False), ("f", False), ("0", False), ("yes", NO), ("", NO)],
    (T, L): [
        ("42", 42),
        ("-42", -42),
        ("0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", NO),
        ("123456789012345678901", NO),
        ("007", NO),
        ("+7", NO),
        ("-0", NO),
        ("7.0", NO),
        (" 7", NO),
        ("7\n", NO),
        ("٧", NO),
        ("", NO),
        ("seven", NO),
    ],
    (T, F): [
        ("1.5", 1.5),
        ("-1e3", NO),
        (".5", NO),
        ("5.", NO),
        ("7", 7.0),
        ("007", NO),
        ("+7", NO),
        ("1.10", NO),
        ("0.1", 0.1),
        ("0.00000025", 2.5e-7),
        ("1e400", NO),
        ("1e-400", NO),
        ("-0.000e-999", NO),
        ("-0", -0.0),
        ("0.1234567890123456789", NO),
        ("9007199254740992", 2.0**53),
        ("9007199254740993", NO),
        ("12345678901234567891", NO),
        ("18446744073709551616", NO),
        ("100000000000000000000000", NO),
        ("9" * 400, NO),
        ("nan", NO),
        ("inf", NO),
        ("1_000", NO),
        ("0x10", NO),
        (" 1", NO),
        ("1,5", NO),
        ("", NO),
    ],
    (T, N): [("1180591620717411303424", HUGE), ("9" * 38, Decimal("9" * 38)), ("9" * 39, NO), ("007", NO), ("1.0", NO), ("x", NO)],
    (T, T): [("x", "x")],
    (T, S): [
        ("2026-09-01T12:34:56.789Z", T1),
        ("2026-09-01 14:34:56.789+02", T1),
        ("2026-09-01", MIDNIGHT),
        ("2026-09-01T12:34", NO),
        ("soon", NO),
        ("1788000000", NO),
    ],
    (T, D): [("2026-09-01", date(2026, 9, 1)), ("2026-09-01T00:00:00Z", date(2026, 9, 1)), ("2026-09-01T00:00:01Z", NO), ("x", NO)],
    (T, J): [("x", '"x"'), ('say "hi"\n', '"say \\"hi\\"\\n"'), ("[1]", '"[1]"'), ("é", '"é"')],
    (S, B): [(T1, NO)],
    (S, L): [(T1, NO)],
    (S, F): [(T1, NO)],
    (S, N): [(T1, NO)],
    (S, T): [(T1, "2026-09-01T12:34:56.789Z"), (MIDNIGHT, "2026-09-01T00:00:00.000Z")],
    (S, S): [(T1, T1)],
    (S, D): [(MIDNIGHT, date(2026, 9, 1)), (T1, NO)],
    (S, J): [(T1, '"2026-09-01T12:34:56.789Z"')],
    (J, B): [("[true]", NO)],
    (J, L): [("[1]", NO)],
    (J, F): [("[1.5]", NO)],
    (J, N): [("[1]", NO)],
    (J, T): [('[1,{"a":null}]', '[1,{"a":null}]')],
    (J, S): [('["2026-09-01T12:34:56Z"]', NO)],
    (J, D): [("[]", NO)],
    (J, J): [("[1]", "[1]")],
}  # fmt: skip


@pytest.mark.parametrize(("cell", "pairs"), CELLS.items(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else "")
def test_each_cell_of_the_table_converts_what_loses_nothing_and_marks_the_rest(
    cell: tuple[Kind, Kind], pairs: list[tuple[Any, Any]]
) -> None:
    source, target = cell
    for chosen in (pairs, *([pair] for pair in pairs)):
        values = pa.array([value for value, _ in chosen], type=ARROW[source])
        converted, bad = convert(values, source, target)
        assert converted.type == ARROW[target]
        expected = [None if wanted is NO else wanted for _, wanted in chosen]
        assert converted.to_pylist() == expected
        marks = [False] * len(chosen) if bad is None else bad.tolist()
        assert marks == [wanted is NO for _, wanted in chosen]


def test_the_table_is_complete() -> None:
    targets = (B, L, F, N, T, S, J, D)
    assert set(CELLS) == {(source, target) for source in (B, L, F, N, X, T, S, J) for target in targets}


@pytest.mark.parametrize("source", [B, L, F, N, X, T, S, J])
def test_a_type_we_do_not_know_takes_everything_as_its_text(source: Kind) -> None:
    value = CELLS[source, T][0][0]
    values = pa.array([value], type=ARROW[source])
    assert convert(values, source, Kind.OTHER)[0].to_pylist() == convert(values, source, T)[0].to_pylist()
    assert convert(values, source, Kind.OTHER)[1] is None


def test_microseconds_of_a_timestamp_survive_as_text_and_change_no_neighbour() -> None:
    early = datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    values = pa.array([T1.replace(microsecond=123_456), T1, early, early.replace(microsecond=1)], type=ARROW[S])
    assert convert(values, S, T)[0].to_pylist() == [
        "2026-09-01T12:34:56.123456Z",
        "2026-09-01T12:34:56.789Z",
        "1969-12-31T23:59:59.999Z",
        "1969-12-31T23:59:59.000001Z",
    ]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_doubles_as_text_are_plain_and_read_back_the_same(values: list[float]) -> None:
    texts = convert(pa.array(values, type=pa.float64()), F, T)[0].to_pylist()
    for value, text in zip(values, texts, strict=True):
        assert "e" not in text.lower()
        assert math.copysign(1, float(text)) == math.copysign(1, value)
        assert float(text) == value


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1))
def test_any_text_as_json_reads_back_the_same(values: list[str]) -> None:
    texts = convert(pa.array(values, type=pa.string()), T, J)[0].to_pylist()
    assert [json.loads(text) for text in texts] == values
    assert [msgspec.json.decode(text) for text in texts] == values


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.sampled_from([B, F, N, T, J]))
def test_an_integer_that_converts_and_comes_back_is_the_same(values: list[int], target: Kind) -> None:
    converted, bad = convert(pa.array(values, type=pa.int64()), L, target)
    marks = [False] * len(values) if bad is None else bad.tolist()
    for value, there, marked in zip(values, converted.to_pylist(), marks, strict=True):
        assert marked == (there is None)
        if not marked:
            assert int(there) == value


@given(st.lists(st.text(st.sampled_from("0123456789+-.eETtruefalsZ: \n"), max_size=25), min_size=1))
def test_text_that_becomes_an_integer_is_exactly_how_that_integer_is_written(values: list[str]) -> None:
    converted, _ = convert(pa.array(values, type=pa.string()), T, L)
    for value, there in zip(values, converted.to_pylist(), strict=True):
        assert there is None or str(there) == value


@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=1))
def test_a_timestamp_as_text_reads_back_the_same(values: list[datetime]) -> None:
    texts, _ = convert(pa.array(values, type=ARROW[S]), S, T)
    assert convert(texts, T, S)[0].to_pylist() == values
