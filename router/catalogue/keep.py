"""Keeps the catalogue of a site while this router has the site: counts as frames pass, samples and writes in a task of its own.

Counting goes on where the stored place is: frames between that place and the router's own are read again at the start, so counts stay exact when
a router is killed. A sample that is lost with a router is no loss.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from router.catalogue.details import MOST_OF_SITE, add_sample, forget
from router.catalogue.names import Name, Names
from router.forwarding.shard import ShardView
from router.rules.arrival import Arrival
from shared.catalogue.stored import (
    ALL,
    EVENTS,
    EventDetails,
    SiteNames,
    event_key,
    pack_value,
    site_key,
    unpack_details,
    unpack_names,
)
from shared.errors import Conflict, Permanent, Transient
from shared.forget.ids import Forgotten, digest
from shared.forget.listing import salt_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.reader import StreamReader
from shared.tasks import timeout

Mode = Literal["samples", "types", "off"]

LOOK_SECONDS = 1.0
"""Between two looks into frames."""
WRITE_SECONDS = 5.0
READ_SECONDS = 10.0
WAITING_FRAMES = 8
"""Frames with new names that wait for a look."""
EVENTS_A_LOOK = 20
MOST_AGAIN = 20_000
"""Frames that are counted again at a start; a longer gap means that the catalogue was off."""
QUIET_SECONDS = 5.0
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Permanent)

log = logging.getLogger(__name__)


class CatalogueKeeper:
    """The catalogue of one site, or of one of its shards: these add up.

    Args:
        view: of the shard; None: the whole site.
        forgotten: whose samples go.
    """

    def __init__(self, broker: Broker, site: str, forgotten: Forgotten, view: ShardView | None = None) -> None:
        self._broker = broker
        self._bucket = Bucket(broker, topology.CATALOGUE_BUCKET)
        self._site = site
        self._view = view
        self._part = ALL if view is None else view.shard.lane.replace(".", "-") or ALL
        self._mode: Mode = "off"
        self._opened = False
        self._forgotten = forgotten
        self._names = Names(SiteNames())
        self._revision = 0
        self._details: dict[Name, EventDetails] = {}
        self._held = 0
        """Properties of all events."""
        self._changed: set[Name] = set()
        self._written = -1
        self._waiting: deque[tuple[int, float, bytes]] = deque(maxlen=WAITING_FRAMES)
        self._wants = True
        self._salt = b""

    async def open(self, incarnation: str, position: int, mode: Mode) -> None:
        """Reads what is stored, and counts again what the stored counts lack. A fault leaves the catalogue off until the next start.

        Args:
            incarnation: of EVENTS.
            position: the router's place in it.
            mode: samples, types without samples, or off.
        """
        try:
            async with timeout(READ_SECONDS):  # a broker that forbids it may not answer, and events must not wait for that
                await self._read()
            if self._names.incarnation != incarnation:
                self._names.incarnation, self._names.position = incarnation, position
            elif self._names.position < position and mode != "off":
                await self._count_again(position)
            self._opened, self._mode = True, mode
            await self.write()  # so that a router that is killed at once leaves a place to count from
        except (Transient, ValueError, TimeoutError) as exc:
            log.warning(
                "the catalogue cannot be read, it stays as it is",
                extra={"site": self._site, "error": str(exc) or type(exc).__name__},
            )

    def change(self, mode: Mode) -> None:
        """Takes what a new revision of the project says; counts go on from the next frame."""
        if self._opened:
            self._mode = mode

    def note(self, arrival: Arrival) -> None:
        """Counts a frame; keeps it for a look if it has a new name, or if it is time."""
        if self._mode == "off":
            return
        try:
            fresh = self._names.note(arrival)
        except Permanent:  # its bodies are damaged, or its heads: the router buries it
            return
        if fresh or self._wants:
            self._wants = False
            # as it came: a tracking plan may take values out of the arrival
            self._waiting.append((arrival.seq, arrival.at_seconds, arrival.payload))

    async def run(self) -> None:
        """Samples and writes for ever."""
        looks = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._mode == "off":
                continue
            try:
                self.look()
                looks += 1
                if looks % round(WRITE_SECONDS / LOOK_SECONDS) == 0:
                    await self.write()
            except Exception:  # a fault of the catalogue must not hold up events
                self._opened, self._mode = False, "off"
                log.exception("the catalogue of the site is off until the router starts again", extra={"site": self._site})

    async def write(self) -> None:
        """Writes what has changed; a fault is tried again the next time."""
        if self._mode == "off":
            return
        self._leave_out_forgotten()
        try:
            if self._names.position != self._written:
                position = self._names.position
                value = pack_value(self._names.stored())
                self._revision = await self._bucket.put(site_key(self._site, self._part), value, revision=self._revision)
                self._written = position
            for name in list(self._changed):
                await self._bucket.put(event_key(self._site, self._part, name), pack_value(self._details[name]))
                self._changed.discard(name)
        except Conflict:
            self._mode = "off"
            log.info("another router writes the catalogue of the site", extra={"site": self._site})
        except Transient as exc:
            log.warning("the catalogue cannot be written yet", extra={"site": self._site, "error": str(exc)})

    async def _read(self) -> None:
        entry = await self._bucket.get(site_key(self._site, self._part))
        if entry is not None and entry.value:
            self._names, self._revision = Names(unpack_names(entry.value)), entry.revision
        keys = await self._bucket.keys(f"{EVENTS}{self._site}.{self._part}.")
        for found in (await self._bucket.get_many(keys)).values():
            details = unpack_details(found.value or b"")
            self._details[details.type, details.event] = details
        self._held = sum(len(each.properties) for each in self._details.values())
        self._salt = await salt_of(self._broker)

    async def _count_again(self, position: int) -> None:
        counted = 0
        subject = topology.events_filter(self._site)
        async with StreamReader(self._broker, topology.EVENTS, subject, start_seq=self._names.position + 1) as reader:
            while self._names.position < position:
                message = await reader.next(QUIET_SECONDS)
                if message is None or message.seq > position:
                    break
                counted += 1
                if counted > MOST_AGAIN:
                    log.warning("the catalogue was off; events of that time are not in its counts", extra={"site": self._site})
                    break
                try:
                    mine = message if self._view is None or self._view.layout is None else self._view.cut(message)
                    if mine is not None:
                        self._names.note(Arrival(mine.seq, mine.at_seconds, mine.payload))
                except Permanent:
                    continue
                self._names.position = message.seq
        self._names.position = max(self._names.position, position)

    def look(self) -> None:
        """Looks at a few events of the frames that wait: at the names with the fewest samples first."""
        left = EVENTS_A_LOOK
        while self._waiting and left > 0:
            seq, at_seconds, payload = self._waiting.popleft()
            try:
                left -= self._sample(Arrival(seq, at_seconds, payload, with_heads=True), left)
            except _UNREADABLE:
                continue
        self._waiting.clear()
        self._wants = True

    def _sample(self, arrival: Arrival, most: int) -> int:
        first: dict[Name, int] = {}
        for index, head in enumerate(arrival.heads):
            first[head.type, head.event or ""] = index  # the last of each name
        known = [name for name in first if name in self._names]
        known.sort(key=lambda name: self._details[name].sampled if name in self._details else 0)
        chosen = known[:most]
        requests = arrival.requests
        for name in chosen:
            index = first[name]
            head = arrival.heads[index]
            ids = [each for each in (head.user_id, head.anonymous_id) if each]
            if self._forgotten and any(map(self._forgotten.holds, ids)):
                continue
            details = self._details.setdefault(name, EventDetails(*name))
            self._held += add_sample(
                details,
                arrival.event(index),
                arrival.at_seconds,
                key=requests[head.request].key,
                room=MOST_OF_SITE - self._held,
                people=[digest(each, self._salt) for each in ids],
                with_sample=self._mode == "samples",
            )
            self._changed.add(name)
        return len(chosen)

    def _leave_out_forgotten(self) -> None:
        if not self._forgotten and self._mode == "samples":
            return
        for name, details in self._details.items():
            if details.sample and (self._mode != "samples" or self._are_gone(details.people)):
                forget(details)
                self._changed.add(name)

    def _are_gone(self, people: Sequence[str]) -> bool:
        return any(self._forgotten.has(each) for each in people)
