"""The open destinations of this process: one per definition, shared by its connections, closed after the last one leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from loader import registry
from loader.contract.events import EventDestination
from loader.contract.warehouse import Destination, Environment
from shared.locks import KeyedLocks
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
    """Opens destinations at their first use, each with its own threads."""

    def __init__(self) -> None:
        self._locks = KeyedLocks()
        self._open: dict[bytes, _Open] = {}

    @contextlib.asynccontextmanager
    async def use(self, name: str, document: Mapping[str, Any]) -> AsyncIterator[Destination | EventDestination]:
        """Yields the open destination that a part of the project file defines.

        Raises:
            ConfigError: its options are wrong.
            NotConnected, Transient, SetupError: it cannot be opened.
        """
        plugin, options = registry.parse_options(name, document)
        # after a change of the project the same name may have other options
        key = msgspec.json.encode([name, document], order="deterministic")
        entry = self._open.get(key) or self._open.setdefault(key, _Open(name))
        entry.users += 1
        try:
            async with entry.lock:
                if entry.destination is None:
                    entry.destination = await plugin.open_destination(name, options, Environment(entry.gate, self._locks))
            yield entry.destination
        finally:
            entry.users -= 1
            if entry.users == 0:
                self._open.pop(key, None)
                if entry.destination is not None:
                    await entry.destination.close()
                entry.gate.close()
