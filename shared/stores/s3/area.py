"""Areas in a bucket: only the newest holder completes its uploads. Needs no locks and no conditional writes.

    <root>_penstock/<owner>/<epoch>      a holder's note: the uploads that it is about to complete

A holder that publishes first writes its note, then lists the notes, and completes its uploads only where none is newer. A new
holder first writes its own note, then lists the notes, and ends the uploads that older ones name. The later writer sees the
other's note: either the old holder finds itself overtaken, or its uploads are ended and cannot be completed, however long it was
frozen in between. The server's lists must show every earlier write, as those of S3 and the usual other servers do:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/Welcome.html#ConsistencyModel
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import IO, TYPE_CHECKING, Any, cast

import msgspec

from shared.errors import NotConnected, PenstockError, SetupError, Transient
from shared.stores.contract import PRIVATE, fenced
from shared.stores.s3.errors import UploadGone
from shared.stores.s3.upload import PARTS, Upload
from shared.tasks import timeout, together
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from shared.stores.s3 import S3Store

COMPLETED_AT_ONCE = 8
DISCARD_SECONDS = 10.0


class Note(msgspec.Struct, frozen=True):
    """A holder's note: key and id of each upload that it is about to complete."""

    uploads: list[tuple[str, str]] = []


async def claim(store: S3Store, owner: str, epoch: int, gate: ThreadGate) -> S3Area:
    """Takes an owner's area over, as `Store.claim` says."""
    home = f"{PRIVATE}/{owner}/"
    own = f"{home}{epoch:020d}"
    epochs = await _epochs(store, home)
    if epochs and max(epochs) > epoch:
        raise fenced(owner, epoch, max(epochs))
    if epoch in epochs:
        await _end(store, own)
    await store.put(own, msgspec.json.encode(Note()))
    epochs = await _epochs(store, home)
    if epochs and max(epochs) > epoch:
        raise fenced(owner, epoch, max(epochs))
    for older in epochs:
        if older < epoch:
            await _end(store, f"{home}{older:020d}")
            await store.delete([f"{home}{older:020d}"])
    return S3Area(store, owner, epoch, gate)


async def _epochs(store: S3Store, home: str) -> list[int]:
    names = [entry.key.removeprefix(home) for entry in await store.list(home)]
    return [int(name) for name in names if name.isdecimal()]


async def _end(store: S3Store, note: str) -> None:
    """Ends the uploads that a note names.

    Raises:
        SetupError: the note is damaged.
    """
    text = await store.get(note)
    try:
        uploads = msgspec.json.decode(text, type=Note).uploads if text else []
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SetupError(
            f"object {note} is damaged, so its unfinished uploads cannot be ended; remove it if no other loader writes here"
        ) from error
    for key, upload_id in uploads:
        await store.abort(key, upload_id)


class S3Area:
    """A holder's uploads, as an `Area`."""

    def __init__(self, store: S3Store, owner: str, epoch: int, gate: ThreadGate) -> None:
        self._store = store
        self._owner = owner
        self._epoch = epoch
        self._gate = gate
        self._home = f"{PRIVATE}/{owner}/"
        self._slots = asyncio.Semaphore(PARTS)
        self._uploads: list[Upload] = []
        self._fresh = True

    async def stage(self, key: str, write: Callable[[IO[bytes]], object]) -> int:
        """Stages an object; its last parts may still be on their way."""
        # after a kill a loader repeats its last plan first, so the lost uploads have the same keys
        upload = Upload(self._store, key, self._slots, alone=self._fresh)
        self._uploads.append(upload)
        try:
            await self._gate.run_interruptible(upload.stop, upload.write_with, lambda output: write(cast("IO[bytes]", output)))
        except PenstockError as error:
            raise await self._explained(error) from error
        return upload.size

    async def publish(self) -> None:
        try:
            # the last parts may still be on their way: what counts is that the note is there before the look at the others
            await together(self._note(), *(upload.sent() for upload in self._uploads))
            await _to_the_end(self._complete())
        except PenstockError as error:
            raise await self._explained(error) from error
        self._fresh = False

    async def discard(self) -> None:
        uploads, self._uploads = self._uploads, []
        if uploads:
            await _to_the_end(_abort(uploads))

    async def _note(self) -> None:
        note = Note([(upload.key, await upload.begun()) for upload in self._uploads])
        await self._store.put(f"{self._home}{self._epoch:020d}", msgspec.json.encode(note))
        if await self._overtaken():
            raise fenced(self._owner, self._epoch)

    async def _complete(self) -> None:
        slots = asyncio.Semaphore(COMPLETED_AT_ONCE)

        async def complete(upload: Upload) -> None:
            async with slots:
                await upload.complete()
            self._uploads.remove(upload)

        outcomes = await asyncio.gather(*(complete(upload) for upload in list(self._uploads)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _overtaken(self) -> bool:
        return max(await _epochs(self._store, self._home), default=self._epoch) > self._epoch

    async def _explained(self, error: PenstockError) -> PenstockError:
        """Returns why uploads failed: a newer holder may have ended them."""
        if isinstance(error, Transient) and not isinstance(error, NotConnected):
            try:
                if await self._overtaken():
                    return fenced(self._owner, self._epoch)
            except PenstockError:
                return error
            if isinstance(error, UploadGone):
                return NotConnected(f"{error}; the upload was ended, perhaps by a rule of the bucket, and is made again")
        return error


async def _abort(uploads: list[Upload]) -> None:
    """Ends uploads. An upload that cannot be ended now ends when the plan is repeated, or by a rule of the bucket."""
    try:
        async with timeout(DISCARD_SECONDS):
            await asyncio.gather(*(upload.abort() for upload in uploads), return_exceptions=True)
    except TimeoutError:
        return


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine to its end, also when this task is cancelled; the cancellation then goes on."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the cancellation goes on, whatever the work made of it
        raise
