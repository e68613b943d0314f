"""The local journal: keeps frames on this machine's disk while the broker is away, bounded and synced.

`store` returns when the record is on disk (file and, for a new file, its folder). `empty` publishes what is stored, oldest first,
and deletes a file only after every record in it has its acknowledgement, under the ids the records were first published with, so
that a crash in between repeats messages and JetStream collapses them (ids older than its window are collapsed by messageId).

While anything is stored, new frames go behind it, so that the order of acceptance holds. When the rest is small, `store` makes
callers wait for the end of it instead of growing it, and then tells them to publish directly: under steady load the journal would
otherwise never end.

Files: `00000001.journal` and so on, format in `ingest/journal.py`, in a folder that one process owns (locked). What cannot be
published ever is kept as `.refused`, what cannot be read as `.damaged`; both are logged as errors for a person to look at.
Blocking calls run on a thread of their own gate, in the order of arrival; records that arrive meanwhile share the next sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from ingest.journal import Contents, Record, encode_record, read_records
from shared.errors import ConfigError, PenstockError, Permanent, Problem, QueueFull, Transient
from shared.tasks import first_of, task_group
from shared.threads import ThreadGate

SEGMENT_BYTES = 8 * 1024 * 1024
SMALL_REST_BYTES = 2 * 1024 * 1024
WINDOW = 4
"""Records under way at once while emptying."""
PAUSE_SECONDS = 0.5
PAUSE_AFTER_FAILURE_SECONDS = 5.0
"""A disk that fails needs a person, and each try is logged."""

Publish = Callable[[Record], Awaitable[None]]

log = logging.getLogger(__name__)


class SpoolFull(QueueFull):
    """The journal has no room left, or its disk has not."""


class Spool:
    """See the module. Opened with `open_spool`."""

    def __init__(self, folder: Path, max_bytes: int, gate: ThreadGate, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._gate = gate
        self._segment_bytes = segment_bytes
        self._closed: deque[Path] = deque(sorted(folder.glob("*.journal")))
        self.stored_bytes = sum(path.stat().st_size for path in self._closed)
        self._number = max((int(path.stem) for path in folder.iterdir() if path.stem.isdigit()), default=0)
        self._descriptor: int | None = None
        self._active: Path | None = None
        self._active_bytes = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._unsettled = 0
        self._writing = asyncio.Lock()
        self._something = asyncio.Event()
        self._ending: asyncio.Event | None = None
        if self._closed:
            self._something.set()

    @property
    def backlog(self) -> bool:
        """Whether anything is stored or being stored: new frames must then come through `store`."""
        return bool(self._closed or self._active or self._unsettled)

    async def store(self, record: Record) -> bool:
        """Stores a record durably behind all others.

        Returns:
            False when the backlog ended while waiting: nothing was stored, publish directly.

        Raises:
            SpoolFull: no room; nothing was stored.
        """
        while self._ending is not None:
            await self._ending.wait()
            if not self.backlog:
                return False
        data = encode_record(record)
        if self.stored_bytes + len(data) > self._max_bytes:
            raise SpoolFull(f"the local journal holds {self.stored_bytes} bytes, its limit is {self._max_bytes}")
        self.stored_bytes += len(data)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((data, stored))
        self._unsettled += 1
        self._something.set()
        async with self._writing:
            if not stored.done():
                await self._write_waiting()
        stored.result()
        return True

    async def empty(self, publish: Publish, *, once: bool = False) -> None:
        """Publishes what is stored, for ever, or until nothing is left; `publish` raises when a record could not be published."""
        while not once or self.backlog:
            await self._something.wait()
            try:
                await self._empty_oldest(publish)
            except PenstockError as exc:
                log.debug("journal waits for the broker", extra={"error": str(exc)})
                self._let_through()
                await asyncio.sleep(PAUSE_SECONDS)
            except FileNotFoundError as exc:
                log.error("journal file is gone, with what was in it", extra={"path": str(exc.filename)})
                self._closed.popleft()
            except OSError as exc:
                log.error("journal cannot be read", extra={"folder": str(self._folder), "error": str(exc)})
                self._let_through()
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async def close(self) -> None:
        """Closes the open file; what is stored stays for the next start."""
        self._let_through()
        async with self._writing:
            if self._descriptor is not None:
                await self._gate.run(os.close, self._descriptor)
                self._descriptor = None

    async def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        data = b"".join(each for each, _ in batch)
        failure: SpoolFull | None = SpoolFull("the service is stopping")
        try:
            await self._gate.run(self._write, data)
            failure = None
        except OSError as exc:
            log.error("journal cannot be written", extra={"folder": str(self._folder), "error": str(exc)})
            failure = SpoolFull(f"the local journal in {self._folder} cannot be written: {exc.strerror}")
        finally:
            self._unsettled -= len(batch)
            if failure is not None:
                self.stored_bytes -= len(data)
            for _, stored in batch:
                if stored.done():
                    continue
                if failure is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(failure)

    def _write(self, data: bytes) -> None:
        """Runs on a thread: appends and syncs, or leaves the file as it was."""
        if self._descriptor is None:
            self._begin_file()
        assert self._descriptor is not None  # noqa: S101  # for the type checker
        start = self._active_bytes
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            # after a failed sync the kernel may have dropped pages: this file takes no more
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, start)
                os.fsync(self._descriptor)
            self._end_file(keep=start > 0)
            raise
        self._active_bytes += len(data)
        if self._active_bytes >= self._segment_bytes:
            self._end_file(keep=True)

    def _begin_file(self) -> None:
        path = self._folder / f"{self._number + 1:08d}.journal"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        self._number += 1
        self._descriptor, self._active, self._active_bytes = descriptor, path, 0

    def _end_file(self, *, keep: bool) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        if self._active is not None:
            if keep:
                self._closed.append(self._active)
            else:
                with contextlib.suppress(OSError):
                    self._active.unlink()
        self._descriptor, self._active, self._active_bytes = None, None, 0

    async def _empty_oldest(self, publish: Publish) -> None:
        if not self._closed:
            if self._ending is None and self.stored_bytes <= SMALL_REST_BYTES:
                self._ending = asyncio.Event()
            async with self._writing:
                if self._waiting:
                    await self._write_waiting()
                if not self._closed and self._active is not None:
                    await self._gate.run(lambda: self._end_file(keep=True))
            if not self._closed:
                self._finish()
                return
        path = self._closed[0]
        size = await self._gate.run(lambda: path.stat().st_size)
        contents: Contents = await self._gate.run(lambda: read_records(path.read_bytes()))
        await self._publish_all(path, contents, publish)
        await self._gate.run(self._put_away, path, contents)
        self._closed.popleft()
        self.stored_bytes -= size
        if not self.backlog:
            self._finish()

    async def _publish_all(self, path: Path, contents: Contents, publish: Publish) -> None:
        refused: list[Record] = []

        async def one(record: Record) -> None:
            try:
                await publish(record)
            except Permanent as exc:
                log.error("journal record cannot be published", extra={"msg_id": record.msg_id, "error": str(exc)})
                refused.append(record)

        for start in range(0, len(contents.records), WINDOW):
            try:
                async with task_group() as group:
                    for record in contents.records[start : start + WINDOW]:
                        group.create_task(one(record))
            except BaseExceptionGroup as failures:
                # not `except*`, which wraps what is raised in it on Python up to 3.11.2
                if failures.split(PenstockError)[1] is not None:
                    raise
                raise Transient(str(first_of(failures))) from failures
        if refused:
            data = b"".join(encode_record(record) for record in refused)
            await self._gate.run(lambda: _keep(path.with_suffix(".refused"), data))

    def _put_away(self, path: Path, contents: Contents) -> None:
        if contents.damaged:
            log.error("journal file is damaged, kept for a look", extra={"path": str(path), "bytes": contents.damaged})
            path.rename(path.with_suffix(".damaged"))
        else:
            path.unlink()
        _sync_folder(self._folder)

    def _finish(self) -> None:
        self._something.clear()
        self.stored_bytes = 0
        self._let_through()
        log.info("journal is empty again")

    def _let_through(self) -> None:
        if self._ending is not None:
            self._ending.set()
            self._ending = None


@contextlib.asynccontextmanager
async def open_spool(folder: Path, max_bytes: int) -> AsyncIterator[Spool]:
    """Opens the journal of one process.

    Raises:
        ConfigError: the folder cannot be used, or another process uses it.
    """
    gate = ThreadGate(1, "spool")
    lock: int | None = None
    try:
        try:
            lock = await gate.run(_lock, folder)
        except BlockingIOError as exc:
            raise ConfigError([Problem("PENSTOCK_INGEST_SPOOL_DIR", f"{folder} is in use by another process")]) from exc
        except OSError as exc:
            raise ConfigError([Problem("PENSTOCK_INGEST_SPOOL_DIR", f"{folder} cannot be used: {exc.strerror}")]) from exc
        spool = Spool(folder, max_bytes, gate)
        try:
            yield spool
        finally:
            await spool.close()
    finally:
        if lock is not None:
            os.close(lock)
        gate.close()


def _lock(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sync_folder(folder)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
