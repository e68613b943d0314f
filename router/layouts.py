"""The layouts of all sites as this process knows them (`shared/events/shards.py`); sites that always had one shard have none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from shared.errors import Transient
from shared.events.shards import PATTERN, Layout, Shard, decode_layout, read_layouts, shards_of, site_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

AGAIN_SECONDS = 1.0

log = logging.getLogger(__name__)


class Layouts:
    """Follows the bucket `state`.

    A layout may be older than the stored one: a shard that stops for a change notes it in its state, and the next holder of the shard
    waits until it sees that change (`router/forwarding/shard.py`).
    """

    def __init__(self) -> None:
        self._known: dict[str, Layout] = {}
        self._turn = asyncio.Event()

    @property
    def known(self) -> Mapping[str, Layout]:
        """The layouts, by site."""
        return self._known

    def of(self, site: str) -> Layout | None:
        """Returns the layout of a site; None: it always had one shard."""
        return self._known.get(site)

    def shards(self, site: str) -> Sequence[Shard]:
        """Returns the shards that routers must hold."""
        return shards_of(self._known.get(site))

    def changed(self) -> Coroutine[Any, Any, object]:
        """Returns what waits for the next change of any layout. It counts from this call on, whenever it is awaited."""
        return self._turn.wait()

    async def load(self, broker: Broker) -> None:
        """Reads all layouts, however long that takes; before that no site may be routed."""
        said = ""
        while True:
            try:
                self._known = await read_layouts(broker)
                return self._tell()
            except Transient as exc:
                log.debug("layouts of sites cannot be read yet", extra={"error": str(exc)})
            except msgspec.MsgspecError as exc:  # a router that left it out would route what is another's
                if said != (said := str(exc)):
                    log.error("the layout of a site cannot be read, so no site is routed", extra={"error": said})
            await asyncio.sleep(AGAIN_SECONDS)

    async def follow(self, broker: Broker) -> None:
        """Follows the changes, for ever."""
        async for entry in Bucket(broker, topology.STATE_BUCKET).watch(PATTERN):
            try:
                layout = decode_layout(entry.value)
            except msgspec.MsgspecError as exc:
                log.error("the layout of a site cannot be read", extra={"key": entry.key, "error": str(exc)})
                continue
            if layout is not None and layout != self._known.get(site_of(entry.key)):
                self._known[site_of(entry.key)] = layout
                self._tell()

    def _tell(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()
