"""Rows become frames and batches: none is lost, states stand behind their rows, batches end where they should."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector_runner.contract import Checkpoint, JsonRows, Row, Rows, StreamName
from connector_runner.rules.sifting import Rules as RowRules
from connector_runner.rules.sifting import Sieve
from connector_runner.syncs.packing import Packer
from shared.errors import Permanent
from shared.rules.where import read_where
from shared.syncs.frames import ARROW, BatchEnd, Over, RowFrame, RowStream

USERS, TAGS = StreamName("users", "crm"), StreamName("tags")
STREAMS = [
    RowStream(name=str(USERS), table="users", write="merge", key=(("id",),)),
    RowStream(name=str(TAGS), table="tags", write="append"),
]


def packer(max_rows: int = 1000, max_bytes: int = 1 << 20) -> Packer:
    return Packer(sync="s", destination="wh", run=9, streams=STREAMS, max_rows=max_rows, max_bytes=max_bytes)


def rows_of(frames: list[RowFrame]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for frame in frames:
        for block in frame.blocks:
            name = frame.streams[block.stream].name
            if block.form == ARROW:
                found.extend((name, str(row["id"]).encode()) for row in block.columns().to_pylist())
            else:
                found.extend((name, line) for line in block.lines())
    return found


def test_rows_that_are_filtered_count_as_read_and_are_in_no_frame() -> None:
    sieve = Sieve(RowRules(where=read_where({"field": "id", "gte": 2})), datetime.now(UTC), lambda: b"")
    packing = Packer(
        sync="s", destination="wh", run=9, streams=STREAMS, max_rows=3, max_bytes=1 << 20, sieves={"crm.users": sieve}
    )
    packing.add(JsonRows(USERS, [b'{"id":1}', b'{"id":2}']))
    packing.add(Rows(USERS, pa.table({"id": [0, 1]})))
    packing.add(Rows(USERS, pa.table({"id": [1, 3]})))
    packing.add(Row(USERS, b'{"id":0}'))
    packing.note(Checkpoint(USERS, b"1", rows=7))
    assert packing.counted["crm.users"].rows == 7
    assert not packing.batch_is_full or packing.holds
    frame = packing.end(last=True)
    assert rows_of([frame]) == [("crm.users", b'{"id":2}'), ("crm.users", b"3")]
    assert (frame.rows, packing.counted["crm.users"].packed, sieve.filtered) == (2, 2, 5)
    packing.add(Row(USERS, b'{"id":0}'))
    with pytest.raises(Permanent, match="sent 2 rows before this state, 1 came"):
        packing.note(Checkpoint(USERS, b"2", rows=2))


def test_what_is_no_json_in_a_column_of_json_fails_the_run() -> None:
    sieve = Sieve(
        RowRules(where=read_where({"field": "doc.x", "eq": 2}), json=frozenset(("doc",))), datetime.now(UTC), lambda: b""
    )
    packing = Packer(sync="s", destination="wh", run=9, streams=STREAMS, max_rows=3, max_bytes=1, sieves={"tags": sieve})
    with pytest.raises(Permanent, match=r"stream tags: .* column of JSON"):
        packing.add(Rows(TAGS, pa.table({"doc": ["{"]})))


def test_rows_of_a_stream_keep_their_order_in_either_form() -> None:
    packing = packer()
    packing.add(Row(USERS, b"1"))
    packing.add(Row(TAGS, b"a"))
    packing.add(Rows(USERS, pa.table({"id": [2, 3]})))
    packing.add(Row(USERS, b"4"))
    frame = packing.end(last=True)
    assert [row for name, row in rows_of([frame]) if name == "crm.users"] == [b"1", b"2", b"3", b"4"]
    assert frame.end is not None
    assert (frame.rows, frame.end.frames, frame.end.last, frame.batch) == (5, 1, True, 2)
    assert packing.counted["crm.users"].packed == 4
    assert packing.counted["tags"].packed == 1


def test_an_end_counts_its_frames_and_has_the_newest_state_of_each_stream() -> None:
    packing = packer()
    packing.add(Row(USERS, b"1"))
    first = packing.take()
    packing.note(Checkpoint(USERS, b"s1", 1))
    packing.add(Row(USERS, b"2"))
    packing.note(Checkpoint(USERS, b"s2", 1))
    packing.note(Checkpoint(TAGS, b"t1", 0))
    last = packing.end([Over(STREAMS[0], complete=True)])
    assert first.end is None
    assert last.end is not None
    assert last.end.frames == 2
    assert [(each.name, each.state) for each in last.end.states] == [("users", b"s2"), ("tags", b"t1")]
    assert (packing.batch, packing.end().end) == (3, BatchEnd(1))


def test_a_batch_ends_behind_a_state_from_its_middle_on_and_at_its_bound_in_any_case() -> None:
    packing = packer(max_rows=10)
    for number in range(4):
        packing.add(Row(USERS, b"%d" % number))
    packing.note(Checkpoint(USERS, b"s", 4))
    assert not packing.batch_is_full
    packing.add(Row(USERS, b"4"))
    assert not packing.batch_is_full
    packing.note(Checkpoint(USERS, b"s", 1))
    full = [packing.batch_is_full]
    for number in range(5):
        packing.add(Row(TAGS, b"%d" % number))
        full.append(packing.batch_is_full)
    assert full == [True, False, False, False, False, True]


def test_rows_that_no_state_covers_are_dropped_on_request() -> None:
    packing = packer()
    packing.add(Row(USERS, b"1"))
    packing.add(Rows(TAGS, pa.table({"id": [7]})))
    packing.note(Checkpoint(USERS, b"s", 1))
    packing.add(Row(USERS, b"2"))
    packing.add(Rows(TAGS, pa.table({"id": [8]})))
    packing.drop_uncovered()
    frame = packing.end(last=True)
    assert rows_of([frame]) == [("crm.users", b"1"), ("tags", b"7")]


def test_lines_that_a_state_covers_stay_also_where_columns_come_behind_it() -> None:
    packing = packer()
    packing.add(JsonRows(USERS, [b"1", b"2"]))
    packing.note(Checkpoint(USERS, b"s", 2))
    packing.add(Row(USERS, b"3"))
    packing.add(Rows(TAGS, pa.table({"id": [8]})))
    packing.add(Row(USERS, b"4"))
    packing.drop_uncovered()
    frame = packing.end(last=True)
    assert rows_of([frame]) == [("crm.users", b"1"), ("crm.users", b"2")]
    assert frame.end is not None
    assert [each.state for each in frame.end.states] == [b"s"]


@pytest.mark.parametrize(("said", "came"), [(2, 1), (0, 1), (1, 2)])
def test_a_wrong_count_of_the_connector_is_refused(said: int, came: int) -> None:
    packing = packer()
    for number in range(came):
        packing.add(Row(USERS, b"%d" % number))
    with pytest.raises(Permanent, match=f"sent {said} rows before this state, {came} came"):
        packing.note(Checkpoint(USERS, b"s", said))


def test_rows_of_a_stream_that_was_not_asked_for_are_refused() -> None:
    with pytest.raises(Permanent, match="not asked for"):
        packer().add(Row(StreamName("users"), b"{}"))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["row", "rows", "tag", "state", "all", "take", "end"]), max_size=60), st.booleans())
def test_each_row_is_in_one_frame_and_before_the_states_that_cover_it(steps: list[str], dropped: bool) -> None:
    packing, frames, sent = packer(max_rows=7), [], 0
    covered: dict[bytes, int] = {}
    for step in steps:
        match step:
            case "row":
                packing.add(Row(USERS, b"%d" % sent))
                sent += 1
            case "rows":
                packing.add(Rows(USERS, pa.table({"id": [sent, sent + 1]})))
                sent += 2
            case "tag":
                packing.add(Row(TAGS, b"t"))
            case "state" | "all":
                covered[b"%d" % len(covered)] = sent
                packing.note(Checkpoint(USERS if step == "state" else None, b"%d" % (len(covered) - 1)))
            case "take":
                frames.append(packing.take())
            case "end":
                frames.append(packing.end())
    if dropped:
        packing.drop_uncovered()
    frames.append(packing.end(last=True))
    came: list[bytes] = []
    for frame in frames:
        came.extend(row for name, row in rows_of([frame]) if name == "crm.users")
        for state in frame.end.states if frame.end is not None else ():
            assert len(came) >= covered[state.state]
    assert came == [b"%d" % number for number in range(len(came) if dropped else sent)]
