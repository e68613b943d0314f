"""One multipart upload: the thread that writes the object cuts and checks parts, which are sent while it writes on.

Memory: `PARTS` parts are on their way for all uploads of an area, one more is being filled, and one may wait.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import asyncio
import base64
import io
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared.errors import SetupError, Transient
from shared.stores.cutter import Cutter

if TYPE_CHECKING:
    from shared.stores.s3 import S3Store

PART_BYTES = 8 * 2**20
"""5 MiB is S3's smallest; some servers want all parts but the last of one size."""

PARTS = 4
MOST_PARTS = 10_000


class Upload:
    """An upload under way.

    Args:
        store: where to.
        key: of the object.
        slots: bound the parts that are on their way at once.
        alone: end other uploads to the same key first; a killed holder left them.
    """

    def __init__(self, store: S3Store, key: str, slots: asyncio.Semaphore, *, alone: bool) -> None:
        self.key = key
        self.size = 0
        self._store = store
        self._slots = slots
        self._stopped = False
        self._begun = asyncio.ensure_future(self._begin(alone))
        self._sending: list[asyncio.Task[dict[str, Any]]] = []
        self._parts: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()

    async def begun(self) -> str:
        """Returns the upload's id, once it has one.

        Raises:
            NotConnected, Transient, SetupError
        """
        return await asyncio.shield(self._begun)

    def write_with(self, write: Callable[[io.RawIOBase], object]) -> None:
        """Lets `write` write the object, and hands its parts over. Blocks; runs on a thread.

        Raises:
            Every error of `write`, and errors of sending until then.
        """
        with Cutter(self._hand_over, PART_BYTES) as output:
            write(output)
            output.cut()

    def stop(self) -> None:
        """Ends the sending: `write_with` raises at its next part.

        A request that begins an upload goes on: without its answer no one could end the upload.
        """
        self._stopped = True
        for task in self._sending:
            task.cancel()

    async def sent(self) -> None:
        """Waits until the server has all parts.

        Raises:
            UploadGone, NotConnected, Transient, SetupError
        """
        self._parts = list(await asyncio.gather(*self._sending))

    async def complete(self) -> None:
        """Makes the object visible; called after `sent`.

        Raises:
            UploadGone, NotConnected, Transient, SetupError
        """
        await self._store.call(
            "complete_multipart_upload", f"completing {self.key}",
            Key=self.key, UploadId=await self.begun(), MultipartUpload={"Parts": self._parts},
        )  # fmt: skip

    async def abort(self) -> None:
        """Ends the upload and waits for parts on their way, so that the server keeps no part.

        Raises:
            NotConnected, Transient, SetupError
        """
        self.stop()
        upload_id, *_ = await asyncio.gather(self._begun, *self._sending, return_exceptions=True)
        if isinstance(upload_id, str):
            await self._store.abort(self.key, upload_id)

    def _hand_over(self, part: io.BytesIO) -> None:
        checksum = None
        if self._store.options.checksums:
            checksum = base64.b64encode(zlib.crc32(part.getbuffer()).to_bytes(4, "big")).decode()
        asyncio.run_coroutine_threadsafe(self._accept(part, checksum), self._loop).result()

    async def _accept(self, part: io.BytesIO, checksum: str | None) -> None:
        await self._slots.acquire()
        try:
            if self._stopped:
                raise Transient("cancelled")
            for task in (self._begun, *self._sending):
                if task.done():
                    task.result()
            if len(self._sending) == MOST_PARTS:
                raise SetupError(f"{self.key}: more than {MOST_PARTS} parts; load smaller batches (`max_rows`)")
            self.size += part.tell()
            part.seek(0)
            self._sending.append(asyncio.ensure_future(self._send(len(self._sending) + 1, part, checksum)))
        except BaseException:
            self._slots.release()
            raise

    async def _begin(self, alone: bool) -> str:
        if alone:
            await self._store.abort_others(self.key)
        return await self._store.begin(self.key)

    async def _send(self, number: int, part: io.BytesIO, checksum: str | None) -> dict[str, Any]:
        try:
            upload_id = await self.begun()
            extra = {"ChecksumCRC32": checksum} if checksum else {}
            answer = await self._store.call(
                "upload_part", f"sending {self.key}", Key=self.key, UploadId=upload_id, PartNumber=number, Body=part, **extra
            )
            return {"PartNumber": number, "ETag": answer["ETag"], **extra}
        finally:
            self._slots.release()
