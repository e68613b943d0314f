"""Areas in a container: only the newest holder's staged objects can be copied to their places.

    <root>_penstock/<owner>/epoch                        the newest epoch; replaced only by a holder that saw it
    <root>_penstock/<owner>/staged/<epoch>/<n>-<id>      objects on their way

A holder that publishes first has all its objects staged, and looks at the targets; then it reads the epoch, and last it lets the
service copy each staged object to its place. One copy is one step: the object is there whole, or it is not. A new holder first
writes its epoch, and then removes what older ones staged. So the old holder finds the newer epoch, or nothing to copy, however
long it was frozen in between.

Each copy names the entity tags of its source and of its target. A request that was under way when the new holder came copies no
other bytes than the staged ones, and never over an object that another program wrote meanwhile.

https://learn.microsoft.com/rest/api/storageservices/copy-blob-from-url
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, cast

from shared.errors import NotConnected, PenstockError, SetupError, Transient
from shared.stores.azure.errors import Unmet
from shared.stores.azure.upload import PARTS, Upload
from shared.stores.contract import PRIVATE, fenced
from shared.tasks import timeout, to_the_end, together
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from shared.stores.azure import AzureStore

AT_ONCE = 8
DISCARD_SECONDS = 10.0


async def claim(store: AzureStore, owner: str, epoch: int, gate: ThreadGate) -> AzureArea:
    """Takes an owner's area over, as `Store.claim` says."""
    while True:
        newest, tag = await _newest(store, owner)
        if newest > epoch:
            raise fenced(owner, epoch, newest)
        try:
            await store.write(_note(owner), str(epoch).encode(), over=tag)
            break
        except Unmet:
            continue  # another one wrote it between the look and the write
    staged = f"{PRIVATE}/{owner}/staged/"
    names = [entry.key.removeprefix(staged) for entry in await store.list(staged)]
    older = [name for name in names if name.partition("/")[0].isdecimal() and int(name.partition("/")[0]) <= epoch]
    await store.delete([staged + name for name in older])
    return AzureArea(store, owner, epoch, gate)


async def _newest(store: AzureStore, owner: str) -> tuple[int, str]:
    """Returns an owner's newest epoch, -1 if it never had one, and the note's entity tag.

    Raises:
        SetupError: the note is damaged.
    """
    text, tag = await store.read(_note(owner))
    if text is None:
        return -1, ""
    if not text.isdigit():
        raise SetupError(
            f"object {_note(owner)} is damaged, so no loader can tell who may write here; remove it if no other loader writes here"
        )
    return int(text), tag


def _note(owner: str) -> str:
    return f"{PRIVATE}/{owner}/epoch"


class AzureArea:
    """A holder's staged objects, as an `Area`."""

    def __init__(self, store: AzureStore, owner: str, epoch: int, gate: ThreadGate) -> None:
        self._store = store
        self._owner = owner
        self._epoch = epoch
        self._gate = gate
        self._home = f"{PRIVATE}/{owner}/staged/{epoch:020d}/"
        self._slots = asyncio.Semaphore(PARTS)
        self._uploads: list[Upload] = []

    async def stage(self, key: str, write: Callable[[IO[bytes]], object]) -> int:
        """Stages an object; its last parts may still be on their way."""
        aside = f"{self._home}{len(self._uploads)}-{secrets.token_hex(8)}"
        upload = Upload(self._store, key, aside, self._slots)
        self._uploads.append(upload)
        try:
            await self._gate.run_interruptible(upload.stop, upload.write_with, lambda output: write(cast("IO[bytes]", output)))
        except PenstockError as error:
            raise await self._explained(error) from error
        return upload.size

    async def publish(self) -> None:
        if not self._uploads:
            await self._check()
            return
        targets: dict[Upload, str] = {}

        async def look(upload: Upload) -> None:
            targets[upload] = (await self._store.head(upload.key)).tag

        try:
            await together(*(upload.sent() for upload in self._uploads), *(look(upload) for upload in self._uploads))
            await self._check()
            await to_the_end(self._copy_all(targets), self._store.deadline)
        except PenstockError as error:
            raise await self._explained(error) from error

    async def discard(self) -> None:
        uploads, self._uploads = self._uploads, []
        if uploads:
            await to_the_end(_abort(uploads), DISCARD_SECONDS)

    async def _check(self) -> None:
        newest, _ = await _newest(self._store, self._owner)
        if newest > self._epoch:
            raise fenced(self._owner, self._epoch)

    async def _copy_all(self, targets: dict[Upload, str]) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def copy(upload: Upload) -> None:
            async with slots:
                await self._copy(upload, targets[upload])
            self._uploads.remove(upload)

        done = list(self._uploads)
        outcomes = await asyncio.gather(*(copy(upload) for upload in done), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        await _abort(done)  # their places hold them; what stays here the next holder removes

    async def _copy(self, upload: Upload, target: str) -> None:
        try:
            await self._store.copy(upload.aside, upload.key, source=upload.etag, over=target)
        except Unmet:
            # the answer of an earlier attempt may have been lost: the copy bears the name of what it was made of
            if (await self._store.head(upload.key)).staged_as == upload.aside:
                return
            raise

    async def _explained(self, error: PenstockError) -> PenstockError:
        """Returns why objects could not be published: a newer holder may have removed them."""
        if isinstance(error, Transient) and not isinstance(error, NotConnected):
            try:
                await self._check()
            except PenstockError as found:
                return found
            if isinstance(error, Unmet):
                return NotConnected(
                    f"{error}; an object was changed or removed by another hand while it was written; it is made again"
                )
        return error


async def _abort(uploads: list[Upload]) -> None:
    """Removes staged objects. The next holder removes the rest."""
    try:
        async with timeout(DISCARD_SECONDS):
            await asyncio.gather(*(upload.abort() for upload in uploads), return_exceptions=True)
    except TimeoutError:
        return
