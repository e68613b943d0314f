"""The local journal: keeps frames on this machine's disk while the broker is away, bounded and synced.

`store` returns when the record is on disk. `empty` publishes the stored records, oldest first, in order within a subject. A
published record is noted on disk, so that a partly published file goes on where it stopped. A file is deleted only after every
record in it is published. The broker may have stored records that were sent without an answer. JetStream recognises their ids for
two minutes only, so the spool asks the broker for them before it sends them again.

While a record is stored, new frames go behind it, so that the order of acceptance holds. When only a small rest is left and is
being published, `store` does not add to it: callers wait for its end, for at most `patience_seconds`, and then publish directly.
Otherwise the journal would never end under steady load.

`ingest/journal/files.py` keeps the files, in a folder that one process owns (locked). Records that can never be published are
kept as `.refused`, unreadable files as `.damaged`; both are logged as errors for an operator. Blocking calls run on a thread of a
separate gate, in the order of arrival; records that arrive meanwhile share the next sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from ingest.journal.files import JournalFiles, make_folder
from ingest.journal.records import HEAD_BYTES, Record, Stored, encode_content
from shared.errors import ConfigError, PenstockError, Permanent, Problem, QueueFull
from shared.tasks import task_group, timeout
from shared.threads import ThreadGate

SEGMENT_BYTES = 8 * 1024 * 1024
SMALL_REST_BYTES = 2 * 1024 * 1024
CHUNK = 16
"""Records between two notes on disk; those of different subjects are under way together."""
PAUSE_SECONDS = 0.5
PAUSE_AFTER_FAILURE_SECONDS = 5.0
"""A disk that fails needs an operator, and each try is logged."""
PATIENCE_SECONDS = 1.0

Publish = Callable[[Record], Awaitable[None]]
LookUp = Callable[[str, set[str], float], Awaitable[set[str]]]
"""(subject, message ids, time of the first send): returns the ids that the broker has stored."""

log = logging.getLogger(__name__)


class SpoolFull(QueueFull):
    """The journal or its disk has no room left."""


class Spool:
    """The journal of one process. Opened with `open_spool`."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        gate: ThreadGate,
        segment_bytes: int = SEGMENT_BYTES,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        self._gate = gate
        self._patience_seconds = patience_seconds
        self._files = JournalFiles(folder, segment_bytes)
        self.failure: str | None = None
        """Why the last write failed; None: it succeeded."""
        self._refused_bytes = 0
        """Size of the last record that did not fit."""
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._unsettled = 0
        self._unsettled_bytes = 0
        self._writing = asyncio.Lock()
        self._something = asyncio.Event()
        self._ending: asyncio.Event | None = None
        self._flows = False
        """Whether the last record was published."""
        self._unnoted = False
        """Whether the last note of published records is in memory only."""
        self._unsure: dict[str, float] = {}
        """Records that were sent without an answer: message id and time."""
        if self._files.closed:
            self._something.set()

    @property
    def backlog(self) -> bool:
        """Whether a record is stored or being stored: then new frames must come through `store`."""
        return bool(self._files.closed or self._files.active_bytes or self._unsettled)

    @property
    def stored_bytes(self) -> int:
        """Bytes that are stored or being stored."""
        return self._files.stored_bytes + self._unsettled_bytes

    @property
    def full(self) -> bool:
        """Whether it refused a record for want of room, and still lacks the room."""
        return self._refused_bytes > 0 and self.stored_bytes + self._refused_bytes > self.max_bytes

    def open_ahead(self) -> None:
        """Opens the file of the first record now; blocks.

        Raises:
            OSError: it cannot be opened.
        """
        self._files.open_ahead()

    async def store(self, record: Record) -> bool:
        """Stores a record durably behind all others.

        Returns:
            False when the backlog ended while waiting: nothing was stored, publish directly.

        Raises:
            SpoolFull: no room; nothing was stored.
        """
        if self._ending is not None and not await self._wait_for_the_end(self._ending):
            return False
        content = encode_content(record)
        size = HEAD_BYTES + len(content)
        if self.stored_bytes + size > self.max_bytes:
            if not self.full:
                log.error("journal is full, events are refused", extra={"bytes": self.stored_bytes, "limit": self.max_bytes})
            self._refused_bytes = size
            raise SpoolFull(f"the local journal holds {self.stored_bytes} bytes, its limit is {self.max_bytes}")
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((content, stored))
        self._unsettled += 1
        self._unsettled_bytes += size
        self._something.set()
        async with self._writing:
            if not stored.done():
                await self._write_waiting()
        stored.result()
        return True

    async def _wait_for_the_end(self, ending: asyncio.Event) -> bool:
        """Returns whether a record is stored still, or again."""
        try:
            async with timeout(self._patience_seconds):
                await ending.wait()
        except TimeoutError:
            if self._ending is ending:
                self._let_through()
        return self.backlog

    async def empty(self, publish: Publish, look_up: LookUp | None = None, *, once: bool = False) -> None:
        """Publishes the stored records, for ever, or until none is left; `publish` raises if it could not publish a record.

        Args:
            look_up: asks for records that were sent without an answer; None: they are sent again under their ids.
        """
        while not once or self.backlog:
            await self._something.wait()
            try:
                await self._empty_oldest(publish, look_up)
            except PenstockError as exc:
                log.debug("journal waits for the broker", extra={"error": str(exc)})
                self._stand_still()
                await asyncio.sleep(PAUSE_SECONDS)
            except FileNotFoundError as exc:
                log.error("journal file is gone, with its records", extra={"path": str(exc.filename)})
                await self._gate.run(self._files.forget_oldest)
            except OSError as exc:
                log.error("journal cannot be emptied", extra={"folder": str(self._folder), "error": str(exc)})
                self._stand_still()
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async def look_again(self) -> None:
        """Clears the failure of the last write once the disk takes bytes again: the next write may be days away."""
        if self.failure is None:
            return
        async with self._writing:
            with contextlib.suppress(OSError):
                await self._gate.run(self._files.probe)
                self.failure = None

    async def close(self) -> None:
        """Closes the open files; stored records stay for the next start."""
        self._let_through()
        async with self._writing:
            await self._gate.run(self._files.close)

    async def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        contents = [each for each, _ in batch]
        failure: SpoolFull | None = SpoolFull("the service is stopping")
        try:
            await self._gate.run(self._files.append, contents)
            self.failure = failure = None
            self._something.set()
        except OSError as exc:
            log.error("journal cannot be written", extra={"folder": str(self._folder), "error": str(exc)})
            self.failure = f"the local journal in {self._folder} cannot be written: {exc.strerror}"
            failure = SpoolFull(self.failure)
        finally:
            self._unsettled -= len(batch)
            self._unsettled_bytes -= sum(HEAD_BYTES + len(content) for content in contents)
            for _, stored in batch:
                if stored.done():
                    continue
                if failure is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(failure)

    async def _empty_oldest(self, publish: Publish, look_up: LookUp | None) -> None:
        files = self._files
        if not files.closed:
            if self._flows and self._ending is None and self.stored_bytes <= SMALL_REST_BYTES:
                self._ending = asyncio.Event()
            async with self._writing:
                if self._waiting:
                    await self._write_waiting()
                if not files.closed:
                    await self._gate.run(files.end_active)
            if not files.closed:
                if not self.backlog:
                    self._finish()
                return
        path = files.closed[0].path
        contents, published = await self._gate.run(files.read, path)
        left = [each for each in contents.stored if each.offset not in published]
        began_at = files.attempted.pop(path, None)
        if began_at is not None:
            self._unsure.update({each.record.msg_id: began_at for each in left[:CHUNK]})
        elif left:
            await self._note(files.note_begun, path)
        await self._publish_all(path=path, salt=contents.salt, stored=left, publish=publish, look_up=look_up)
        await self._gate.run(files.put_away, contents)
        if not self.backlog:
            self._finish()

    async def _publish_all(
        self, path: Path, salt: bytes, stored: Sequence[Stored], publish: Publish, look_up: LookUp | None
    ) -> None:
        for start in range(0, len(stored), CHUNK):
            subjects: dict[str, list[Stored]] = {}
            for each in stored[start : start + CHUNK]:
                subjects.setdefault(each.record.subject, []).append(each)
            published: list[int] = []
            refused: list[Stored] = []
            failures: list[PenstockError] = []
            try:
                async with task_group() as group:
                    for some in subjects.values():
                        group.create_task(
                            self._publish_in_order(
                                stored=some,
                                publish=publish,
                                look_up=look_up,
                                published=published,
                                refused=refused,
                                failures=failures,
                            )
                        )
                for each in refused:
                    await self._gate.run(self._files.keep_refused, path, each.record)
                    published.append(each.offset)
            finally:
                if published:
                    await self._note(self._files.note_published, path, salt, published)
            if failures:
                raise failures[0]

    async def _note(self, note: Callable[..., None], *arguments: object) -> None:
        """Notes on disk how far a file is published. Without the note it goes on: only publishing makes room on a full disk."""
        try:
            await self._gate.run(note, *arguments)
        except OSError as exc:
            if not self._unnoted:
                log.error(
                    "the journal cannot note what it publishes; a crash before it is empty sends that again",
                    extra={"folder": str(self._folder), "error": str(exc)},
                )
            self._unnoted = True
        else:
            self._unnoted = False

    async def _publish_in_order(
        self,
        stored: Sequence[Stored],
        publish: Publish,
        look_up: LookUp | None,
        published: list[int],
        refused: list[Stored],
        failures: list[PenstockError],
    ) -> None:
        try:
            known = await self._look_up(stored, look_up)
        except PenstockError as exc:
            failures.append(exc)
            return
        for each in stored:
            if each.record.msg_id in known:
                published.append(each.offset)
                continue
            sent_at = time.time()
            try:
                if not each.record.is_ours:
                    raise Permanent(f"the subject {each.record.subject!r} is none of the edge's")
                await publish(each.record)
            except Permanent as exc:
                log.error("journal record cannot be published", extra={"msg_id": each.record.msg_id, "error": str(exc)})
                refused.append(each)
            except PenstockError as exc:
                if not isinstance(exc, QueueFull):
                    self._unsure.setdefault(each.record.msg_id, sent_at)
                failures.append(exc)
                return
            else:
                self._flows = True
                self._unsure.pop(each.record.msg_id, None)
                published.append(each.offset)

    async def _look_up(self, stored: Sequence[Stored], look_up: LookUp | None) -> set[str]:
        """Returns the ids of the records that were sent without an answer and that the broker stored."""
        since: dict[str, float] = {}
        for each in stored:
            sent_at = self._unsure.get(each.record.msg_id, each.record.sent_at)
            if sent_at is not None:
                since[each.record.msg_id] = min(sent_at, each.record.sent_at or sent_at)
        if not since or look_up is None:
            return set()
        known = await look_up(stored[0].record.subject, set(since), min(since.values()))
        for msg_id in known:
            self._unsure.pop(msg_id, None)
        return known

    def _finish(self) -> None:
        self._something.clear()
        self._let_through()
        log.info("journal is empty again")

    def _stand_still(self) -> None:
        self._flows = False
        self._let_through()

    def _let_through(self) -> None:
        if self._ending is not None:
            self._ending.set()
            self._ending = None


@contextlib.asynccontextmanager
async def open_spool(folder: Path, max_bytes: int, *, patience_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Spool]:
    """Opens the journal of one process.

    Raises:
        ConfigError: the folder cannot be used, or another process uses it.
    """
    gate = ThreadGate(1, "spool")
    lock: int | None = None
    try:
        try:
            lock = await gate.run(_lock, folder)
            spool = await gate.run(_open, folder, max_bytes, gate, patience_seconds)
        except BlockingIOError as exc:
            raise ConfigError([Problem("PENSTOCK_INGEST_SPOOL_DIR", f"{folder} is in use by another process")]) from exc
        except OSError as exc:
            raise ConfigError([Problem("PENSTOCK_INGEST_SPOOL_DIR", f"{folder} cannot be used: {exc.strerror}")]) from exc
        try:
            yield spool
        finally:
            await spool.close()
    finally:
        if lock is not None:
            os.close(lock)
        gate.close()


def _lock(folder: Path) -> int:
    make_folder(folder)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open(folder: Path, max_bytes: int, gate: ThreadGate, patience_seconds: float) -> Spool:
    """Opens the files on the gate's thread; asyncio's locks and events bind to no loop before their first use."""
    spool = Spool(folder, max_bytes, gate, patience_seconds=patience_seconds)
    if max_bytes:
        with contextlib.suppress(OSError):
            spool.open_ahead()
    return spool
