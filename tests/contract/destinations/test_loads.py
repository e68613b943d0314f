"""`penstock load`: rows that wait in no queue arrive once, whatever cuts the load off, in every destination with tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from loader.contract.warehouse import Kind
from loader.contract.writes import BEGINNING
from loader.delivery.rows import RowsWanted
from loader.rows.given import Rows
from penstock.control.data.load import Loaded, load_rows
from shared.errors import ConfigError, Permanent
from tests.support.destinations.opened import Open
from tests.support.destinations.versions import OWN

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


async def test_decimals_of_arrow_arrive_exactly(wh: Open) -> None:
    """In a warehouse their column is a number that keeps their scale: one with more digits does not fit."""
    totals = pa.array([Decimal("1.10"), Decimal("-1234567890.25")], pa.decimal128(12, 2))
    await load(wh, pa.table({"id": [1, 2], "total": totals}))
    stored = [row["total"] for row in await wh.rows("t", {"id": Kind.BIGINT, "total": Kind.TEXT})]
    assert [Decimal(str(each)) for each in stored] == totals.to_pylist()
    finer = await load(wh, [{"id": 3, "total": 1.105}, {"id": 4, "total": 10.5}], token="two")
    assert dict(finer.unmapped) == ({"total": 1} if wh.capabilities.merge != "no" else {})


@pytest.mark.needs("merge")
async def test_of_rows_with_one_key_the_newest_stays_in_any_order(wh: Open) -> None:
    def row(number: int, at: int) -> dict[str, Any]:
        return {"id": number, "text": f"at {at}", "at": at}

    merged: dict[str, Any] = {"write": "merge", "key": ("id",), "cursor": "at"}
    await load(wh, [row(1, 5), row(1, 7), row(2, 5)], **merged)
    await load(wh, [row(1, 6), row(2, 6), row(3, 1)], token="two", **merged)
    assert await texts(wh) == [(1, "at 7"), (2, "at 6"), (3, "at 1")]


@pytest.mark.needs("deletes")
async def test_rows_with_a_value_in_the_delete_column_delete(wh: Open) -> None:
    merged: dict[str, Any] = {"write": "merge", "key": ("id",), "cursor": "at", "deleted": "gone"}
    first = [{**each, "at": "2026-01-01T00:00:00Z"} for each in objects(1, 2, 3)]
    await load(wh, first, **merged)  # none is deleted: the column is not there yet
    gone = {"at": "2026-01-02T00:00:00Z", "gone": "2026-01-02T00:00:00Z"}
    await load(
        wh,
        [{"id": 1, **gone}, {"id": 2, **gone}, {"id": 2, "text": "new 2", "at": "2026-01-03T00:00:00Z"}],
        token="two",
        **merged,
    )
    assert await texts(wh) == expected(objects(2, 3))


@pytest.mark.needs("insert_only")
async def test_rows_that_are_inserted_once_stay_as_the_first_was(wh: Open) -> None:
    once: dict[str, Any] = {"write": "insert_only", "key": ("id",)}
    await load(wh, [*objects(1), *objects(1, 2, text="old")], **once)
    await load(wh, objects(2, 3, text="late"), token="two", **once)
    assert await texts(wh) == [(1, "new 1"), (2, "old 2"), (3, "late 3")]


@pytest.mark.needs("history")
async def test_versions_of_rows_are_kept_also_of_a_table_that_kept_none_before(wh: Open) -> None:
    old = [{"id": number, "text": "old"} for number in (1, 2)]
    await load(wh, old, token="old", write="merge", key=("id",))
    history: dict[str, Any] = {"write": "history", "key": ("id",), "cursor": "at", "deleted": "gone"}
    day = "2026-01-0{}T00:00:00Z".format
    first = [{"id": 1, "text": "new", "at": day(1)}, {"id": 1, "text": "newer", "at": day(3), "_valid_from": "theirs"}]
    second = [{"id": 2, "at": day(2), "gone": True}, {"id": 3, "text": "x", "at": day(2), "more": 1}]
    for token in ("one", "two"):
        await load(wh, first, second, token=token, **history)
    found = await wh.subject.rows("t", {**SHAPE, **OWN, "more": Kind.BIGINT, "valid_from": Kind.TEXT})
    short = [
        (row["id"], row["text"], row["more"], row["_valid_from"], row["_valid_to"])
        for row in sorted(found, key=lambda row: (row["id"], row["_valid_from"]))
    ]
    d = {number: datetime(2026, 1, number, tzinfo=UTC) for number in (1, 2, 3)}
    assert short == [
        (1, "old", None, BEGINNING, d[1]),
        (1, "new", None, d[1], d[3]),
        (1, "newer", None, d[3], None),
        (2, "old", None, BEGINNING, d[2]),
        (3, "x", 1, d[2], None),
    ]
    assert [row["_current"] for row in found if row["_valid_to"] is None] == [True, True]


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
        ({"write": "history", "key": ("id",)}, "cannot keep versions"),
        ({"write": "history"}, "--mode history needs"),
        ({"write": "insert_only", "key": ("id",)}, "cannot leave rows alone"),
        ({"deleted": "gone"}, "--delete-column"),
    ],
)
async def test_what_a_destination_cannot_do_is_said_before_anything_is_loaded(
    wh: Open, wanted: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        await load(wh, objects(1), **wanted)
