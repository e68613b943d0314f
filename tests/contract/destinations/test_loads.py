"""`penstock load`: rows that wait in no queue arrive once, whatever cuts the load off, in every destination with tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from loader.contract.warehouse import Kind
from loader.delivery.rows import RowsWanted
from loader.rows.given import Rows
from penstock.control.data.load import Loaded, load_rows
from shared.errors import ConfigError, Permanent
from tests.support.destinations.opened import Open

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}


class CutOffError(Exception):
    """Stands for the end of the process between two batches."""


def objects(*ids: int, text: str = "new") -> list[dict[str, Any]]:
    return [{"id": number, "text": f"{text} {number}"} for number in ids]


def batches(*given: Rows, cut_after: int = 0) -> Iterator[tuple[Rows, bool]]:
    for number, rows in enumerate(given, 1):
        yield rows, number == len(given)
        if number == cut_after:
            raise CutOffError


async def load(wh: Open, *given: Rows, cut_after: int = 0, **wanted: Any) -> Loaded:
    asked = RowsWanted(**{"table": "t", "token": "one", **wanted})
    return await load_rows("wh", wh.subject.document, asked, batches(*given, cut_after=cut_after))


async def texts(wh: Open) -> list[tuple[int, str]]:
    return sorted((row["id"], row["text"]) for row in await wh.rows("t", SHAPE))


def expected(rows: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    return sorted((row["id"], row["text"]) for row in rows)


async def test_a_load_goes_on_where_it_was_cut_off_and_a_finished_one_changes_nothing(wh: Open) -> None:
    first, second, third = objects(1, 2), pa.Table.from_pylist(objects(3, 4)), objects(5)
    whole = expected(objects(1, 2, 3, 4, 5))
    with pytest.raises(CutOffError):
        await load(wh, first, second, third, cut_after=2)
    done = await load(wh, first, second, third)
    assert done.rows + done.skipped == 5
    assert await texts(wh) == whole
    again = await load(wh, first, second, third)
    assert await texts(wh) == whole
    assert again.skipped in (0, 5), "without a ledger the same objects are written again"
    await load(wh, objects(6), token="two")
    assert await texts(wh) == sorted([*whole, (6, "new 6")])


@pytest.mark.needs("merge")
async def test_of_rows_with_one_key_the_newest_stays_in_any_order(wh: Open) -> None:
    def row(number: int, at: int) -> dict[str, Any]:
        return {"id": number, "text": f"at {at}", "at": at}

    merged: dict[str, Any] = {"write": "merge", "key": ("id",), "cursor": "at"}
    await load(wh, [row(1, 5), row(1, 7), row(2, 5)], **merged)
    await load(wh, [row(1, 6), row(2, 6), row(3, 1)], token="two", **merged)
    assert await texts(wh) == [(1, "at 7"), (2, "at 6"), (3, "at 1")]


@pytest.mark.needs("replace")
async def test_the_old_rows_stay_until_the_last_batch_and_a_refresh_that_was_cut_off_begins_again(wh: Open) -> None:
    await load(wh, objects(1, 2, 3, text="old"), token="old")
    for _ in range(2):
        with pytest.raises(CutOffError):
            await load(wh, objects(3, 4), objects(5), objects(6), cut_after=2, write="replace")
        assert await texts(wh) == expected(objects(1, 2, 3, text="old"))
    await load(wh, objects(3, 4), objects(5), objects(6), write="replace")
    assert await texts(wh) == expected(objects(3, 4, 5, 6))
    await load(wh, objects(7), token="more")
    await load(wh, objects(3, 4), objects(5), objects(6), write="replace")
    left = await texts(wh)
    assert left in (expected(objects(3, 4, 5, 6, 7)), expected(objects(3, 4, 5, 6))), (
        "finished, or done once more where no ledger is"
    )


@pytest.mark.only("postgres")
async def test_a_refused_row_is_named_and_the_load_goes_on_behind_the_rows_that_are_in(wh: Open) -> None:
    await load(wh, objects(1), token="first")
    await wh.subject.run("ALTER TABLE {}.t ALTER COLUMN text SET NOT NULL")
    bad = [*objects(4), {"id": 5, "text": None}]
    with pytest.raises(Permanent, match=r"row 4.*the 2 rows before are loaded.*--token one"):
        await load(wh, objects(2, 3), bad)
    done = await load(wh, objects(2, 3), objects(4, 5))
    assert (done.skipped, done.rows) == (2, 2)
    assert await texts(wh) == expected(objects(1, 2, 3, 4, 5))


@pytest.mark.only("local")
@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"write": "merge", "key": ("id",)}, "cannot merge"),
        ({"write": "merge"}, "--key"),
        ({"write": "replace"}, "cannot replace"),
        ({"key": ("id",)}, "--mode merge"),
    ],
)
async def test_what_a_destination_cannot_do_is_said_before_anything_is_loaded(
    wh: Open, wanted: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        await load(wh, objects(1), **wanted)
