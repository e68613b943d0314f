"""The row frame: rows of one sync on their way from the runner of connectors to the loader.

A run of a sync cuts its rows into *batches*, numbered from 1, and each batch into frames. The last frame of a batch has an `end`:
the states that are true once the batch is loaded, and the streams that are over. The loader loads a batch whole, with the same rows
each time, so the number of a batch makes a repeat harmless in every destination. Rows behind the last end of a run that died belong
to no batch; the next run reads them again from the states.

A frame is MessagePack and carries its streams' descriptions, so it can be read alone. Rows come as JSON lines or as an Arrow stream.
Reading an old frame must always work: fields are only ever added at the end, with defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import zstandard

from shared.errors import UNREADABLE, Permanent

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
MOST_BYTES = 64 * 1024 * 1024
"""No honest block is larger; a bound on what a damaged length can make us allocate."""

JSON_LINES, ARROW, EMPTIED = 0, 1, 2

Write = Literal["replace", "append", "merge", "insert_only", "history"]


class RowStream(msgspec.Struct, array_like=True, frozen=True):
    """A stream of a run, and how its rows are stored.

    `name`: with its namespace, as people write it. `table`: as the user or the connector wants it; the destination may spell it
    otherwise. `key`, `cursor`, `deleted`: paths in a row; `deleted` is not null in a row that the source deleted, and set only if the
    loader must remove such rows. `types`: SQL types that the user forces, by column. `marked`: as `deleted`, where the row stays, marked, and
    keeps the values that the deletion does not tell.
    """

    name: str
    table: str
    write: Write
    key: tuple[tuple[str, ...], ...] = ()
    cursor: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    types: dict[str, str] = {}
    marked: tuple[str, ...] = ()


class Emptied(NamedTuple):
    """All rows of a stream that were older than a cursor are gone at the source. `before`: the cursor; `at`: microseconds since 1970."""

    before: int
    at: int


class RowBlock(msgspec.Struct, array_like=True, frozen=True):
    """Rows of one stream. `stream`: its index in `RowFrame.streams`. `size`: bytes of the block when it is open."""

    stream: int
    rows: int
    form: int
    size: int
    block: bytes

    def open(self) -> bytes:
        """Returns the bytes: JSON objects, one a line, or an Arrow stream.

        Raises:
            Permanent: the block does not hold what it promises.
        """
        if not 0 <= self.size <= MOST_BYTES:
            raise Permanent(f"a block of rows promises {self.size} bytes, more than the {MOST_BYTES} allowed")
        try:
            found = zstandard.ZstdDecompressor().decompress(self.block, max_output_size=self.size) if self.size else b""
        except zstandard.ZstdError as exc:
            raise Permanent(f"a block of rows cannot be decompressed: {exc}") from exc
        if len(found) != self.size:
            raise Permanent(f"a block of rows holds {len(found)} bytes, it promises {self.size}")
        return found

    def lines(self) -> list[bytes]:
        """Returns the rows of a block of JSON lines.

        Raises:
            Permanent: the block does not hold what it promises.
        """
        found = self.open().split(b"\n")
        if len(found) != self.rows:
            raise Permanent(f"a block of rows holds {len(found)} lines, it promises {self.rows}")
        return found

    def emptied(self) -> Emptied:
        """Returns what a block without rows says.

        Raises:
            Permanent: the block does not hold what it promises.
        """
        try:
            return msgspec.json.decode(self.open(), type=Emptied)
        except UNREADABLE as exc:
            raise Permanent(f"a block of a sync cannot be read: {exc}") from exc

    def columns(self) -> pa.Table:
        """Returns the rows of an Arrow block.

        Raises:
            Permanent: the block does not hold what it promises.
        """
        import pyarrow as pa  # a runner without columnar sources needs none

        try:
            with pa.ipc.open_stream(self.open()) as reader:
                found = reader.read_all()
                found.validate(full=True)
        except (pa.ArrowInvalid, OSError) as exc:
            raise Permanent(f"a block of rows is no Arrow stream: {exc}") from exc
        if len(found) != self.rows:
            raise Permanent(f"a block of rows holds {len(found)} rows, it promises {self.rows}")
        return found


class State(msgspec.Struct, array_like=True, frozen=True):
    """A state of a connector: of the stream `name` in `namespace`, or of all together if `name` is None."""

    state: bytes
    name: str | None = None
    namespace: str | None = None


class Over(msgspec.Struct, array_like=True, frozen=True):
    """The end of a stream in a run: all its rows came, or the run gave up on it."""

    stream: RowStream
    complete: bool


class BatchEnd(msgspec.Struct, array_like=True, frozen=True):
    """The end of a batch. `frames`: how many it has, with this one. `last`: no batch of the run follows.

    `forgets`: streams by name whose states are forgotten before `states` are noted; None: those of all streams. The first batch of
    a run has no rows: when it is noted, no frame of an earlier run can be loaded any more, and the run begins at the states noted then.
    """

    frames: int
    states: tuple[State, ...] = ()
    over: tuple[Over, ...] = ()
    last: bool = False
    forgets: tuple[str, ...] | None = ()


class RowFrame(msgspec.Struct, array_like=True, frozen=True):
    """Rows of one batch.

    `run`: the number of the run; a later run of a sync has a higher one. `batch`: its number in the run, from 1. `destination`: where
    the run loads; a loader that has another one for the sync leaves the frame out.
    """

    version: int
    sync: str
    destination: str
    run: int
    batch: int
    streams: tuple[RowStream, ...] = ()
    blocks: tuple[RowBlock, ...] = ()
    end: BatchEnd | None = None

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(block.rows for block in self.blocks)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RowFrame).decode


def encode_rows(frame: RowFrame) -> bytes:
    """Returns the message payload of a frame."""
    return _encode(frame)


def decode_rows(payload: bytes) -> RowFrame:
    """Reads a message payload.

    Raises:
        Permanent: not a row frame, or of a newer version.
    """
    try:
        frame = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Permanent(f"not a readable row frame: {exc}") from exc
    if frame.version > VERSION:
        raise Permanent(f"row frame version {frame.version} is newer than {VERSION}; upgrade this service")
    if any(not 0 <= block.stream < len(frame.streams) for block in frame.blocks):
        raise Permanent("a block of rows refers to a stream that the frame does not describe")
    return frame


def pack_lines(stream: int, rows: Sequence[bytes]) -> RowBlock:
    """Returns a block of JSON objects. A line break inside one can only stand between its tokens, so a blank takes its place."""
    joined = b"\n".join(rows)
    if joined.count(b"\n") != len(rows) - 1:
        joined = b"\n".join([row.replace(b"\n", b" ") for row in rows])
    return _block(stream, len(rows), JSON_LINES, joined)


def pack_columns(stream: int, rows: pa.Table) -> RowBlock:
    """Returns a block of an Arrow table."""
    import pyarrow as pa  # as in `RowBlock.columns`

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return _block(stream, len(rows), ARROW, sink.getvalue().to_pybytes())


def pack_emptied(stream: int, emptied: Emptied) -> RowBlock:
    """Returns a block without rows that says which rows are gone."""
    return _block(stream, 0, EMPTIED, msgspec.json.encode(emptied))


def over_of(frames: Iterable[RowFrame]) -> BatchEnd | None:
    """Returns the end of a batch, None if its frames have none yet."""
    return next((frame.end for frame in frames if frame.end is not None), None)


def _block(stream: int, rows: int, form: int, data: bytes) -> RowBlock:
    return RowBlock(stream=stream, rows=rows, form=form, size=len(data), block=zstandard.ZstdCompressor(level=1).compress(data))
