"""Joins of types."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract.warehouse import Kind
from loader.types.lattice import inexact_as_double, join, join_all

KINDS = st.sampled_from(list(Kind))


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        (Kind.BOOLEAN, Kind.BIGINT, Kind.BIGINT),
        (Kind.BOOLEAN, Kind.DOUBLE, Kind.DOUBLE),
        (Kind.BIGINT, Kind.DOUBLE, Kind.DOUBLE),
        (Kind.BIGINT, Kind.DECIMAL, Kind.DECIMAL),
        (Kind.DECIMAL, Kind.DOUBLE, Kind.DOUBLE),
        (Kind.DOUBLE, Kind.TEXT, Kind.TEXT),
        (Kind.BOOLEAN, Kind.TEXT, Kind.TEXT),
        (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMP),
        (Kind.TIMESTAMP, Kind.TEXT, Kind.TEXT),
        (Kind.TIMESTAMP, Kind.BIGINT, Kind.TEXT),
        (Kind.JSON, Kind.BIGINT, Kind.TEXT),
        (Kind.JSON, Kind.JSON, Kind.JSON),
    ],
)
def test_the_join_is_the_narrowest_kind_for_both(one: Kind, other: Kind, joined: Kind) -> None:
    assert join(one, other) is joined
    assert join(other, one) is joined


def test_joining_is_a_semilattice() -> None:
    for one, other, third in itertools.product(Kind, repeat=3):
        assert join(one, one) is one
        assert join(one, other) is join(other, one)
        assert join(join(one, other), third) is join(one, join(other, third))


@given(st.lists(KINDS, min_size=1))
def test_the_join_of_many_does_not_depend_on_their_order(kinds: list[Kind]) -> None:
    assert join_all(kinds) is join_all(reversed(kinds))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_are_marked_exactly_where_no_double_equals_them(integers: list[int]) -> None:
    marks = inexact_as_double(np.array(integers, dtype=np.int64)).tolist()
    assert marks == [int(float(value)) != value for value in integers]


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**62, -(2**53) - 1])
def test_the_edges_of_exactness_are_known(value: int) -> None:
    assert inexact_as_double(np.array([value], dtype=np.int64)).tolist() == [int(float(value)) != value]
