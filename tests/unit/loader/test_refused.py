"""Finding the rows a destination refuses without saying which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract.warehouse import Session, TableLoad
from loader.delivery.refused import MOST_PROBES, SAMPLE, refused_rows
from loader.fitting.fit import Ready
from shared.errors import RowsRejected


class Silent:
    """Refuses loads that hold a bad row; names it only when told to, as real destinations do by phase."""

    def __init__(self, bad: set[int], naming: bool) -> None:
        self._bad = bad
        self._naming = naming
        self.probes = 0

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        self.probes += 1
        values = loads[0].rows.column("n").to_pylist()
        found = [row for row, value in enumerate(values) if value in self._bad]
        if found:
            raise RowsRejected("t", "out of range", {found[0]: "out of range"} if self._naming else {})


def ready(rows: int) -> Ready:
    return Ready(TableLoad("t", pa.table({"n": list(range(rows))})), np.arange(rows, dtype=np.int32))


class Unique:
    """Refuses a load in which a value stands twice; names the second when told to."""

    def __init__(self, naming: bool) -> None:
        self._naming = naming

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        seen: set[int] = set()
        for row, value in enumerate(loads[0].rows.column("n").to_pylist()):
            if value in seen:
                raise RowsRejected("t", "twice", {row: "twice"} if self._naming else {})
            seen.add(value)


@given(values=st.lists(st.integers(0, 40), min_size=1, max_size=60), naming=st.booleans())
async def test_of_rows_that_refuse_each_other_the_later_ones_are_found(values: list[int], naming: bool) -> None:
    table = Ready(TableLoad("t", pa.table({"n": values})), np.arange(len(values), dtype=np.int32))
    found = await refused_rows(cast("Session", Unique(naming)), table)
    assert set(found) == {row for row, value in enumerate(values) if value in values[:row]}


@given(rows=st.integers(1, 300), bad=st.sets(st.integers(0, 299), max_size=6), naming=st.booleans())
async def test_exactly_the_refused_rows_are_found(rows: int, bad: set[int], naming: bool) -> None:
    session = Silent(bad, naming)
    found = await refused_rows(cast("Session", session), ready(rows))
    assert set(found) == {row for row in bad if row < rows}


async def test_one_bad_row_among_many_costs_few_probes() -> None:
    session = Silent({1234}, naming=False)
    assert set(await refused_rows(cast("Session", session), ready(4096))) == {1234}
    assert session.probes <= 2 * 12 + 2


@pytest.mark.parametrize("rows", [5000])
async def test_the_search_is_bounded_when_every_row_is_bad(rows: int) -> None:
    session = Silent(set(range(rows)), naming=False)
    assert len(await refused_rows(cast("Session", session), ready(rows))) == rows
    assert session.probes <= MOST_PROBES + 2 * SAMPLE


@pytest.mark.parametrize("naming", [True, False])
async def test_no_good_row_is_called_bad_however_many_are(naming: bool) -> None:
    bad = set(range(700)) | set(range(701, 3000, 3))
    session = Silent(bad, naming)
    assert set(await refused_rows(cast("Session", session), ready(3000))) == bad


async def test_rows_named_one_at_a_time_cost_two_probes_each() -> None:
    bad = set(range(0, 4000, 100))
    session = Silent(bad, naming=True)
    assert set(await refused_rows(cast("Session", session), ready(4000), {0: "out of range"})) == bad
    assert session.probes <= 2 * len(bad) + 2
