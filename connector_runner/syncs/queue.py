"""The queue of a sync: frames go in, and the loader's notes say how far they are loaded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from shared.errors import Fenced, Transient
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.syncs.frames import VERSION, BatchEnd, RowFrame, encode_rows
from shared.syncs.progress import SyncProgress, key_of, progress_of, read_progress

WINDOW = 4
"""Batches that may wait for the loader; beyond that the connector waits."""
AGAIN_SECONDS = 1.0


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
        self.progress = SyncProgress()
        self.run = 0
        """The number of the run, above all before it."""

    async def __aenter__(self) -> SyncQueue:
        """Raises `NotConnected`, `Permanent`: the progress cannot be read."""
        self.progress, _ = await read_progress(self._bucket, self._sync)
        self.run = max(self.progress.run + 1, time.time_ns() // 1_000_000)
        self._tasks = [asyncio.ensure_future(self._follow()), asyncio.ensure_future(self._send_all())]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def open(self, forgets: tuple[str, ...] | None = ()) -> None:
        """Begins the run: afterwards no frame of an earlier run is loaded, and `progress` has the states to begin from.

        Args:
            forgets: streams whose states are forgotten; None: all.
        """
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

    async def loaded(self, batch: int) -> None:
        """Returns when the loader has noted a batch of the run.

        Raises:
            Fenced: a later run exists.
            PenstockError: the queue does not work.
        """
        await self._or_failure(self._loaded(batch))

    async def _loaded(self, batch: int) -> None:
        try:
            while not self._has(batch):
                self._changed.clear()
                self._waits(self.progress.waits or "the loader")
                await self._changed.wait()
        finally:
            self._waits("")

    def _has(self, batch: int) -> bool:
        if self.progress.run > self.run:
            raise Fenced(f"sync {self._sync}: a later run exists")
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
        self._sent += frame.rows
        self._number += 1
        place = Place(lane_of(self.run), self._number, frame.rows, self._sent)
        payload = encode_rows(frame)
        while True:
            try:
                await self._broker.publisher.publish(
                    self._subject, payload, msg_id=f"sync.{self._sync}.{self.run}.{self._number}", headers=write_place(place)
                )
            except Transient as exc:
                self._waits(f"the queue: {exc}")
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self._waits("")
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
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(task, return_exceptions=True)


def lane_of(run: int) -> str:
    """Returns the lane of a run's frames."""
    return f"sync-{run}"
