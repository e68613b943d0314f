"""Batches of a sync are whole or not at all, and what is not loaded is left out with a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pyarrow as pa
import pytest

from loader.contract.warehouse import TableSchema
from loader.fitting.fit import fit_batch
from loader.rows.rules import Stamp
from loader.syncs.dead import too_many
from loader.syncs.gather import Gatherer, MissingError, Waiting
from loader.syncs.note import states_behind
from loader.syncs.shape import Shaper
from loader.warehouses.duckdb import CAPABILITIES
from shared.events.outcome import DeadReason
from shared.syncs.frames import BatchEnd, RowFrame, RowStream, State, pack_columns, pack_lines
from shared.syncs.progress import StreamProgress

STREAM = RowStream("s", "s", "append")


def frame(run: int, batch: int, count: int = 0, destination: str = "wh") -> RowFrame:
    """Returns a frame; `count`: of the frames of its batch, in the last of them."""
    end = BatchEnd(count) if count else None
    return RowFrame(version=1, sync="o", destination=destination, run=run, batch=batch, end=end)


def test_frames_of_a_batch_come_together_and_those_of_other_runs_are_left_out() -> None:
    gatherer, found, left = Gatherer("wh", 2, 1), list[tuple[int, int, list[int]]](), list[tuple[list[int], str]]()
    frames = [
        frame(1, 9, 1), frame(2, 1, 1), frame(2, 2), frame(2, 2, 2), frame(2, 3), frame(3, 1, 1), frame(2, 3, 1), frame(3, 2, 1, "else"), frame(3, 2, 1),
    ]  # fmt: skip
    for seq, each in enumerate(frames):
        out, batch = gatherer.add(Waiting(seq, each))
        left += [(list(one.seqs), one.reason) for one in out]
        if batch is not None:
            assert not batch.broken
            found.append((batch.run, batch.number, list(batch.seqs)))
    assert found == [(2, 2, [2, 3]), (3, 1, [5]), (3, 2, [8])]
    assert left == [([0], "older_run"), ([1], "repeated"), ([4], "older_run"), ([6], "older_run"), ([7], "destination")]


def test_a_frame_that_the_broker_stored_twice_is_one() -> None:
    gatherer, left = Gatherer("wh", 0, 0), list[int]()
    frames = [(1, frame(1, 1)), (1, frame(1, 1)), (2, frame(1, 1, 2)), (2, frame(1, 1, 2)), (3, frame(1, 2, 1))]
    found = []
    for seq, (number, each) in enumerate(frames):
        out, batch = gatherer.add(Waiting(seq, each, number=number))
        left += [one for each_out in out for one in each_out.seqs]
        found += [(batch.number, list(batch.seqs), batch.broken)] if batch is not None else []
    assert found == [(1, [0, 2], ""), (2, [4], "")]
    assert left == [1, 3]


@pytest.mark.parametrize(
    "frames", [[frame(1, 1, 2)], [frame(1, 2, 1)], [frame(1, 1), frame(1, 2, 1)], [frame(1, 1)] * 2 + [frame(1, 1, 2)]]
)
def test_a_batch_that_lacks_a_frame_is_read_again_and_then_given_up(frames: list[RowFrame]) -> None:
    gatherer = Gatherer("wh", 0, 0)
    *before, last = [Waiting(seq, each) for seq, each in enumerate(frames)]
    for each in before:
        gatherer.add(each)
    with pytest.raises(MissingError) as caught:
        gatherer.add(last)
    again = Gatherer("wh", 0, 0, caught.value.place)
    for each in before:
        again.add(each)
    _, batch = again.add(last)
    assert batch is not None
    assert batch.broken
    assert batch.seqs == list(range(len(frames)))


def test_blocks_of_lines_and_columns_of_one_stream_are_one_batch_and_each_row_is_found_again() -> None:
    table = pa.table({"id": [3, 4], "b": pa.array([b"\\0", None])})
    blocks = (
        pack_lines(0, [b'{"id":1}', b"nothing"]),
        pack_columns(0, table),
        pack_columns(0, table.select(["id"])),
        pack_lines(0, [b'{"id":2}']),
    )
    one = RowFrame(version=1, sync="o", destination="wh", run=1, batch=1, streams=(STREAM,), blocks=blocks, end=BatchEnd(1))
    _, batch = Gatherer("wh", 0, 0).add(Waiting(1, one))
    assert batch is not None
    (shaped,) = Shaper(CAPABILITIES).shape(batch).streams
    assert (shaped.rows, set(shaped.unread)) == (7, {1})
    assert shaped.unread[1][0] is DeadReason.MALFORMED_JSON
    assert shaped.batch is not None
    columns = {source.path: parts for source, parts in shaped.batch.tables["s"].columns}
    values = {int(row): value for part in columns["id",] for row, value in zip(part.rows, part.values.to_pylist(), strict=True)}
    assert [values[row] for row in sorted(values)] == [1, 3, 4, 3, 4, 2]
    assert [shaped.body(row) for row in (0, 1, 2, 5, 6)] == [
        b'{"id":1}',
        b"nothing",
        b'{"id":3,"b":"XDA="}',
        b'{"id":4}',
        b'{"id":2}',
    ]


def test_what_a_connector_says_of_a_row_that_it_cannot_read_is_why_the_row_is_dead() -> None:
    rows = pack_lines(0, [b'{"id":1}', b'"a.csv row 3 has 1 values and not 2: x"', b"[5]"])
    one = RowFrame(version=1, sync="o", destination="wh", run=1, batch=1, streams=(STREAM,), blocks=(rows,), end=BatchEnd(1))
    _, batch = Gatherer("wh", 0, 0).add(Waiting(1, one))
    assert batch is not None
    (shaped,) = Shaper(CAPABILITIES).shape(batch).streams
    assert shaped.unread[1] == (DeadReason.UNREADABLE_RECORD, "a.csv row 3 has 1 values and not 2: x")
    assert shaped.unread[2][0] is DeadReason.NOT_AN_OBJECT
    assert shaped.batch is not None
    assert shaped.batch.rows == 1


def test_a_row_with_more_columns_than_a_table_can_have_keeps_its_key_and_cursor_and_all_values() -> None:
    stream = RowStream("s", "s", "merge", key=(("id",),), cursor=("at",))
    row: dict[str, int] = {**{f"c{number}": number for number in range(CAPABILITIES.max_columns)}, "id": 1, "at": 2}
    block = pack_lines(0, [msgspec.json.encode(row)])
    one = RowFrame(version=1, sync="o", destination="wh", run=1, batch=1, streams=(stream,), blocks=(block,), end=BatchEnd(1))
    _, batch = Gatherer("wh", 0, 0).add(Waiting(1, one))
    assert batch is not None
    (shaped,) = Shaper(CAPABILITIES).shape(batch).streams
    assert shaped.batch is not None
    fitted = fit_batch(shaped.batch, {}, shaped.rules, Stamp(datetime(2026, 1, 1, tzinfo=UTC), "1"))
    (patch,) = fitted.patches
    names = [column.name for column in patch.add]
    assert {"id", "at", "_unmapped_data"} <= set(names)
    assert len(names) <= CAPABILITIES.max_columns
    made = TableSchema({column.name: column for column in patch.add}, primary_key=patch.primary_key or ())
    done = fitted.finish({"s": made})
    assert not done.dead
    (found,) = done.ready[0].load.rows.to_pylist()
    unmapped = json.loads(found.pop("_unmapped_data"))
    assert {**found, **unmapped} == row


def test_a_damaged_block_fails_its_stream_alone() -> None:
    good = pack_lines(0, [b"{}"])
    bad = type(good)(stream=1, rows=2, form=0, size=good.size, block=good.block)
    streams = (STREAM, RowStream("t", "t", "append"))
    one = RowFrame(version=1, sync="o", destination="wh", run=1, batch=1, streams=streams, blocks=(good, bad), end=BatchEnd(1))
    _, batch = Gatherer("wh", 0, 0).add(Waiting(1, one))
    assert batch is not None
    faults = [shaped.fault for shaped in Shaper(CAPABILITIES).shape(batch).streams]
    assert faults[0] == ""
    assert "promises 2" in faults[1]


def test_states_of_failed_streams_stay_where_they_were() -> None:
    known = (State(b"1", "s"), State(b"1", "t", "public"))
    end = BatchEnd(1, states=(State(b"2", "s"), State(b"2", "t", "public")))
    failed = {"public.t": StreamProgress(failed="no"), "s": StreamProgress()}
    assert states_behind(known, end, failed, failed=False) == (known[1], State(b"2", "s"))
    assert states_behind(known, end, {}, failed=True) == known
    assert states_behind(known, BatchEnd(1, states=(State(b"all"),)), failed, failed=False) == known
    assert states_behind(known, BatchEnd(1, states=(State(b"all"),)), {}, failed=False) == (State(b"all"),)
    assert states_behind(known, BatchEnd(1, forgets=("s",)), {}, failed=False) == (known[1],)
    assert states_behind(known, BatchEnd(1, forgets=None), {}, failed=False) == ()


@pytest.mark.parametrize(
    ("dead", "rows", "of_run", "fails"),
    [
        (9, 99, 0, False),
        (99, 99, 0, False),
        (10, 100, 0, False),
        (11, 100, 0, True),
        (1, 50, 999, False),
        (1, 50, 1000, True),
        (0, 0, 2000, False),
    ],
)
def test_the_bound_of_dead_rows(dead: int, rows: int, of_run: int, fails: bool) -> None:
    assert bool(too_many(dead, rows, of_run, {1: (DeadReason.TYPE_CONFLICT, "text")})) is fails
