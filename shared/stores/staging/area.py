"""The work on a staging store: objects are put, found again, removed, and swept. See the package."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from shared.errors import PenstockError, SetupError
from shared.stores.contract import Area, Place, Store
from shared.stores.s3.keys import Keys
from shared.threads import Stop

if TYPE_CHECKING:
    from shared.scratch import Scratch
    from shared.threads import ThreadGate

log = logging.getLogger(__name__)

IN_MEMORY = 8 * 2**20
"""Bytes of one object that wait in memory; those of a larger one wait in the scratch space."""
SWEEP_SECONDS = 3600.0
"""The time between two sweeps of a process."""
MOST_SWEPT = 1000
"""Objects that one sweep removes, a request each."""
HASH_LETTERS = 20
COPY_BYTES = 2**20
"""Bytes that are copied together."""

_OTHER = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_PART = 100


@dataclass(frozen=True, slots=True)
class Staged:
    """An object that a warehouse can read.

    `url`: `s3://bucket/key`, or `file:///path`. `address`: the same for readers that speak HTTP (`https://host/key`), or the path.
    `size` in bytes. `keys`: what the warehouse reads it with; None if it has rights of its own. `sent`: False if it was there.
    """

    url: str
    address: str
    size: int
    keys: Keys | None
    sent: bool


class Staging:
    """One staging store, open.

    Args:
        store: the place of the objects.
        locate: returns the addresses of a key.
        lend: returns the keys that the warehouse may use; None: it has rights of its own.
        gate: for all that blocks.
        scratch: for objects that do not fit into memory.
        keep: seconds for which leftovers stay.
        what: its name in messages.
    """

    def __init__(
        self,
        store: Store,
        locate: Callable[[str], Place],
        lend: Callable[[], Awaitable[Keys]] | None,
        gate: ThreadGate,
        scratch: Scratch,
        keep: float,
        what: str,
    ) -> None:
        self.store = store
        self.locate = locate
        self.gate = gate
        self.scratch = scratch
        self.what = what
        self._lend = lend
        self._keep = keep
        self._sweep_at = 0.0

    async def keys(self) -> Keys | None:
        """Returns the keys that the warehouse may use now.

        Raises:
            NotConnected, Transient, SetupError
        """
        return None if self._lend is None else await self._lend()

    async def claim(self, connection: str, epoch: int) -> StagingArea:
        """Returns the area of a connection, ends the uploads of its older holders, and sweeps leftovers once an hour.

        Raises:
            Fenced: a holder with a higher epoch exists.
            NotConnected, Transient, SetupError
        """
        area = await self.store.claim(_plain(connection), epoch)
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
            await self.sweep()
        return StagingArea(self, area, connection)

    async def sweep(self) -> int:
        """Removes objects older than `keep`, of all connections, and returns how many; the next sweep takes what is left. Never
        raises.
        """
        oldest = time.time() - self._keep
        try:
            old = [entry.key for entry in await self.store.list("") if entry.modified < oldest][:MOST_SWEPT]
            await self.store.delete(old)
        except PenstockError as error:
            log.warning("leftovers of loads stay in the staging store", extra={"error": str(error)})
            return 0
        if old:
            log.info("leftovers of loads were removed", extra={"objects": len(old)})
        return len(old)

    async def forget(self, connection: str) -> None:
        """Forgets the holders of a connection that will never come again.

        Raises:
            NotConnected, Transient, SetupError
        """
        await self.store.forget(_plain(connection))

    async def close(self) -> None:
        """Closes links. Never raises."""
        await self.store.close()


class StagingArea:
    """The objects of one connection. One task uses it at a time."""

    def __init__(self, staging: Staging, area: Area, connection: str) -> None:
        self._staging = staging
        self._area = area
        self._home = f"{_plain(connection)}/"

    async def put(self, batch: str, name: str, write: Callable[[IO[bytes]], object]) -> Staged:
        """Stores an object whole, unless an earlier attempt has, and returns where it is.

        Memory: `IN_MEMORY` bytes and the parts that are on their way; the rest of a larger object is in the scratch space.

        Args:
            batch: the load's name, the same for each repeat.
            name: the object's name within it, with its ending. What ClickHouse, Redshift and others read as a pattern is replaced.
            write: writes the object to the file it is given. It blocks and runs on a thread. It must write equal bytes for equal
                rows, or repeats send them again.

        Raises:
            Fenced: a newer holder exists.
            NotConnected, Transient, SetupError
            Every error of `write`.
        """
        staging = self._staging
        stop = Stop()
        spool = await staging.gate.run_interruptible(stop.set, _spooled, write, staging.scratch, stop)
        try:
            stem, dot, ending = name.rpartition(".")
            folder = self._folder(batch)
            key = f"{folder}{_plain(stem or ending)}-{spool.digest}{dot}{ending if stem else ''}"
            there = {entry.key: entry.size for entry in await staging.store.list(folder)}
            missing = there.get(key) != spool.size
            if missing:
                try:
                    await self._area.stage(key, spool.copy_to)
                    await self._area.publish()
                finally:
                    await self._area.discard()
        finally:
            spool.close()
        place = staging.locate(key)
        return Staged(place.url, place.address, spool.size, await staging.keys(), sent=missing)

    async def remove(self, batch: str) -> None:
        """Removes all objects of a load once it is committed. What cannot be removed now, a sweep removes. Never raises."""
        try:
            store = self._staging.store
            await store.delete([entry.key for entry in await store.list(self._folder(batch))])
        except PenstockError as error:
            log.warning("staged objects of a committed load stay until they are swept", extra={"error": str(error)})

    def _folder(self, batch: str) -> str:
        return f"{self._home}{_plain(batch)}/"


class _Spool:
    """The bytes of an object, with their hash and size."""

    def __init__(self, file: IO[bytes], most_bytes: int, stop: Stop) -> None:
        self.size = 0
        self._file = file
        self._hash = hashlib.sha256()
        self._most = most_bytes
        self._stop = stop

    @property
    def digest(self) -> str:
        """What tells these bytes from others."""
        return self._hash.hexdigest()[:HASH_LETTERS]

    def add(self, data: memoryview) -> None:
        """Appends bytes.

        Raises:
            SetupError: there are too many.
            Transient: the work was asked to stop.
        """
        self._stop.check()
        self.size += len(data)
        if self.size > self._most:
            raise SetupError(f"an object of more than {self._most} bytes; load smaller batches (`max_rows`, `max_bytes`)")
        self._hash.update(data)
        self._file.write(data)

    def copy_to(self, output: IO[bytes]) -> None:
        """Writes the bytes."""
        self._file.seek(0)
        while part := self._file.read(COPY_BYTES):
            output.write(part)

    def close(self) -> None:
        """Frees memory and disk."""
        self._file.close()


class _Output(io.RawIOBase):
    """A file that is written once from beginning to end."""

    def __init__(self, spool: _Spool) -> None:
        self._spool = spool

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._spool.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._spool.add(view)
        return len(view)


def _spooled(write: Callable[[IO[bytes]], object], scratch: Scratch, stop: Stop) -> _Spool:
    folder = scratch.folder("staging")
    # without a name in the directory: what a killed process wrote is gone with it
    file = cast("IO[bytes]", tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder)))  # noqa: SIM115 - its user closes it
    spool = _Spool(file, scratch.most_bytes, stop)
    try:
        with _Output(spool) as output:
            write(cast("IO[bytes]", output))
    except BaseException:
        spool.close()
        raise
    return spool


def _plain(text: str) -> str:
    """Returns text as one segment of a key of which no reader takes any character for more than itself."""
    plain = _OTHER.sub("-", text)
    if plain == text and 0 < len(plain) <= _LONGEST_PART and not plain.startswith((".", "_")):
        return plain
    tail = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_LETTERS]
    return f"{plain.strip('._-')[: _LONGEST_PART - HASH_LETTERS - 1]}-{tail}".lstrip("-")
