"""One object on its way to its staged place: the thread that writes it cuts parts, which are sent while it writes on.

An object of one part is one request. A larger one is blocks, and a list of them at the end; the service drops blocks that no list
named within a week. Memory: `PARTS` parts are on their way for all uploads of an area, and each upload fills one more.

https://learn.microsoft.com/rest/api/storageservices/understanding-block-blobs--append-blobs--and-page-blobs
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared.errors import SetupError, Transient
from shared.stores.cutter import Cutter

if TYPE_CHECKING:
    from shared.stores.azure import AzureStore

PART_BYTES = 8 * 2**20
PARTS = 4
MOST_BYTES = 256 * 2**20
"""The largest object that the service copies in one step."""


class Upload:
    """An upload under way.

    Args:
        store: where to.
        key: where the object will be.
        aside: where it is staged.
        slots: bound the parts that are on their way at once.
    """

    def __init__(self, store: AzureStore, key: str, aside: str, slots: asyncio.Semaphore) -> None:
        self.key = key
        self.aside = aside
        self.size = 0
        self.etag = ""
        self._store = store
        self._slots = slots
        self._stopped = False
        self._first: bytes | None = None
        self._blocks: list[str] = []
        self._sending: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()

    def write_with(self, write: Callable[[io.RawIOBase], object]) -> None:
        """Lets `write` write the object, and hands its parts over. Blocks; runs on a thread.

        Raises:
            Every error of `write`, and errors of sending until then.
        """
        with Cutter(self._hand_over, PART_BYTES) as output:
            write(output)
            output.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()

    def stop(self) -> None:
        """Ends the sending: `write_with` raises at its next part."""
        self._stopped = True
        for task in self._sending:
            task.cancel()

    async def sent(self) -> None:
        """Waits until the staged object is whole; `etag` says then which one it is.

        Raises:
            NotConnected, Transient, SetupError
        """
        await asyncio.gather(*self._sending)
        if self._blocks and not self.etag:
            self.etag = await self._store.commit(self.aside, self._blocks)

    async def abort(self) -> None:
        """Ends the upload and removes the staged object.

        Raises:
            NotConnected, Transient, SetupError
        """
        self.stop()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._store.delete([self.aside])

    def _hand_over(self, part: io.BytesIO) -> None:
        asyncio.run_coroutine_threadsafe(self._accept(part.getvalue()), self._loop).result()

    async def _accept(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > MOST_BYTES:
            raise SetupError(
                f"{self.key}: larger than {MOST_BYTES // 2**20} MiB, which is the most that Azure makes visible in one step; "
                "write smaller objects (`max_rows`, `max_bytes`)"
            )
        if self._first is None and not self._blocks:
            self._first = part
            return
        await self._flush()
        await self._send_block(part)

    async def _flush(self) -> None:
        if self._first is not None:
            part, self._first = self._first, None
            await self._send_block(part)

    async def _end(self) -> None:
        if self._first is not None:
            part, self._first = self._first, None
            await self._start(self._put(part))

    async def _send_block(self, part: bytes) -> None:
        block = base64.b64encode(f"{len(self._blocks):08d}".encode()).decode()
        self._blocks.append(block)
        await self._start(self._stage(block, part))

    async def _start(self, sending: Any) -> None:
        try:
            await self._slots.acquire()
        except BaseException:
            sending.close()
            raise
        try:
            if self._stopped:
                raise Transient("cancelled")
            for task in self._sending:
                if task.done():
                    task.result()
            self._sending.append(asyncio.ensure_future(sending))
        except BaseException:
            sending.close()
            self._slots.release()
            raise

    async def _put(self, part: bytes) -> None:
        try:
            self.etag = await self._store.write(self.aside, part)
        finally:
            self._slots.release()

    async def _stage(self, block: str, part: bytes) -> None:
        try:
            await self._store.stage_block(self.aside, block, part)
        finally:
            self._slots.release()
