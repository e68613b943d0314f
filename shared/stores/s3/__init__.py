"""A bucket as an object store, of Amazon's S3 or any server that speaks its protocol.

Objects are multipart uploads, small ones too: no reader sees an upload before it is completed, and a newer holder can end it
(`area.py`). botocore retries, bounded by `attempts`; each call also has its own deadline.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote, urlsplit

from shared.errors import PenstockError, SetupError
from shared.stores.contract import PRIVATE, Entry, Place
from shared.stores.s3.area import S3Area, claim
from shared.stores.s3.connect import CONNECT_SECONDS, connect
from shared.stores.s3.errors import UploadGone, translate
from shared.stores.s3.keys import Keys
from shared.stores.s3.options import S3Options
from shared.stores.s3.versions import kept_versions
from shared.tasks import timeout
from shared.threads import ThreadGate

__all__ = ["S3Options", "S3Store", "open_store", "translate"]

LONGEST_WAIT = 20.0
"""Between two attempts, by botocore's standard mode."""


async def open_store(options: S3Options, root: str, gate: ThreadGate, what: str) -> S3Store:
    """Returns the store of a bucket, or of a part of it. No request is made.

    Args:
        options: the bucket and how to reach it.
        root: the prefix of all keys in the bucket: empty, or ends with a slash.
        gate: for all that blocks.
        what: its name in messages, such as `s3 destination "lake"`.

    Raises:
        SetupError: the driver is not installed, or the settings of the machine are wrong.
    """
    stack = AsyncExitStack()
    try:
        driver = await connect(options, gate)
        client = await stack.enter_async_context(driver.client)
    except PenstockError:
        raise
    except Exception as error:
        raise translate(error, f"{what}: opening it", options) from error
    return S3Store(client=client, session=driver.session, stack=stack, options=options, root=root, gate=gate, what=what)


class S3Store:
    """A `Store` in a bucket, or below a root in it."""

    def __init__(
        self, client: Any, session: Any, stack: AsyncExitStack, options: S3Options, root: str, gate: ThreadGate, what: str
    ) -> None:
        self.options = options
        self._client = client
        self._session = session
        self._endpoint = urlsplit(client.meta.endpoint_url)
        self._stack = stack
        self._root = root
        self._gate = gate
        self._what = what
        self._deadline = options.attempts * (CONNECT_SECONDS + float(options.timeout) + LONGEST_WAIT)

    async def put(self, key: str, data: bytes) -> None:
        await self.call("put_object", f"writing {key}", Key=key, Body=data, **self._encryption())

    async def get(self, key: str) -> bytes | None:
        try:
            async with timeout(self._deadline):
                answer = await self._client.get_object(Bucket=self.options.bucket, Key=self._root + key)
                async with answer["Body"] as body:
                    data: bytes = await body.read()
                    return data
        except Exception as error:
            if getattr(error, "response", {}).get("Error", {}).get("Code") == "NoSuchKey":
                return None
            raise translate(error, f"{self._what}: reading {key}", self.options) from error

    async def list(self, prefix: str) -> list[Entry]:
        return [entry async for portion in self.walk(prefix) for entry in portion]

    async def walk(self, prefix: str) -> AsyncIterator[builtins.list[Entry]]:
        """Yields the objects of one answer after the other."""
        private = prefix.startswith(f"{PRIVATE}/")
        more: dict[str, Any] = {}
        while True:
            answer = await self.call("list_objects_v2", "listing objects", Prefix=self._root + prefix, **more)
            found = (
                Entry(each["Key"].removeprefix(self._root), each["Size"], each["LastModified"].timestamp())
                for each in answer.get("Contents", ())
            )
            yield [entry for entry in found if private or not entry.key.startswith(f"{PRIVATE}/")]
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    async def versions(self) -> str:
        """Returns what the bucket keeps of replaced and removed objects."""
        return await kept_versions(self, self._root)

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes objects by one request each, because not every server knows the request for many."""
        for key in keys:
            await self.call("delete_object", f"removing {key}", Key=key)

    async def claim(self, owner: str, epoch: int) -> S3Area:
        return await claim(self, owner, epoch, self._gate)

    async def forget(self, owner: str) -> None:
        await self.delete([entry.key for entry in await self.list(f"{PRIVATE}/{owner}/")])

    def locate(self, key: str) -> Place:
        """Returns where other programs find an object."""
        bucket, path, host = self.options.bucket, quote(self._root + key), self._endpoint.netloc
        if self.options.in_path or "." in bucket:  # a certificate holds for one label before the host
            return Place(f"s3://{bucket}/{self._root}{key}", f"{self._endpoint.scheme}://{host}/{bucket}/{path}")
        return Place(f"s3://{bucket}/{self._root}{key}", f"{self._endpoint.scheme}://{bucket}.{host}/{path}")

    async def keys(self) -> Keys:
        """Returns the keys that this store uses now: those of the options, or of the chain of the machine.

        Raises:
            NotConnected, Transient, SetupError
        """
        options = self.options
        if options.access_key_id is not None and options.secret_access_key is not None:
            return Keys(options.access_key_id, options.secret_access_key, options.session_token)
        try:
            async with timeout(self._deadline):
                found = await self._session.get_credentials()
                frozen = await found.get_frozen_credentials() if found is not None else None
        except Exception as error:
            raise translate(error, f"{self._what}: looking for its keys", options) from error
        if frozen is None:
            raise SetupError(
                f"{self._what}: no keys found; set access_key_id and secret_access_key, or check the environment and ~/.aws"
            )
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    async def close(self) -> None:
        try:
            async with timeout(CONNECT_SECONDS):
                await self._stack.aclose()
        except Exception:  # noqa: BLE001  # a connection that does not close is no error of its user
            return

    # -- for areas

    async def call(self, operation: str, doing: str, **parameters: Any) -> Any:
        """Makes one request of the client, with its retries; `Key` is below the root, `Prefix` is whole.

        Raises:
            UploadGone, KeyRefused, NotConnected, Transient, SetupError
        """
        if "Key" in parameters:
            parameters["Key"] = self._root + parameters["Key"]
        try:
            async with timeout(self._deadline):
                return await getattr(self._client, operation)(Bucket=self.options.bucket, **parameters)
        except Exception as error:
            raise translate(error, f"{self._what}: {doing}", self.options) from error

    async def begin(self, key: str) -> str:
        """Begins an upload and returns its id. Raises as `call`."""
        extra: dict[str, Any] = {"ChecksumAlgorithm": "CRC32"} if self.options.checksums else {}
        if self.options.storage_class is not None:
            extra["StorageClass"] = self.options.storage_class
        answer = await self.call("create_multipart_upload", f"beginning {key}", Key=key, **extra, **self._encryption())
        return str(answer["UploadId"])

    async def abort(self, key: str, upload_id: str) -> None:
        """Ends an upload; an ended one is no error. Raises as `call`."""
        try:
            await self.call("abort_multipart_upload", f"ending an upload to {key}", Key=key, UploadId=upload_id)
        except UploadGone:
            return

    async def abort_others(self, key: str) -> None:
        """Ends all uploads to a key, if this user may list them. Raises as `call`."""
        try:
            answer = await self.call("list_multipart_uploads", f"listing uploads to {key}", Prefix=self._root + key)
        except SetupError:
            return  # a right that only saves space: a rule of the bucket can end lost uploads too
        for each in answer.get("Uploads", ()):
            if each["Key"] == self._root + key:
                await self.abort(key, each["UploadId"])

    def _encryption(self) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if self.options.sse is not None:
            extra["ServerSideEncryption"] = self.options.sse
        if self.options.kms_key_id is not None:
            extra["SSEKMSKeyId"] = self.options.kms_key_id
        return extra
