"""A container of Azure Blob Storage as an object store.

Objects are block blobs. A staged object has a place of its own, from which the service copies it (`area.py`). The driver retries,
bounded by `attempts`; each call also has its own deadline.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from shared.stores.azure.area import AzureArea, claim
from shared.stores.azure.connect import CONNECT_SECONDS, LONGEST_WAIT, connect
from shared.stores.azure.errors import code_of, translate
from shared.stores.azure.login import Login, login_of
from shared.stores.azure.options import AzureOptions
from shared.stores.contract import PRIVATE, Entry
from shared.tasks import timeout
from shared.threads import ThreadGate

__all__ = ["AzureOptions", "AzureStore", "open_store", "translate"]

STAGED_AS = "penstock_staged_as"
"""Metadata of an object: the place that it was copied from."""

SIGNED_FOR = timedelta(hours=1)

T = TypeVar("T")


class Head(NamedTuple):
    """An object without its bytes: its entity tag, and the place that it was copied from. Empty: there is none."""

    tag: str = ""
    staged_as: str = ""


async def open_store(options: AzureOptions, root: str, gate: ThreadGate, what: str) -> AzureStore:
    """Returns the store of a container, or of a part of it. No request is made.

    Args:
        options: the container and how to reach it.
        root: the prefix of all keys in the container: empty, or ends with a slash.
        gate: for all that blocks.
        what: its name in messages, such as `archive in container raw`.

    Raises:
        SetupError: the driver is not installed, or the login is none.
    """
    login = login_of(options)
    client = await connect(options, login, gate)
    return AzureStore(client=client, login=login, options=options, root=root, gate=gate, what=what)


class AzureStore:
    """A `Store` in a container, or below a root in it."""

    def __init__(self, *, client: Any, login: Login, options: AzureOptions, root: str, gate: ThreadGate, what: str) -> None:
        self.options = options
        self.deadline = options.attempts * (CONNECT_SECONDS + float(options.timeout) + LONGEST_WAIT)
        self._client = client
        self._login = login
        self._root = root
        self._gate = gate
        self._what = what

    async def put(self, key: str, data: bytes) -> None:
        await self.write(key, data)

    async def get(self, key: str) -> bytes | None:
        return (await self.read(key))[0]

    async def list(self, prefix: str) -> list[Entry]:
        return await self._call(_entries(self._client, self._root, prefix), "listing objects")

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes objects by one request each."""
        for key in keys:
            await self._call(_unless_gone(self._blob(key).delete_blob(delete_snapshots="include")), f"removing {key}")

    async def claim(self, owner: str, epoch: int) -> AzureArea:
        return await claim(self, owner, epoch, self._gate)

    async def forget(self, owner: str) -> None:
        await self.delete([entry.key for entry in await self.list(f"{PRIVATE}/{owner}/")])

    async def close(self) -> None:
        try:
            async with timeout(CONNECT_SECONDS):
                await self._client.close()
        except Exception:  # noqa: BLE001  # a connection that does not close is no error of its user
            return

    # -- for areas; all raise Unmet, KeyRefused, NotConnected, Transient, SetupError

    async def read(self, key: str) -> tuple[bytes | None, str]:
        """Returns an object and its entity tag; None if there is none."""

        async def read() -> tuple[bytes, str]:
            found = await self._blob(key).download_blob()
            return bytes(await found.readall()), str(found.properties.etag)

        return await self._call(_unless_gone(read()), f"reading {key}") or (None, "")

    async def head(self, key: str) -> Head:
        """Returns what an object is, without its bytes."""
        found = await self._call(_unless_gone(self._blob(key).get_blob_properties()), f"looking at {key}")
        return Head(str(found.etag), str((found.metadata or {}).get(STAGED_AS, ""))) if found is not None else Head()

    async def write(self, key: str, data: bytes, over: str | None = None) -> str:
        """Writes an object and returns its entity tag.

        Args:
            over: the tag of the object that it may replace; empty: none may be there. Default: any.
        """
        condition = {} if over is None else {**_over(over)}
        answer = await self._call(
            self._blob(key).upload_blob(io.BytesIO(data), length=len(data), overwrite=over != "", **condition), f"writing {key}"
        )
        return str(answer["etag"])

    async def stage_block(self, key: str, block: str, data: bytes) -> None:
        """Sends one block of an object."""
        await self._call(self._blob(key).stage_block(block, io.BytesIO(data), length=len(data)), f"sending {key}")

    async def commit(self, key: str, blocks: Sequence[str]) -> str:
        """Makes an object of its blocks and returns its entity tag."""
        from azure.storage.blob import BlobBlock

        answer = await self._call(self._blob(key).commit_block_list([BlobBlock(block) for block in blocks]), f"completing {key}")
        return str(answer["etag"])

    async def copy(self, key: str, to: str, *, source: str, over: str) -> None:
        """Copies an object in one step.

        Args:
            source: its entity tag.
            over: as in `write`.
        """
        from azure.core import MatchConditions

        condition = {"source_etag": source, "source_match_condition": MatchConditions.IfNotModified, **_over(over)}
        copying = self._blob(to).start_copy_from_url(
            self._signed(key), metadata={STAGED_AS: self._root + key}, requires_sync=True, **condition
        )
        await self._call(copying, f"writing {to}")

    def _blob(self, key: str) -> Any:
        return self._client.get_blob_client(self._root + key)

    def _signed(self, key: str) -> str:
        """Returns the address of an object with a right to read it, as the service wants for the source of a copy."""
        blob = self._blob(key)
        if self._login.key is None:
            return f"{blob.url}?{self._login.sas}"
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        signature = generate_blob_sas(
            self._login.account, self.options.container, self._root + key, account_key=self._login.key,
            permission=BlobSasPermissions(read=True), expiry=datetime.now(UTC) + SIGNED_FOR,
        )  # fmt: skip
        return f"{blob.url}?{signature}"

    async def _call(self, call: Awaitable[T], doing: str) -> T:
        try:
            async with timeout(self.deadline):
                return await call
        except Exception as error:  # noqa: BLE001  # all are translated
            # the driver's error holds the whole answer, which may repeat the address and the signature in it
            raise translate(error, f"{self._what}: {doing}", self.options) from None


async def _entries(client: Any, root: str, prefix: str) -> list[Entry]:
    private = prefix.startswith(f"{PRIVATE}/")
    return sorted(
        [
            Entry(each.name[len(root) :], each.size, each.last_modified.timestamp())
            async for each in client.list_blobs(name_starts_with=root + prefix, include=["metadata"])
            # accounts with directories list those too
            if (each.metadata or {}).get("hdi_isfolder") != "true"
            and (private or not each.name.startswith(f"{PRIVATE}/", len(root)))
        ]
    )


async def _unless_gone(call: Awaitable[T]) -> T | None:
    """Returns the answer of a call; None if there is no such object."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return await call
    except ResourceNotFoundError as error:
        # an answer without a body, as to a look, has its code in a header
        if code_of(error) in ("BlobNotFound", ""):
            return None
        raise


def _over(tag: str) -> dict[str, Any]:
    from azure.core import MatchConditions

    return (
        {"etag": tag, "match_condition": MatchConditions.IfNotModified} if tag else {"match_condition": MatchConditions.IfMissing}
    )
