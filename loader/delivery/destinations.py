"""The open destinations of this process: one per definition, shared by its connections, closed after the last one leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from loader import registry
from loader.contract.events import EventDestination
from loader.contract.warehouse import Destination, Environment, LoadPlan, LoadReport, Session, TableLoad, TablePatch, TableSchema
from shared.errors import PenstockError
from shared.locks import KeyedLocks
from shared.reading.mask import Mask
from shared.scratch import Scratch
from shared.secrets.reading import reveal
from shared.secrets.references import references_in
from shared.telemetry.counts import Counts
from shared.threads import ThreadGate

THREADS = 4
"""Of one destination."""


class _Open:
    def __init__(self, name: str) -> None:
        self.gate = ThreadGate(THREADS, name)
        self.lock = asyncio.Lock()
        self.users = 0
        self.destination: Destination | EventDestination | None = None


class Destinations:
    """Opens destinations at their first use, each with its own threads.

    Args:
        telemetry: what plug-ins count with.
        scratch: where they may put what does not fit into memory.
    """

    def __init__(self, telemetry: Counts, scratch: Scratch) -> None:
        self._telemetry = telemetry
        self._scratch = scratch
        self._locks = KeyedLocks()
        self._open: dict[bytes, _Open] = {}

    @contextlib.asynccontextmanager
    async def use(self, name: str, document: Mapping[str, Any]) -> AsyncIterator[Destination | EventDestination]:
        """Yields the open destination that a part of the project file defines.

        Raises:
            ConfigError: its options are wrong.
            NotConnected, Transient, SetupError: it cannot be opened.
        """
        given = document
        if references_in(dict(document)):
            document = await asyncio.to_thread(reveal, document)
        try:
            plugin, options = registry.parse_options(name, document)
        except PenstockError as error:
            registry.mask_of(given).error(error)
            raise
        # after a change of the project the same name may have other options
        key = msgspec.json.encode([name, document], order="deterministic")
        entry = self._open.get(key) or self._open.setdefault(key, _Open(name))
        entry.users += 1
        try:
            async with entry.lock:
                if entry.destination is None:
                    environment = Environment(entry.gate, self._locks, self._telemetry, self._scratch)
                    entry.destination = await plugin.open_destination(name, options, environment)
            yield entry.destination
        except Exception as error:
            registry.mask_of(given).error(error)
            raise
        finally:
            entry.users -= 1
            if entry.users == 0:
                self._open.pop(key, None)
                if entry.destination is not None:
                    await entry.destination.close()
                entry.gate.close()


@contextlib.asynccontextmanager
async def open_session(
    destination: Destination, connection: str, epoch: int, document: Mapping[str, Any]
) -> AsyncIterator[MaskedSession]:
    """Yields a session of a connection; closes it."""
    session = await destination.open_session(connection, epoch)
    try:
        yield MaskedSession(session, registry.mask_of(document))
    finally:
        await session.close()


class MaskedSession:
    """A session whose errors tell no secret of its destination: a driver's message may quote what the driver was given."""

    def __init__(self, session: Session, mask: Mask) -> None:
        self._session = session
        self._mask = mask

    @contextlib.contextmanager
    def _masked(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._mask.error(error)
            raise

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """See `Session.marks`."""
        with self._masked():
            return await self._session.marks()

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        """See `Session.forget`."""
        with self._masked():
            await self._session.forget(marks)

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        """See `Session.describe`."""
        with self._masked():
            return await self._session.describe(tables)

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """See `Session.create`."""
        with self._masked():
            return await self._session.create(patches)

    async def patch(self, patch: TablePatch) -> TableSchema:
        """See `Session.patch`."""
        with self._masked():
            return await self._session.patch(patch)

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """See `Session.load`."""
        with self._masked():
            return await self._session.load(plan, loads)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """See `Session.probe`."""
        with self._masked():
            await self._session.probe(loads)

    async def abandon(self, table: str) -> None:
        """See `Session.abandon`."""
        with self._masked():
            await self._session.abandon(table)

    async def close(self) -> None:
        """See `Session.close`."""
        await self._session.close()
