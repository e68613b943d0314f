"""Makes columns of the rows of a batch, stream by stream; rows that cannot be read are left for the dead letters. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from loader.contract.warehouse import Capabilities
from loader.delivery.isolate import is_of_events, is_own
from loader.delivery.rows import mode_of, rules_of
from loader.rows.batch import ShapedBatch
from loader.rows.given import Rows, row_as_json, shape_blocks
from loader.rows.rules import Rules
from loader.syncs.gather import Batch
from shared.errors import Permanent
from shared.events import exact
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason
from shared.events.rescue import UNREADABLE, read_odd
from shared.syncs.frames import ARROW, EMPTIED, JSON_LINES, Emptied, RowBlock, RowStream
from shared.syncs.progress import Kept

if TYPE_CHECKING:
    import pyarrow as pa

Refused = dict[int, tuple[DeadReason, str]]
"""Why a row cannot be loaded, by its number in the batch of its stream."""

_objects = msgspec.json.Decoder(list[dict[str, Any]]).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(slots=True)
class Shaped:
    """The rows of one stream in a batch.

    `table`: the table's name in the destination. `rows`, `size`: how many came, and bytes. `batch`: those that can be read; None: none can. `unread`: the
    others. `emptied`: what the source says of older rows. `over`: whether the stream is over, and then whether all its rows came. `fault`: why its rows cannot be read at all.
    """

    stream: RowStream
    rules: Rules
    table: str
    rows: int = 0
    size: int = 0
    batch: ShapedBatch | None = None
    unread: Refused = field(default_factory=dict)
    over: bool = False
    complete: bool = False
    fault: str = ""
    emptied: Emptied | None = None
    blocks: list[list[bytes] | pa.Table] = field(default_factory=list)

    @property
    def stored(self) -> Kept:
        """How its rows are stored."""
        return Kept.of(self.stream, self.table)

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self.stream.name

    def body(self, row: int) -> bytes:
        """Returns a row as JSON, by its number."""
        for block in self.blocks:
            if row < len(block):
                return block[row] if isinstance(block, list) else row_as_json(block, row)
            row -= len(block)
        raise IndexError(f"stream {self.name} has no row {row}")


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch in columns."""

    batch: Batch
    streams: Sequence[Shaped]


class Shaper:
    """Shapes the batches of one session, one at a time."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._rules: dict[str, tuple[RowStream, Rules]] = {}

    def shape(self, batch: Batch) -> Ready:
        """Returns a batch in columns."""
        streams: dict[str, Shaped] = {}
        blocks: dict[str, list[RowBlock]] = {}
        for frame in batch.frames:
            for block in frame.blocks:
                stream = frame.streams[block.stream]
                shaped = streams.get(stream.name) or streams.setdefault(stream.name, self._of(stream))
                shaped.rows += block.rows
                shaped.size += block.size
                if block.form == EMPTIED:
                    shaped.emptied = max(block.emptied(), shaped.emptied or Emptied(0, 0))
                    continue
                blocks.setdefault(stream.name, []).append(block)
        for over in batch.end.over:
            shaped = streams.get(over.stream.name) or streams.setdefault(over.stream.name, self._of(over.stream))
            shaped.over, shaped.complete = True, over.complete
        if not batch.broken:
            for name, own in blocks.items():
                _fill(streams[name], own)
        return Ready(batch, list(streams.values()))

    def _of(self, stream: RowStream) -> Shaped:
        known = self._rules.get(stream.name)
        if known is None or known[0] != stream:
            known = self._rules[stream.name] = (stream, _rules(stream, self._capabilities))
        return Shaped(stream, known[1], known[1].namer.table(stream.table))


def _rules(stream: RowStream, capabilities: Capabilities) -> Rules:
    namer = rules_of((), None, {}, capabilities).namer

    def column(path: Sequence[str]) -> str:
        return namer.column([namer.part(key) for key in path])

    # rows that are appended are each one of their own, also where the source knows a key
    key = [column(path) for path in stream.key] if stream.write != "append" else []
    return rules_of(
        key=key,
        cursor=column(stream.cursor) if stream.cursor and key else None,
        column_types=stream.types,
        capabilities=capabilities,
        mode=mode_of(
            stream.write,
            deleted=column(stream.deleted) if stream.deleted and key else None,
            marked=column(stream.marked) if stream.marked and key else None,
        ),
    )


def _fill(shaped: Shaped, blocks: Sequence[RowBlock]) -> None:
    try:
        shaped.batch = shape_blocks(
            _opened(shaped, blocks),
            table=shaped.table,
            namer=shaped.rules.namer,
            own_columns=shaped.rules.own_columns,
            compared=shaped.rules.compared,
        )
    except Permanent as exc:
        shaped.fault = str(exc)
        return
    except Exception as exc:
        if not is_own(exc) or not is_of_events(exc):
            raise
        # a value that our own code cannot take costs its stream this run, and no other
        shaped.fault = f"unexpected {type(exc).__name__}: {exc}"
        return
    if shaped.unread:
        shaped.batch = shaped.batch.without(shaped.unread)


def _opened(shaped: Shaped, blocks: Sequence[RowBlock]) -> Iterator[Rows]:
    """Opens blocks one after the other. A row that cannot be read is an empty one, and noted in `unread`.

    Raises:
        Permanent: a block is damaged.
    """
    first, odd = 0, Counter[str]()
    for block in blocks:
        if block.form == ARROW:
            rows = block.columns()
            shaped.blocks.append(rows)
            yield rows
        elif block.form == JSON_LINES:
            lines = block.lines()
            shaped.blocks.append(lines)
            yield _read(lines, first, shaped.unread, odd)
        else:
            raise Permanent(f"a block of rows has the form {block.form}, which this version does not know; upgrade the loader")
        first += block.rows


def _read(lines: list[bytes], first: int, unread: Refused, odd: Counter[str]) -> list[JSON]:
    joined = b",".join(lines)
    suspects = exact.suspects(joined, [len(line) + 1 for line in lines])
    if not suspects:
        try:
            found = _objects(b"[" + joined + b"]")
        except UNREADABLE:
            found = []
        if len(found) == len(lines):
            return found
    return [_read_one(line, first + number, unread, odd, suspect=number in suspects) for number, line in enumerate(lines)]


def _read_one(line: bytes, row: int, unread: Refused, odd: Counter[str], *, suspect: bool) -> JSON:
    try:
        return exact.decode(line) if suspect else _object(line)
    except UNREADABLE as exc:
        found = read_odd(line, exc, odd)
    if isinstance(found, Dead):
        told = _told(line)
        unread[row] = (DeadReason.UNREADABLE_RECORD, told) if told else (found.reason, found.detail)
        return {}
    return found


def _told(line: bytes) -> str:
    """Returns what a connector says of a row that it cannot read, in place of a row; empty if it says nothing."""
    try:
        return msgspec.json.decode(line, type=str)
    except UNREADABLE:
        return ""
