"""Frames that are too large for a message are cut, and lose and double no row."""

from __future__ import annotations

import random

import msgspec
import pyarrow as pa
import pytest

from connector_runner.syncs.splitting import cut
from shared.errors import Permanent
from shared.syncs.frames import ARROW, BatchEnd, RowFrame, RowStream, State, encode_rows, pack_columns, pack_lines

STREAMS = (RowStream("a", "a", "append"), RowStream("b", "b", "append"))
END = BatchEnd(3, (State(b"s", "a"),), last=True)


def frame(rows: int, size: int) -> RowFrame:
    chance = random.Random(1)
    texts = [chance.randbytes(size).hex() for _ in range(rows)]
    lines = [msgspec.json.encode({"id": number, "text": text}) for number, text in enumerate(texts)]
    blocks = (pack_lines(0, lines), pack_columns(1, pa.table({"id": range(rows), "text": texts})), pack_lines(0, [b'{"id":-1}']))
    return RowFrame(version=1, sync="o", destination="wh", run=2, batch=3, streams=STREAMS, blocks=blocks, end=END)


def test_all_rows_of_a_frame_come_in_their_order_in_frames_that_fit() -> None:
    whole = frame(100, 500)
    assert cut(whole, 1_000_000) == [whole]
    parts = cut(whole, 10_000)
    assert len(parts) > 10
    assert max(len(encode_rows(part)) for part in parts) <= 10_000
    found: dict[int, list[int]] = {0: [], 1: []}
    for part in parts:
        for block in part.blocks:
            if block.form == ARROW:
                found[block.stream] += block.columns()["id"].to_pylist()
            else:
                found[block.stream] += [msgspec.json.decode(line)["id"] for line in block.lines()]
    assert found == {0: [*range(100), -1], 1: [*range(100)]}
    assert [part.end for part in parts] == [*[None] * (len(parts) - 1), END]


def test_a_row_that_is_too_large_alone_is_named() -> None:
    with pytest.raises(Permanent, match=r"stream a: a row is .* max_payload is 5000"):
        cut(frame(2, 5000), 5000)
