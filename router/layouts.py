"""The layouts of all sites as this process knows them (`shared/events/shards.py`); sites that always had one shard have none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from shared.errors import SetupError, Transient
from shared.events.shards import PATTERN, Layout, Shard, decode_layout, read_layouts, shards_of, site_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.telemetry.health import Health

AGAIN_SECONDS = 1.0

log = logging.getLogger(__name__)


class Layouts:
    """Follows the bucket `state`.

    A site whose layout cannot be read is held: no router begins with it, `/ready` says so, and the others go on. A router that knows an earlier
    layout of it goes on with that.

    A layout may be older than the stored one: a shard that stops for a change notes it in its state, and the next holder of the shard
    waits until it sees that change (`router/forwarding/shard.py`).
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._damaged: set[str] = set()
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
        """Returns the shards that routers must hold; none of a site whose layout cannot be read."""
        return () if site in self._damaged and site not in self._known else shards_of(self._known.get(site))

    def changed(self) -> Coroutine[Any, Any, object]:
        """Returns what waits for the next change of any layout. It counts from this call on, whenever it is awaited."""
        return self._turn.wait()

    async def load(self, broker: Broker) -> None:
        """Reads all layouts, however long that takes; before that no site may be routed."""
        while True:
            try:
                self._known, damaged = await read_layouts(broker)
                for site, why in damaged.items():
                    self._hold(site, why)
                return self._tell()
            except Transient as exc:
                log.debug("layouts of sites cannot be read yet", extra={"error": str(exc)})
            await asyncio.sleep(AGAIN_SECONDS)

    async def follow(self, broker: Broker) -> None:
        """Follows the changes, for ever."""
        async for entry in Bucket(broker, topology.STATE_BUCKET).watch(PATTERN):
            site = site_of(entry.key)
            try:
                layout = decode_layout(entry.value, site)
            except SetupError as exc:
                self._hold(site, str(exc))
                continue
            if site in self._damaged:
                self._damaged.discard(site)
                self._health.good(f"layout of {site}")
                self._tell()
            if layout is not None and layout != self._known.get(site):
                self._known[site] = layout
                self._tell()

    def _hold(self, site: str, why: str) -> None:
        self._damaged.add(site)
        log.error("the layout of a site cannot be read", extra={"site": site, "error": why})
        if site in self._known:
            self._health.warn(f"layout of {site}", f"{why}; meanwhile the layout of before stays")
        else:
            self._health.bad(f"layout of {site}", f"{why}; its events wait in EVENTS")
            self._tell()

    def _tell(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()
