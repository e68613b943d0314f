"""Rows into frames, frames into batches. No clock, no broker.

A batch ends when it has enough rows or bytes, or when the caller says so because time passed. Its states are those that came since
the last one: all rows that they cover are in this batch or in one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from connector_runner.contract import Checkpoint, Emptied, JsonRows, Row, Rows, StreamName
from connector_runner.rules.sifting import Sieve
from shared.errors import Permanent
from shared.syncs import frames
from shared.syncs.frames import (
    VERSION,
    BatchEnd,
    Over,
    RowBlock,
    RowFrame,
    RowStream,
    State,
    pack_columns,
    pack_emptied,
    pack_lines,
)

if TYPE_CHECKING:
    import pyarrow as pa

FRAME_BYTES = 1024 * 1024
"""Each frame is one synced write of the broker; compressed it is a tenth to a half of this."""


class Counted:
    """Rows and bytes of one stream that the connector gave, rows since its last state, and rows that are in frames.

    `sieve`: the stream's rules; None: it has none, and all rows go on.
    """

    __slots__ = ("bytes", "index", "kept", "lines", "name", "packed", "rows", "sieve", "since")

    def __init__(self, name: str, sieve: Sieve | None) -> None:
        self.name = name
        self.sieve = sieve
        self.rows = 0
        self.packed = 0
        self.bytes = 0
        self.since = 0
        self.lines: list[bytes] = []
        self.kept = -1
        """How many of `lines` came before the newest state; -1: all."""
        self.index = -1


class Packer:
    """Packs the rows of one attempt.

    Args:
        run: the number of the attempt's run in the queue.
        max_rows, max_bytes: bounds of a batch; a message may go beyond by itself.
        sieves: the rules of streams that have some, by name.
    """

    def __init__(
        self,
        sync: str,
        destination: str,
        run: int,
        streams: Sequence[RowStream],
        *,
        max_rows: int,
        max_bytes: int,
        sieves: Mapping[str, Sieve] | None = None,
    ) -> None:
        self._sync = sync
        self._destination = destination
        self._run = run
        self._streams = {each.name: each for each in streams}
        self._known: dict[StreamName, Counted] = {}
        self.counted: dict[str, Counted] = {name: Counted(name, (sieves or {}).get(name)) for name in self._streams}
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._open_rows = 0
        """Rows that no state covers yet."""
        self.batch = 2
        """The number of the batch that is being packed; the first one opens the run (`SyncQueue.open`)."""
        self._described: list[RowStream] = []
        self._since: dict[str, Counted] = {}
        """Streams with rows behind their last state."""
        self._with_lines: list[Counted] = []
        """Streams that hold lines, and those of them (`_uncovered`) that got some behind the newest state."""
        self._uncovered: list[Counted] = []
        self._begin_batch()

    def add(self, message: Row | JsonRows | Rows) -> None:
        """Takes rows.

        Raises:
            Permanent: the connector gives rows of a stream that was not asked for, or what is no JSON in a column of JSON.
        """
        counted = self._known.get(message.stream) or self._find(message.stream)
        if isinstance(message, Rows):
            self._close_lines(apart=True)
            came, size = len(message.rows), message.rows.nbytes
            counted.bytes += size
            table = message.rows
            if counted.sieve is not None:
                table = _sifted(counted.sieve, table, message.stream)
                size = table.nbytes
            if rows := len(table):
                self._blocks.append(pack_columns(self._index(counted), table))
        else:
            lines = [message.data] if isinstance(message, Row) else message.rows
            came, size = len(lines), sum(map(len, lines))
            counted.bytes += size
            if counted.sieve is not None:
                lines = [kept for line in lines if (kept := counted.sieve.row(line)) is not None]
                size = sum(map(len, lines))
            if rows := len(lines):
                self._hold(counted, lines)
        counted.rows += came
        if not counted.since:
            self._since[counted.name] = counted
        counted.since += came
        self._open_rows += came
        self._rows += rows
        self._bytes += size
        self._open_bytes += size

    def empty(self, message: Emptied) -> None:
        """Takes what becomes of older rows.

        Raises:
            Permanent: the stream was not asked for.
        """
        counted = self._known.get(message.stream) or self._find(message.stream)
        self._close_lines(apart=True)
        self._blocks.append(pack_emptied(self._index(counted), frames.Emptied(message.before, message.at)))
        self._bytes += 1  # so that the batch holds something

    def note(self, checkpoint: Checkpoint) -> None:
        """Takes a state.

        Raises:
            Permanent: the connector counts other rows than came.
        """
        self._states.pop(checkpoint.stream, None)  # the newest of each stream, in the order in which they came
        self._states[checkpoint.stream] = State(checkpoint.state, *(checkpoint.stream or ()))
        self._cover()
        if checkpoint.stream is None:
            self._open_rows = 0
            for counted in self._since.values():
                counted.since = 0
            self._since.clear()
        elif (of_stream := self.counted.get(str(checkpoint.stream))) is not None:
            came, of_stream.since = of_stream.since, 0
            self._since.pop(of_stream.name, None)
            self._open_rows -= came
            if checkpoint.rows is not None and checkpoint.rows != came:
                raise Permanent(
                    f"stream {checkpoint.stream}: the connector says that it sent {checkpoint.rows} rows before this state, {came} came"
                )

    @property
    def frame_is_full(self) -> bool:
        """Whether the rows that are held make a frame."""
        return self._open_bytes >= FRAME_BYTES

    @property
    def batch_is_full(self) -> bool:
        """Whether the batch should end: in its second half it ends behind a state, at the latest where it is full."""
        if self._rows >= self._max_rows or self._bytes >= self._max_bytes:
            return True
        if self._open_rows or not self._states:
            return False
        return self._rows * 2 >= self._max_rows or self._bytes * 2 >= self._max_bytes

    @property
    def holds(self) -> bool:
        """Whether the batch has anything yet."""
        return bool(self._rows or self._states or self._bytes)

    def take(self) -> RowFrame:
        """Returns the rows that are held as a frame."""
        return self._frame(self._taken())

    def end(self, over: Sequence[Over] = (), *, last: bool = False) -> RowFrame:
        """Returns the last frame of the batch; the next batch begins."""
        blocks = self._taken()
        end = BatchEnd(self._frames + 1, tuple(self._states.values()), tuple(over), last)
        frame = self._frame(blocks, end)
        self._begin_batch()
        self.batch += 1
        return frame

    def drop_uncovered(self) -> None:
        """Forgets the rows behind the newest state that are in no frame yet: the next attempt reads them again."""
        del self._blocks[self._covered :]
        for counted in self._uncovered:
            del counted.lines[counted.kept :]

    def _begin_batch(self) -> None:
        self._rows = self._bytes = self._frames = 0
        self._states: dict[StreamName | None, State] = {}
        self._begin_frame()

    def _begin_frame(self) -> None:
        self._open_bytes = 0
        self._blocks: list[RowBlock] = []
        for stream in self._described:
            self.counted[stream.name].index = -1
        self._described = []
        self._cover()

    def _hold(self, counted: Counted, lines: list[bytes]) -> None:
        if counted.kept < 0:
            counted.kept = len(counted.lines)
            self._uncovered.append(counted)
        if not counted.lines:
            self._with_lines.append(counted)
        counted.lines += lines

    def _cover(self) -> None:
        """Notes that a state stands behind all that is held."""
        self._covered = len(self._blocks)
        for counted in self._uncovered:
            counted.kept = -1
        self._uncovered.clear()

    def _taken(self) -> tuple[RowBlock, ...]:
        self._close_lines(apart=False)
        return tuple(self._blocks)

    def _frame(self, blocks: tuple[RowBlock, ...], end: BatchEnd | None = None) -> RowFrame:
        frame = RowFrame(
            version=VERSION,
            sync=self._sync,
            destination=self._destination,
            run=self._run,
            batch=self.batch,
            streams=tuple(self._described),
            blocks=blocks,
            end=end,
        )
        for block in blocks:
            self.counted[self._described[block.stream].name].packed += block.rows
        self._frames += 1
        self._begin_frame()
        return frame

    def _close_lines(self, *, apart: bool) -> None:
        """Makes blocks of lines; `apart`: those behind the newest state into blocks of their own, so that they can be dropped."""
        behind: list[tuple[Counted, list[bytes]]] = []
        for counted in self._with_lines:
            lines, counted.lines = counted.lines, []
            if apart and counted.kept >= 0:
                behind.append((counted, lines[counted.kept :]))
                del lines[counted.kept :]
                counted.kept = 0
            if lines:
                self._blocks.append(pack_lines(self._index(counted), lines))
                self._covered = len(
                    self._blocks
                )  # all blocks before these are covered too: the first columns behind a state end its lines
        self._blocks += [pack_lines(self._index(counted), lines) for counted, lines in behind]
        self._with_lines.clear()

    def _index(self, counted: Counted) -> int:
        if counted.index < 0:
            counted.index = len(self._described)
            self._described.append(self._streams[counted.name])
        return counted.index

    def _find(self, stream: StreamName) -> Counted:
        counted = self.counted.get(str(stream))
        if counted is None:
            raise Permanent(f"the connector gives rows of stream {stream}, which was not asked for")
        self._known[stream] = counted
        return counted


def _sifted(sieve: Sieve, table: pa.Table, stream: StreamName) -> pa.Table:
    try:
        return sieve.table(table)
    except ValueError as exc:
        raise Permanent(f"stream {stream}: the rules of the stream cannot read a column of JSON: {exc}") from exc
