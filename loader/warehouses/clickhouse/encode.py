"""Rows as an Arrow stream, a part at a time, so that no more than one part of it is in memory twice. Blocking; called on a thread.

The stream's buffers are compressed with LZ4, which both sides do faster than a network moves the bytes.
https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from loader.contract.warehouse import Column
from loader.warehouses.clickhouse.types import ARRAYS, bare

if TYPE_CHECKING:
    import pyarrow as pa

    from shared.threads import ThreadGate

PART_ROWS = 8_192
"""Rows of a record batch. The server joins all batches of an insert to one block."""


class _Pipe:
    """A file of which what was written can be taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def flush(self) -> None:
        return

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        return

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


async def stream(rows: pa.Table, gate: ThreadGate) -> AsyncIterator[bytes]:
    """Yields rows as an Arrow stream."""
    import pyarrow as pa

    pipe = _Pipe()
    writer = pa.ipc.new_stream(pa.PythonFile(pipe, "w"), rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))

    def write(start: int) -> bytes:
        writer.write_table(rows.slice(start, PART_ROWS).combine_chunks())
        return pipe.take()

    def end() -> bytes:
        writer.close()
        return pipe.take()

    for start in range(0, rows.num_rows, PART_ROWS):
        yield await gate.run(write, start)
    yield await gate.run(end)


def as_sent(rows: pa.Table, columns: Mapping[str, Column]) -> pa.Table:
    """Returns rows as the server reads them: lists where a live column is an array."""
    import pyarrow as pa

    for place, name in enumerate(rows.column_names):
        native = bare(columns[name].native or "")
        column = rows.column(name)
        if native in ARRAYS:
            item = pa.string() if native == "Array(String)" else pa.int64()
            # an array cannot be null in ClickHouse
            lists = [[] if text is None else json.loads(text) for text in column.to_pylist()]
            rows = rows.set_column(place, name, pa.array(lists, pa.list_(item)))
    return rows
