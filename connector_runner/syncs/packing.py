"""Rows into frames, frames into batches. No clock, no broker.

A batch ends when it has enough rows or bytes, or when the caller says so because time passed. Its states are those that came since
the last one: all rows that they cover are in this batch or in one before.
"""

from __future__ import annotations

from collections.abc import Sequence

from connector_runner.contract import Checkpoint, Row, Rows, StreamName
from shared.errors import Permanent
from shared.syncs.frames import VERSION, BatchEnd, Over, RowBlock, RowFrame, RowStream, State, pack_columns, pack_lines

FRAME_BYTES = 1024 * 1024
"""Each frame is one synced write of the broker; compressed it is a tenth to a half of this."""


class Counted:
    """Rows and bytes of one stream that the connector gave, rows since its last state, and rows that are in frames."""

    __slots__ = ("bytes", "index", "lines", "packed", "rows", "since")

    def __init__(self) -> None:
        self.rows = 0
        self.packed = 0
        self.bytes = 0
        self.since = 0
        self.lines: list[bytes] = []
        self.index = -1


class Packer:
    """Packs the rows of one attempt.

    Args:
        run: the number of the attempt's run in the queue.
        max_rows, max_bytes: bounds of a batch; a message may go beyond by itself.
    """

    def __init__(
        self, sync: str, destination: str, run: int, streams: Sequence[RowStream], *, max_rows: int, max_bytes: int
    ) -> None:
        self._sync = sync
        self._destination = destination
        self._run = run
        self._streams = {each.name: each for each in streams}
        self._known: dict[StreamName, Counted] = {}
        self.counted: dict[str, Counted] = {name: Counted() for name in self._streams}
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._open_rows = 0
        """Rows that no state covers yet."""
        self.batch = 2
        """The number of the batch that is being packed; the first one opens the run (`SyncQueue.open`)."""
        self._begin_batch()

    def add(self, message: Row | Rows) -> None:
        """Takes rows.

        Raises:
            Permanent: the connector gives rows of a stream that was not asked for.
        """
        counted = self._known.get(message.stream) or self._find(message.stream)
        if isinstance(message, Row):
            rows, size = 1, len(message.data)
            counted.lines.append(message.data)
        else:
            self._close_lines()
            rows, size = len(message.rows), message.rows.nbytes
            self._blocks.append(pack_columns(self._index(counted, str(message.stream)), message.rows))
        counted.rows += rows
        counted.since += rows
        self._open_rows += rows
        counted.bytes += size
        self._rows += rows
        self._bytes += size
        self._open_bytes += size

    def note(self, checkpoint: Checkpoint) -> None:
        """Takes a state.

        Raises:
            Permanent: the connector counts other rows than came.
        """
        if checkpoint.stream is None:
            self._states.append(State(checkpoint.state))
        else:
            self._states.append(State(checkpoint.state, checkpoint.stream.name, checkpoint.stream.namespace))
        self._cover()
        if checkpoint.stream is None:
            self._open_rows = 0
            for counted in self.counted.values():
                counted.since = 0
        elif (of_stream := self.counted.get(str(checkpoint.stream))) is not None:
            came, of_stream.since = of_stream.since, 0
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
        return bool(self._rows or self._states)

    def take(self) -> RowFrame:
        """Returns the rows that are held as a frame."""
        return self._frame(self._taken())

    def end(self, over: Sequence[Over] = (), *, last: bool = False) -> RowFrame:
        """Returns the last frame of the batch; the next batch begins."""
        blocks = self._taken()
        end = BatchEnd(self._frames + 1, tuple(_newest(self._states)), tuple(over), last)
        frame = self._frame(blocks, end)
        self._begin_batch()
        self.batch += 1
        return frame

    def drop_uncovered(self) -> None:
        """Forgets the rows behind the newest state that are in no frame yet: the next attempt reads them again."""
        blocks, lines = self._covered
        del self._blocks[blocks:]
        for counted, kept in zip(self.counted.values(), lines, strict=True):
            del counted.lines[kept:]

    def _begin_batch(self) -> None:
        self._rows = self._bytes = self._frames = 0
        self._states: list[State] = []
        self._begin_frame()

    def _begin_frame(self) -> None:
        self._open_bytes = 0
        self._blocks: list[RowBlock] = []
        self._described: list[RowStream] = []
        for counted in self.counted.values():
            counted.index = -1
        self._cover()

    def _cover(self) -> None:
        self._covered = len(self._blocks), [len(counted.lines) for counted in self.counted.values()]

    def _taken(self) -> tuple[RowBlock, ...]:
        self._close_lines()
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

    def _close_lines(self) -> None:
        for name, counted in self.counted.items():
            if counted.lines:
                lines, counted.lines = counted.lines, []
                self._blocks.append(pack_lines(self._index(counted, name), lines))

    def _index(self, counted: Counted, name: str) -> int:
        if counted.index < 0:
            counted.index = len(self._described)
            self._described.append(self._streams[name])
        return counted.index

    def _find(self, stream: StreamName) -> Counted:
        counted = self.counted.get(str(stream))
        if counted is None:
            raise Permanent(f"the connector gives rows of stream {stream}, which was not asked for")
        self._known[stream] = counted
        return counted


def _newest(states: Sequence[State]) -> list[State]:
    """Returns the last state of each stream, in their order."""
    found: dict[tuple[str | None, str | None], State] = {}
    for state in states:
        found.pop((state.name, state.namespace), None)
        found[state.name, state.namespace] = state
    return list(found.values())
