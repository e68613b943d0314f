"""The wishes of runs about connections that read the past again: stop for now, or leave the rest out."""

from __future__ import annotations

import asyncio
import logging

from shared.errors import UNREADABLE
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.streams.runs import WISHES, Wish, decode_wish

log = logging.getLogger(__name__)


class Wishes:
    """What runs want now, by connection."""

    def __init__(self) -> None:
        self._wishes: dict[str, Wish] = {}
        self._changed = asyncio.Event()

    async def follow(self, broker: Broker) -> None:
        """Follows them for ever."""
        async for entry in Bucket(broker, topology.STATE_BUCKET).watch(f"{WISHES}*"):
            name = entry.key.removeprefix(WISHES)
            try:
                if entry.value:
                    self._wishes[name] = decode_wish(entry.value)
                else:
                    self._wishes.pop(name, None)
            except UNREADABLE as exc:  # of a later version; an error here would end the router
                log.error("a wish of a run cannot be read", extra={"connection": name, "error": str(exc)})
                continue
            self._changed.set()
            self._changed = asyncio.Event()

    async def may_go_on(self, connection: str) -> None:
        """Returns when no run wants the connection to stop."""
        while (wish := self._wishes.get(connection)) is not None and wish.wish == "pause":
            await self._changed.wait()

    def left_out(self, connection: str) -> int:
        """Returns the last sequence that the connection must not get again; 0: it gets all."""
        wish = self._wishes.get(connection)
        return wish.last if wish is not None and wish.wish == "cancel" else 0

    def cancels(self, connection: str) -> bool:
        """Whether a run wants no more of the past for a connection."""
        wish = self._wishes.get(connection)
        return wish is not None and wish.wish == "cancel"
