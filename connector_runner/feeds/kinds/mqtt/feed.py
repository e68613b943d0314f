"""A session with a broker, as a feed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import msgspec

from connector_runner.feeds.contract import MOST_RECORDS, Chunk, Environment, Feed, Lag, Record
from connector_runner.feeds.kinds.mqtt.link import Link
from connector_runner.feeds.kinds.mqtt.session import Entry, Note, Session, digest
from shared.errors import PenstockError
from shared.jetstream.kv import value_of
from shared.tasks import timeout

if TYPE_CHECKING:
    from connector_runner.feeds.kinds.mqtt import MqttOptions

CLOSE_SECONDS = 2.0
FORMER_SECONDS = 900.0
"""How long packets of a former reader may come again; nats-server waits 30 s by default."""
MOST_NOTED = 5_000
"""Packets in a note, at most: beyond it the feed waits until the broker knows of acknowledgements."""

log = logging.getLogger(__name__)


class MqttFeed(Feed):
    """An open feed; `open` makes one."""

    linger_seconds: ClassVar[float] = 0.0  # a broker that waits for acknowledgements sends no more meanwhile

    def __init__(self, link: Link, session: Session, environment: Environment, key: str) -> None:
        self._link = link
        self._session = session
        self._state = environment.state
        self._key = key
        self._revision = 0
        self._noted = 0
        """Entries of the note that is stored."""
        self._unsure: list[Entry] = []
        """Acknowledged, and perhaps not known to the broker yet."""
        self._sounding: tuple[asyncio.Event, list[Entry]] | None = None
        """Set when the broker has read what was sent before; then these entries are certain."""
        self._former_until = asyncio.get_running_loop().time() + FORMER_SECONDS

    @classmethod
    async def open(cls, name: str, options: MqttOptions, environment: Environment) -> MqttFeed:
        """Takes over the session; raises as `open_feed`."""
        what, key = f'reading feed "{name}"', f"feed.{name}.session"
        stored = await environment.state.get(key)
        note = value_of(stored, Note, packed=True)
        link = await Link.connect(what, name, options)
        try:
            if note is not None and note.topics and not link.kept:
                log.warning(
                    "the broker no longer has the session: messages that it kept are gone, and retained ones come again",
                    extra={"feed": name},
                )
            feed = cls(link, Session(note, kept=link.kept), environment, key)
            feed._revision = stored.revision if stored is not None else 0
            await feed._subscribe(options)
        except BaseException:
            await link.close()
            raise
        return feed

    async def read(self, wait_seconds: float) -> Sequence[Chunk]:
        """See `Feed.read`. What it returns is noted first."""
        self._sound()
        if asyncio.get_running_loop().time() > self._former_until:
            self._session.forget_former()
        room = MOST_NOTED - self._session.holds
        arrived = await self._link.next(wait_seconds, min(room, MOST_RECORDS)) if room > 0 else []
        if room <= 0:
            await asyncio.sleep(min(wait_seconds, 0.05))
        if not arrived:
            if self._noted and not self._session.holds:  # so that nothing is taken for a repeat of these
                await self._store(self._session.note())
            return ()
        session = self._session
        records = []
        for each in arrived:
            content = digest(each.topic, each.payload, each.headers) if each.packet else b""
            records.append(
                Record(
                    topic=each.topic,
                    partition=session.name,
                    offset=session.number(each.packet, content, again=each.again),
                    value=each.payload or None,
                    headers=each.headers,
                    fault=each.fault,
                )
            )
        await self._store(session.note())
        return (Chunk(records, [each.packet for each in arrived if each.packet]),)

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """See `Feed.commit`."""
        packets = [packet for chunk in chunks for packet in cast("list[int]", chunk.place)]
        self._unsure += self._session.acknowledged(packets)
        self._link.acknowledge(packets)
        self._sound()

    async def lag(self) -> Mapping[str, Lag]:
        """See `Feed.lag`: brokers do not tell what they keep, so it is what came and was not read."""
        self._link.check()
        return {"waiting": Lag(records=self._link.waiting)}

    async def close(self) -> None:
        """See `Feed.close`."""
        await self._link.close()
        with contextlib.suppress(PenstockError, TimeoutError):
            async with timeout(CLOSE_SECONDS):
                await self._store(self._session.note(closed=True))

    async def _subscribe(self, options: MqttOptions) -> None:
        had = self._session.topics
        if sorted(had) == sorted(options.topics):
            return
        gone = [topic for topic in had if topic not in options.topics]
        if gone:
            await self._link.unsubscribe(gone)
        await self._link.subscribe([topic for topic in options.topics if topic not in had], five=options.version == 5)
        self._session.topics = options.topics
        await self._store(self._session.note())

    def _sound(self) -> None:
        """Forgets entries whose acknowledgement the broker has read, and asks for the next ones."""
        if self._sounding is not None and self._sounding[0].is_set():
            self._session.forget(self._sounding[1])
            self._sounding = None
        if self._sounding is None and self._unsure:
            self._sounding, self._unsure = (self._link.sound(), self._unsure), []

    async def _store(self, note: Note) -> None:
        self._revision = await self._state.put(self._key, msgspec.msgpack.encode(note), revision=self._revision)
        self._noted = len(note.entries)
