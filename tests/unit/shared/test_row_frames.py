"""Row frames come back as they went; what is damaged is refused with a reason."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from shared.errors import Permanent
from shared.syncs.frames import (
    VERSION,
    BatchEnd,
    Over,
    RowFrame,
    RowStream,
    State,
    decode_rows,
    encode_rows,
    pack_columns,
    pack_lines,
)
from shared.syncs.progress import with_states, without_states

USERS = RowStream(name="crm.users", table="users", write="merge", key=(("id",),), cursor=("updated_at",))


def frame(**changes: object) -> RowFrame:
    held = RowFrame(
        version=VERSION,
        sync="crm",
        destination="warehouse",
        run=7,
        batch=1,
        streams=(USERS,),
        blocks=(pack_lines(0, [b'{"id":1}', b'{"id":\n2}']),),
    )
    return msgspec.structs.replace(held, **changes)


def test_rows_come_back_as_they_went() -> None:
    end = BatchEnd(1, (State(b'{"at":1}', "users", "crm"),), (Over(USERS, complete=True),), last=True)
    found = decode_rows(encode_rows(frame(end=end)))
    assert found.end == end
    assert found.rows == 2
    assert found.blocks[0].lines() == [b'{"id":1}', b'{"id": 2}']


def test_columns_come_back_as_they_went() -> None:
    rows = pa.table({"id": [1, 2], "name": ["a", None], "at": pa.array([0, 1], pa.timestamp("us", "UTC"))})
    found = decode_rows(encode_rows(frame(blocks=(pack_columns(0, rows),))))
    assert found.blocks[0].columns().equals(rows)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "not a readable row frame"),
        (b"\xc1 nothing", "not a readable row frame"),
        (encode_rows(frame(version=VERSION + 1)), "newer"),
        (encode_rows(frame(streams=())), "does not describe"),
    ],
)
def test_a_damaged_frame_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(Permanent, match=why):
        decode_rows(payload)


@pytest.mark.parametrize("changes", [{"size": 3}, {"size": 1 << 40}, {"rows": 9}, {"block": b"none"}, {"size": 0}])
def test_a_damaged_block_is_refused(changes: dict[str, object]) -> None:
    (block,) = frame().blocks
    with pytest.raises(Permanent, match="block of rows"):
        msgspec.structs.replace(block, **changes).lines()


def test_an_arrow_block_that_is_none_is_refused() -> None:
    with pytest.raises(Permanent, match="Arrow"):
        pack_lines(0, [b"{}"]).columns()


def test_the_newest_state_of_each_stream_stays() -> None:
    users, orders = State(b"1", "users"), State(b"1", "orders")
    known = with_states((), (users, orders))
    assert with_states(known, (State(b"2", "users"),)) == (orders, State(b"2", "users"))
    assert with_states(known, (State(b"all"),)) == (State(b"all"),)


def test_forgotten_states_are_gone() -> None:
    users, orders = State(b"1", "users", "crm"), State(b"1", "orders")
    assert without_states((users, orders), ()) == (users, orders)
    assert without_states((users, orders), ("crm.users",)) == (orders,)
    assert without_states((users, orders), None) == ()
    assert without_states((State(b"all"),), ("orders",)) == ()
