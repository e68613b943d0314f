"""Which values a live column holds as they are."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract.warehouse import Column, Kind, Limits
from loader.fitting.limits import fit_values
from loader.types.lattice import ARROW

CASES: list[tuple[Kind, Limits, list[Any], list[Any]]] = [
    (Kind.BIGINT, Limits(lowest=-5, highest=5), [-5, 0, 5], [-6, 6, 2**63 - 1]),
    (Kind.BIGINT, Limits(lowest=0, highest=2**64 - 1), [0, 2**63 - 1], [-1]),
    (Kind.DECIMAL, Limits(lowest=-99, highest=99), [Decimal(99)], [Decimal(100), Decimal(10) ** 37]),
    (Kind.DOUBLE, Limits(single=True), [0.0, -0.1, 0.5, 16777216.0, 1e-30], [16777217.0, 1e300, 0.1 + 0.2]),
    (Kind.TIMESTAMP, Limits(seconds_digits=3), [0, 1000, -1000], [1, -1, 999]),
    (Kind.TIMESTAMP, Limits(lowest=-10, highest=10), [-10, 10], [11, -11]),
    (Kind.TEXT, Limits(characters=3), ["", "abc", "äöü"], ["abcd", "ab  "]),
    (Kind.OTHER, Limits(one_of=frozenset({"a", "b"})), ["a", "b"], ["A", ""]),
    (Kind.OTHER, Limits(accepted="^[0-9]+$"), ["12"], ["", "1x"]),
    (Kind.OTHER, Limits(refused="x"), ["y"], ["axe"]),
    (
        Kind.OTHER,
        Limits(digits=(4, 2)),
        ["0", "99.99", "-1.50", "0.00"],
        ["100", "1.001", "1e9", "1e1", "-1.500", "-0.0", "007", "+7", ".5", "5.", " 1", "abc", "NaN", "Infinity", ""],
    ),
    (Kind.OTHER, Limits(digits=(2, -1)), ["990", "10"], ["5", "1000"]),
    (Kind.OTHER, Limits(digits=(4, 2)), ["1"], ["9" * 6000]),
]


def test_a_number_with_an_exponent_of_many_digits_is_outside() -> None:
    values = pa.array(["1E+999999999", "1E-999999999", "12.5", "0E+999999999"], pa.string())
    fitted, _ = fit_values(values, Kind.NUMBER, Column("c", Kind.OTHER, limits=Limits(digits=(4, 2))))
    assert fitted.to_pylist()[:3] == [None, None, "12.5"]


@pytest.mark.parametrize(("kind", "limits", "good", "bad"), CASES)
def test_only_what_is_outside_is_marked(kind: Kind, limits: Limits, good: list[Any], bad: list[Any]) -> None:
    values = pa.array([*good, *bad], ARROW[kind])
    fitted, marks = fit_values(values, Kind.TEXT if kind is Kind.OTHER else kind, Column("c", kind, limits=limits))
    assert marks is not None
    assert marks.tolist() == [False] * len(good) + [True] * len(bad)
    assert fitted.slice(0, len(good)).equals(values.slice(0, len(good)))
    assert fitted.slice(len(good)).null_count == len(bad)


def test_a_column_that_is_computed_holds_nothing() -> None:
    fitted, marks = fit_values(pa.array([1, 2], pa.int64()), Kind.BIGINT, Column("c", Kind.BIGINT, writable=False))
    assert fitted.null_count == 2
    assert marks is not None
    assert marks.all()


def test_what_does_not_convert_and_what_is_outside_are_both_marked() -> None:
    column = Column("c", Kind.BIGINT, limits=Limits(highest=9))
    fitted, marks = fit_values(pa.array(["9", "10", "x"]), Kind.TEXT, column)
    assert fitted.to_pylist() == [9, None, None]
    assert marks is not None
    assert marks.tolist() == [False, True, True]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**6), max_value=10**6))
def test_a_decimal_that_fits_is_the_same_after_rounding(value: Decimal) -> None:
    column = Column("c", Kind.OTHER, limits=Limits(digits=(8, 2)))
    _, marks = fit_values(pa.array([str(value)]), Kind.NUMBER, column)
    fits = round(value, 2) == value and abs(value) < 10**6
    assert (marks is None) is fits
