"""Loaders of one sync, `orders`, in one process over a real broker: each may die between any two of its steps.

A step is what a loader does for good: it publishes, acknowledges, or commits in the destination. `Queue` stands for the runner: it
publishes frames of rows with the functions that the runner uses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import msgspec
import pyarrow as pa

from loader.contract.warehouse import Kind, LoadPlan, LoadReport, TableLoad
from loader.delivery import destinations as opening
from loader.delivery.destinations import Destinations, MaskedSession
from loader.syncs.definition import Definition
from loader.syncs.worker import SyncLoader
from shared.events.dead import DeadLetter, decode_dead
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.jetstream.reader import StreamReader
from shared.scratch import Scratch
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.syncs.frames import (
    BatchEnd,
    Emptied,
    Over,
    RowBlock,
    RowFrame,
    RowStream,
    State,
    Write,
    decode_rows,
    encode_rows,
    pack_columns,
    pack_emptied,
    pack_lines,
)
from shared.syncs.naming import known_as
from shared.syncs.progress import SyncProgress, read_progress
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from shared.threads import ThreadGate
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.destinations.postgres import PostgresSubject
from tests.support.lives import Step

SYNC = "orders"
SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
Warehouse: TypeAlias = PostgresSubject | DuckDBSubject | ClickHouseSubject
Rows: TypeAlias = Sequence[Mapping[str, Any] | bytes] | pa.Table


def rows(*ids: int, text: str = "a") -> list[dict[str, Any]]:
    """Returns rows with these ids."""
    return [{"id": each, "text": text} for each in ids]


def arrow(*ids: int, text: str = "a") -> pa.Table:
    """Returns `rows` in columns."""
    return pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array([text] * len(ids), pa.string())})


async def ids(wh: Warehouse, table: str = "orders") -> Counter[int]:
    """Returns how often each id is in a table."""
    return Counter(row["id"] for row in await wh.rows(table, SHAPE))


def stream(
    name: str = "orders", write: Write = "append", *, key: Sequence[str] = (), cursor: str = "", deleted: str = "", **options: Any
) -> RowStream:
    """Returns a stream; keys are at the top of a row."""
    return RowStream(
        name=name,
        table=options.pop("table", name),
        write=write,
        key=tuple((each,) for each in key),
        cursor=(cursor,) if cursor else (),
        deleted=(deleted,) if deleted else (),
        **options,
    )


class Queue:
    """The frames of a sync, as its runner puts them there."""

    def __init__(self, broker: Broker, destination: str = "wh") -> None:
        self._broker = broker
        self._destination = destination
        self._sent = 0
        self.bucket = Bucket(broker, topology.STATE_BUCKET)
        self._subject = topology.deliver_subject(topology.sync_queue(SYNC))

    async def put(
        self,
        run: int,
        batch: int,
        rows: Mapping[str, Rows] | Sequence[tuple[RowStream, Rows]] = (),
        *,
        over: Iterable[Over] = (),
        states: Sequence[State] = (),
        frames: int = 1,
        end: bool = True,
        last: bool = False,
        lost: Sequence[int] = (),
        destination: str = "",
        emptied: Sequence[tuple[RowStream, int]] = (),
    ) -> None:
        """Publishes a batch.

        Args:
            rows: by stream; a plain name is one that is appended to the table of this name.
            frames: into how many its blocks are cut.
            end: whether the last frame comes.
            lost: numbers of frames that do not come.
            emptied: streams that lost what was older than a cursor.
        """
        listed = [(stream(name), own) for name, own in rows.items()] if isinstance(rows, Mapping) else list(rows)
        streams = tuple(each for each, _ in (*listed, *emptied))
        blocks = [_block(number, part) for number, (_, own) in enumerate(listed) for part in _parts(own, frames) if len(part)]
        blocks += [pack_emptied(number, Emptied(before, 0)) for number, (_, before) in enumerate(emptied, len(listed))]
        for number in range(frames):
            mine = tuple(blocks[number::frames])
            is_end = number == frames - 1
            ending = BatchEnd(frames, tuple(states), tuple(over), last) if is_end else None
            frame = RowFrame(
                version=1,
                sync=SYNC,
                destination=destination or self._destination,
                run=run,
                batch=batch,
                streams=streams,
                blocks=mine,
                end=ending,
            )
            if number not in lost and (end or not is_end):
                self._sent += 1
                await self._broker.publisher.publish(
                    self._subject, encode_rows(frame), msg_id=f"{run}.{batch}.{number}.{self._sent}"
                )

    async def progress(self) -> SyncProgress:
        """Returns what the loader noted."""
        return (await read_progress(self.bucket, SYNC))[0]

    async def waiting(self) -> int:
        """Returns how many frames wait."""
        info = await self._broker.js.stream_info(topology.DELIVER, subjects_filter=self._subject)
        return sum((info.state.subjects or {}).values())

    async def first_behind(self, progress: SyncProgress) -> int:
        """Returns the sequence of the first frame in the queue that is not loaded; waits until there is one."""
        async with asyncio.timeout(60):
            while True:
                found = (await self._broker.js.stream_info(topology.DELIVER)).state
                for seq in range(found.first_seq, found.last_seq + 1):
                    message = await self._broker.js.get_msg(topology.DELIVER, seq)
                    frame = decode_rows(message.data or b"")
                    if (frame.run, frame.batch) > (progress.run, progress.batch):
                        return seq
                await asyncio.sleep(0.02)

    async def is_empty(self) -> None:
        """Waits until all frames are acknowledged."""
        async with asyncio.timeout(60):
            while await self.waiting():
                await asyncio.sleep(0.02)

    async def letters(self) -> list[DeadLetter]:
        """Returns the dead letters of the sync."""
        subject = topology.dead_subject("loader", known_as(SYNC))
        found: list[DeadLetter] = []
        count = (await self._broker.js.stream_info(topology.DEAD, subjects_filter=subject)).state.subjects or {}
        async with StreamReader(self._broker, topology.DEAD, subject) as reader:
            for _ in range(sum(count.values())):
                message = await reader.next(60)
                assert message is not None
                found += decode_dead(message.payload)
        return found

    async def told(self, found: Callable[[SyncProgress], bool]) -> SyncProgress:
        """Waits until the loader noted what is looked for; returns it."""
        async with asyncio.timeout(60):
            while not found(progress := await self.progress()):
                await asyncio.sleep(0.02)
        return progress


def _parts(rows: Rows, count: int) -> list[Rows]:
    size = max(1, -(-len(rows) // count))
    if isinstance(rows, pa.Table):
        return [rows.slice(start, size) for start in range(0, len(rows), size)]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _block(number: int, rows: Rows) -> RowBlock:
    if isinstance(rows, pa.Table):
        return pack_columns(number, rows)
    return pack_lines(number, [row if isinstance(row, bytes) else msgspec.json.encode(row) for row in rows])


class Loaders:
    """All who ever loaded the sync into one destination."""

    def __init__(self, url: str, telemetry: Telemetry, gate: ThreadGate, document: dict[str, Any], name: str = "wh") -> None:
        self._url = url
        self._telemetry = telemetry
        self._gate = gate
        self._definition = Definition(name, document)
        self._epoch = 0
        self.health = Health()

    @contextlib.asynccontextmanager
    async def life(self, step: Step | None = None) -> AsyncIterator[asyncio.Task[None]]:
        """A loader that ends with the context: what it had not sent by then it never sends. Yields its work."""
        step = step or Step()
        self._epoch += 1
        async with connect(self._url, f"life-{self._epoch}", patience_seconds=60) as broker:
            lease = Lease(f"loader-sync.{SYNC}", self._epoch, 3600)
            publish, request = broker.nc.publish, broker.nc.request
            context = ServiceContext("loader", "here", ServiceSettings(), broker, cast("Any", None), self._telemetry, self.health)
            with _watched(step, broker):
                destinations = Destinations(self._telemetry, Scratch())
                worker = SyncLoader(context, SYNC, self._definition, destinations, self._gate)
                working = asyncio.create_task(worker.work(lease, asyncio.Event()))
                try:
                    yield working
                finally:
                    # a dead process says no farewell
                    broker.nc.publish = broker.nc.request = silence  # type: ignore[method-assign]
                    working.cancel()
                    await asyncio.gather(working, return_exceptions=True)
                    broker.nc.publish, broker.nc.request = publish, request  # type: ignore[method-assign]


@contextlib.contextmanager
def _watched(step: Step, broker: Broker) -> Iterator[None]:
    """Lets `step` end a loader around what it sends to the broker, and around its commits."""
    publish, request = broker.nc.publish, broker.nc.request
    session = opening.MaskedSession

    async def published(subject: str, *args: Any, **kwargs: Any) -> None:
        await step.around(subject, lambda: publish(subject, *args, **kwargs))

    async def requested(subject: str, *args: Any, **kwargs: Any) -> Any:
        return await step.around(subject, lambda: request(subject, *args, **kwargs))

    class Watched(MaskedSession):
        async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
            committing: Callable[[], Awaitable[Any]] = lambda: MaskedSession.load(self, plan, loads)  # noqa: E731
            report: LoadReport = await step.around("deliver.committed", committing)
            return report

    broker.nc.publish = published  # type: ignore[method-assign]
    broker.nc.request = requested  # type: ignore[method-assign]
    opening.MaskedSession = Watched  # type: ignore[misc]
    try:
        yield
    finally:
        opening.MaskedSession = session  # type: ignore[misc]


async def silence(*_: Any, **__: Any) -> Any:
    """Stands for sending when a process is dead."""
    raise TimeoutError
