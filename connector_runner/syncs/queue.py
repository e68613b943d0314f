"""The queue of a sync: frames go in, and the loader's notes say how far they are loaded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any

import msgspec

from connector_runner.syncs.splitting import cut
from shared.errors import Conflict, Fenced, Transient
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.syncs.frames import VERSION, BatchEnd, RowFrame, encode_rows
from shared.syncs.progress import StreamProgress, SyncProgress, key_of, next_number, progress_of, read_progress
from shared.syncs.records import LOADER
from shared.tasks import timeout
from shared.telemetry.tracing.spans import current_headers

WINDOW = 4
"""Batches that may wait for the loader; beyond that the connector waits."""
AGAIN_SECONDS = 1.0
HEADER_BYTES = 4096
"""Room for the headers of a message, which count as its bytes."""
LOOK_SECONDS = 10.0
"""How often a runner that waits for the loader looks whether its frames are still in the queue."""


class SyncQueue:
    """One attempt's way into the queue; use it as an async context manager.

    Args:
        waits: is told what the queue waits for; empty: nothing.
    """

    def __init__(self, broker: Broker, sync: str, destination: str, waits: Callable[[str], None]) -> None:
        self._broker = broker
        self._sync = sync
        self._destination = destination
        self._waits = waits
        self._subject = topology.deliver_subject(topology.sync_queue(sync))
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._changed = asyncio.Event()
        self._number = 0
        self._outbox: asyncio.Queue[RowFrame] = asyncio.Queue()
        self._sending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sent = 0
        self._most = broker.nc.max_payload - HEADER_BYTES
        self._parts = 0
        """Frames that the batch under way has more than its packer counts, because some were cut."""
        self.progress = SyncProgress()
        self.run = 0
        """The number of the run, above all before it; 0: it is not open."""
        self.batch = 0
        """The newest batch that is in the queue whole."""

    async def __aenter__(self) -> SyncQueue:
        self._tasks = [asyncio.ensure_future(self._follow()), asyncio.ensure_future(self._send_all())]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def noted(self) -> Mapping[str, StreamProgress]:
        """How far the loader is with the streams of the run."""
        return self.progress.streams if self.progress.run == self.run else {}

    async def open(self, forgets: tuple[str, ...] | None = ()) -> None:
        """Begins the run: afterwards no frame of an earlier run is loaded, and `progress` has the states to begin from.

        Args:
            forgets: streams whose states are forgotten; None: all.

        Raises:
            Fenced: another runner begins one too.
            PenstockError: the queue does not work.
        """
        self.run = await self._numbered()
        first = RowFrame(
            version=VERSION,
            sync=self._sync,
            destination=self._destination,
            run=self.run,
            batch=1,
            end=BatchEnd(1, forgets=forgets),
        )
        await self.put(first)
        await self.loaded(1)

    async def _numbered(self) -> int:
        while True:
            try:
                self.progress, _ = await read_progress(self._bucket, self._sync)
                return await next_number(self._bucket, self._sync, self.progress.run)
            except Conflict as exc:
                raise Fenced(f"sync {self._sync}: another runner begins a run") from exc
            except Transient as exc:
                self._waits(f"the queue: {exc}")
                await asyncio.sleep(AGAIN_SECONDS)

    async def put(self, frame: RowFrame) -> None:
        """Takes a frame of the run, in order; returns when there is room for another. A caller that is cancelled meanwhile has still
        put it: a frame that was packed and left out would be rows lost behind a later state.

        Raises:
            PenstockError: the queue does not work.
        """
        self._outbox.put_nowait(frame)
        if self._outbox.qsize() > 1:
            await self._or_failure(self._room())

    async def _room(self) -> None:
        while self._outbox.qsize() > 1:
            self._sending.clear()
            await self._sending.wait()

    @property
    def waiting(self) -> int:
        """Batches in the queue that are not loaded."""
        return self.batch - (min(self.batch, self.progress.batch) if self.progress.run == self.run else 0)

    async def loaded(self, batch: int) -> None:
        """Returns when the loader has noted a batch of the run.

        Raises:
            Fenced: a later run exists.
            Transient: the loader gave the run up, or its frames are gone from the queue.
            PenstockError: the queue does not work.
        """
        await self._or_failure(self._loaded(batch))

    async def _loaded(self, batch: int) -> None:
        try:
            while not self._has(batch):
                self._changed.clear()
                self._waits(self.progress.waits or LOADER)
                with contextlib.suppress(TimeoutError):
                    async with timeout(LOOK_SECONDS):
                        await self._changed.wait()
                    continue
                await self._look(batch)
        finally:
            self._waits("")

    async def _look(self, batch: int) -> None:
        """Finds out that frames were taken out of the queue without being loaded, as a person does who purges it.

        The loader notes a batch before it acknowledges it, so an empty queue and no note means that the batch never comes.
        """
        if batch > self.batch:
            return
        with contextlib.suppress(Transient):
            with asking(f"cannot count {self._subject}"):
                info = await self._broker.js.stream_info(topology.DELIVER, subjects_filter=self._subject)
            if sum((info.state.subjects or {}).values()):
                return
            self.progress, _ = await read_progress(self._bucket, self._sync)
        if not self._has(batch):
            raise Transient(f"sync {self._sync}: the frames of the run are gone from the queue, and are not loaded")

    def _has(self, batch: int) -> bool:
        if self.progress.run > self.run:
            raise Fenced(f"sync {self._sync}: a later run exists")
        if self.progress.run == self.run and self.progress.failed:
            raise Transient(f"the loader gave the run up: {self.progress.failed}")
        return self.progress.run == self.run and self.progress.batch >= batch

    async def _follow(self) -> None:
        async for entry in self._bucket.watch(key_of(self._sync)):
            self.progress = progress_of(entry)
            self._changed.set()

    async def _send_all(self) -> None:
        while True:
            frame = await self._outbox.get()
            self._sending.set()
            if frame.batch > WINDOW:
                await self._loaded(frame.batch - WINDOW)
            await self._send(frame)

    async def _send(self, frame: RowFrame) -> None:
        """Sends a frame; in parts if it is too large for a message, and the end of the batch then counts them."""
        payload = encode_rows(frame)
        if len(payload) <= self._most:
            if (counted := self._counted(frame)) is not frame:
                payload = encode_rows(counted)
            await self._publish(frame, payload)
            return
        *parts, last = cut(frame, self._most)
        self._parts += len(parts)
        for part in parts:
            await self._publish(part, encode_rows(part))
        last = self._counted(last)
        await self._publish(last, encode_rows(last))

    def _counted(self, frame: RowFrame) -> RowFrame:
        """Returns a frame whose end counts the parts of the frames of its batch."""
        if frame.end is None or not self._parts:
            return frame
        end = msgspec.structs.replace(frame.end, frames=frame.end.frames + self._parts)
        self._parts = 0
        return msgspec.structs.replace(frame, end=end)

    async def _publish(self, frame: RowFrame, payload: bytes) -> None:
        self._sent += frame.rows
        self._number += 1
        place = Place(lane_of(self.run), self._number, frame.rows, self._sent)
        while True:
            try:
                await self._broker.publisher.publish(
                    self._subject,
                    payload,
                    msg_id=f"sync.{self._sync}.{self.run}.{self._number}",
                    headers={**write_place(place), **current_headers()},
                )
            except Transient as exc:
                self._waits(f"the queue: {exc}")
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self._waits("")
                self.batch = frame.batch if frame.end is not None else self.batch
                return

    async def _or_failure(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Waits for a coroutine, or for the failure of a task of the queue."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({task, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for each in self._tasks:
                if each.done():
                    await each
            await task
        finally:
            task.cancel()
            # raises if the caller is cancelled in this moment: a reader that did not hear of it would wait for a loader for ever
            await asyncio.gather(task, return_exceptions=True)


def lane_of(run: int) -> str:
    """Returns the lane of a run's frames."""
    return f"sync-{run}"
