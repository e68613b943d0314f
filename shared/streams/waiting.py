"""Waiting events, measured where they wait: a site's frames in EVENTS, a connection's frames before its functions and in its queue, rows
set aside in RETRY.

This asks no process, so the numbers are true while a load is retried and while no service runs. It looks at a few messages only:
every frame of a lane says how many events came before it, so the oldest and the newest frame give the number between them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from nats.js import api
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from shared.errors import Permanent
from shared.events.frame import decode_frame, decode_ids
from shared.events.headers import BITS, FRAMES, TABLE, Place, is_live, read_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking

FEW_FRAMES = 8
SAMPLED_FRAMES = 20
"""How many frames are looked at one by one if their headers do not tell."""

FUNCTIONS_STAGE = "functions"
"""The stage whose messages of RETRY wait for functions."""

NOTES_OF_FUNCTIONS = ("functions.", "outcome.")
"""How the keys begin in the bucket `state` under which functions_runtime notes things of a queue: what goes on of RETRY, and what became of
a frame. The name of the queue follows."""

CALLS = "(calls)"
"""Stands in place of a table for events that are sent one by one."""

FOREVER_SECONDS = 10.0
"""An ephemeral consumer that only counts ends by itself after this time."""


class Waiting(NamedTuple):
    """Frames and events that wait; `exact` is false if `events` is an estimate.

    `oldest`: the place of the oldest frame in a queue. `oldest_at`: the time when it was accepted, or when a replay put it there
    (epoch).
    """

    frames: int = 0
    events: int = 0
    exact: bool = True
    oldest_at: float | None = None
    replayed: int = 0
    """How many of these a replay put there."""
    oldest: Place | None = None
    queued_at: float | None = None
    """The time when the oldest frame was put into the queue."""


class InFunctions(NamedTuple):
    """What waits for a connection's functions: frames of the router, and events that functions asked to get again later."""

    frames: Waiting = Waiting()
    again: Waiting = Waiting()

    @property
    def events(self) -> int:
        """All of them."""
        return self.frames.events + self.again.events


NO_FUNCTIONS = InFunctions()


class SetAside(NamedTuple):
    """A connection's rows set aside: events by frame as bits, and rows by table; events that are sent one by one are under `CALLS`."""

    frames: dict[str, int]
    rows: dict[str, int]
    exact: bool = True
    oldest_at: float | None = None

    @property
    def events(self) -> int:
        """The number of events with a row set aside."""
        return sum(bits.bit_count() for bits in self.frames.values())


async def look_ahead(broker: Broker, site: str, seq: int) -> Waiting:
    """Counts a site's frames in EVENTS behind a sequence.

    Raises:
        NotConnected: the broker does not answer.
    """
    subject = topology.events_filter(site)
    with asking(f"the stream {topology.EVENTS} does not tell what waits"):
        try:
            newest = (await broker.js.get_last_msg(topology.EVENTS, subject, direct=True)).seq or 0
        except NotFoundError:
            return Waiting()
        if newest <= seq:
            return Waiting()
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seq + 1,
            filter_subject=subject,
            ack_policy=api.AckPolicy.NONE,
            inactive_threshold=FOREVER_SECONDS,
            mem_storage=True,
        )
        consumer = await broker.js.add_consumer(topology.EVENTS, config)
        frames = consumer.num_pending or 0
        await broker.js.delete_consumer(topology.EVENTS, consumer.name)
        looked = [
            message
            async for message in _messages(
                broker=broker, stream=topology.EVENTS, subject=subject, seq=seq + 1, most=SAMPLED_FRAMES
            )
        ]
    events = sum(_events_in(message) for message in looked)
    if not looked:
        return Waiting()
    exact = frames <= len(looked)
    oldest = looked[0].time.timestamp() if looked[0].time else None
    return Waiting(frames, events if exact else round(events * frames / len(looked)), exact, oldest)


async def look_at_next(broker: Broker, site: str, seq: int) -> float | None:
    """Returns the time (epoch seconds) of a site's first frame in EVENTS behind a sequence; None: there is none.

    Raises:
        NotConnected: the broker does not answer.
    """
    subject = topology.events_filter(site)
    with asking(f"the stream {topology.EVENTS} does not tell what waits"):
        async for message in _messages(broker=broker, stream=topology.EVENTS, subject=subject, seq=seq + 1, most=1):
            return message.time.timestamp() if message.time else None
    return None


async def look_at_subject(broker: Broker, stream: str, subject: str) -> Waiting:
    """Counts the frames that wait in a work queue under a subject.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"the stream {stream} does not tell what waits"):
        frames = await _count(broker, stream, subject)
        if not frames:
            return Waiting()
        looked = [message async for message in _sample(broker, stream, subject, frames)]
        if not looked:  # delivered meanwhile
            return Waiting()
    events, exact, replayed = _estimate(looked, frames)
    first = looked[0]
    queued_at = first.time.timestamp() if first.time else None
    return Waiting(
        frames=frames,
        events=events,
        exact=exact,
        oldest_at=_waits_since(first),
        replayed=replayed,
        oldest=read_place(first.headers or {}),
        queued_at=queued_at,
    )


async def count_frames(broker: Broker, stream: str, subject: str) -> int:
    """Returns how many frames wait in a work queue under a subject.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"the stream {stream} does not tell what waits"):
        return await _count(broker, stream, subject)


async def look_at_queue(broker: Broker, queue: str) -> Waiting:
    """Counts the frames in a connection's queue in DELIVER; `queue` is the name from `shared.jetstream.topology.queue_of`.

    Raises:
        NotConnected: the broker does not answer.
    """
    return await look_at_subject(broker, topology.DELIVER, topology.deliver_subject(queue))


async def look_at_functions(broker: Broker, queue: str) -> InFunctions:
    """Looks at what waits for a connection's functions: frames, and events that wait for another attempt.

    Raises:
        NotConnected: the broker does not answer.
    """
    frames = await look_at_subject(broker, topology.FUNCTIONS, topology.functions_subject(queue))
    again = await look_at_subject(broker, topology.RETRY, topology.retry_subject(FUNCTIONS_STAGE, queue))
    return InFunctions(frames, again)


async def newest_places(broker: Broker, stream: str, subject: str, span: int) -> list[Place]:
    """Returns the places of frames that wait under a subject, of those among the newest messages only.

    Args:
        span: how many sequences of the stream before the newest one are looked at.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"the stream {stream} does not tell what waits"):
        try:
            newest = (await broker.js.get_last_msg(stream, subject)).seq or 0
        except NotFoundError:
            return []
        first = max(1, newest - span)
        messages = [
            message
            async for message in _messages(broker=broker, stream=stream, subject=subject, seq=first, most=span + 1, direct=False)
        ]
    return [place for message in messages if (place := read_place(message.headers or {})) is not None]


async def look_aside(broker: Broker, queue: str, most: int = 1000) -> SetAside:
    """Counts a connection's rows that wait in RETRY because their table fails.

    Raises:
        NotConnected: the broker does not answer.
    """
    subject = topology.retry_subject("loader", queue)
    found = SetAside({}, {})
    with asking(f"the stream {topology.RETRY} does not tell what waits"):
        messages = await _count(broker, topology.RETRY, subject)
        seen = 0
        async for message in _messages(
            broker=broker, stream=topology.RETRY, subject=subject, seq=1, most=min(messages, most), direct=False
        ):
            headers = message.headers or {}
            place = read_place(headers)
            if place is None:
                continue
            seen += 1
            table = unquote(headers.get(TABLE, CALLS))
            for seq, bits in frames_in(headers, place):
                frame = f"{place.lane}:{seq}"
                found.frames[frame] = found.frames.get(frame, 0) | bits
            found.rows[table] = found.rows.get(table, 0) + place.events
            if found.oldest_at is None:
                found = found._replace(oldest_at=_waits_since(message))
    return found._replace(exact=messages <= most)


async def look_at_oldest_aside(broker: Broker, queue: str) -> float | None:
    """Returns the time since which a connection's oldest row set aside waits, as `look_aside` does; None if it has none.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"the stream {topology.RETRY} does not tell what waits"):
        async for message in _messages(
            broker=broker, stream=topology.RETRY, subject=topology.retry_subject("loader", queue), seq=1, most=1, direct=False
        ):
            return _waits_since(message)
    return None


class Oldest(NamedTuple):
    """The oldest message under a subject: since when its events wait, when it was put there (epoch seconds), and its place."""

    waits_since: float | None
    queued_at: float | None
    place: Place | None


async def look_at_oldest(broker: Broker, stream: str, subject: str) -> Oldest | None:
    """Looks at the oldest message that waits under a subject; None: there is none.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"the stream {stream} does not tell what waits"):
        async for message in _messages(broker=broker, stream=stream, subject=subject, seq=1, most=1):
            queued_at = message.time.timestamp() if message.time else None
            return Oldest(_waits_since(message), queued_at, read_place(message.headers or {}))
    return None


def bits_of(text: str | None, events: int) -> int:
    """Returns which events of its frame a message of RETRY holds, as bits; if it does not say, the first so many."""
    with contextlib.suppress(ValueError):
        if text:
            return int(text, 16)
    return (1 << events) - 1


def frames_in(headers: Mapping[str, str], place: Place) -> list[tuple[int, int]]:
    """Returns the sequence of each frame in a message of RETRY, with the frame's events in the message as bits."""
    with contextlib.suppress(ValueError):
        if text := headers.get(FRAMES):
            pairs = (each.split(":", 1) for each in text.split(","))
            return [(int(seq), int(bits, 16)) for seq, bits in pairs]
    return [(place.seq, bits_of(headers.get(BITS), place.events))]


async def _count(broker: Broker, stream: str, subject: str) -> int:
    info = await broker.js.stream_info(stream, subjects_filter=subject)
    return (info.state.subjects or {}).get(subject, 0)


async def _sample(broker: Broker, stream: str, subject: str, frames: int) -> AsyncIterator[RawStreamMsg]:
    """Returns all of a few messages; of many the oldest, the newest and some between them, in their order."""
    direct = stream != topology.RETRY
    if frames <= FEW_FRAMES:
        async for message in _messages(broker=broker, stream=stream, subject=subject, seq=1, most=frames, direct=direct):
            yield message
        return
    async for oldest in _messages(broker=broker, stream=stream, subject=subject, seq=1, most=1, direct=direct):
        yield oldest
        newest = await broker.js.get_last_msg(stream, subject, direct=direct)
        first, last = oldest.seq or 0, newest.seq or 0
        seen = first
        for part in range(1, FEW_FRAMES):
            async for message in _messages(
                broker=broker,
                stream=stream,
                subject=subject,
                seq=first + (last - first) * part // FEW_FRAMES,
                most=1,
                direct=direct,
            ):
                if seen < (message.seq or 0) < last:
                    seen = message.seq or 0
                    yield message
        if last > seen:
            yield newest


async def _messages(
    broker: Broker, stream: str, subject: str, seq: int, most: int, *, direct: bool = True
) -> AsyncIterator[RawStreamMsg]:
    for _ in range(most):
        try:
            message = await broker.js.get_msg(stream, seq, subject=subject, direct=direct, next=True)
        except NotFoundError:
            return
        yield message
        seq = (message.seq or seq) + 1


def _estimate(looked: list[RawStreamMsg], frames: int) -> tuple[int, bool, int]:
    """Returns how many events wait, whether that number is exact, and how many of them come from replays."""
    places = [place for message in looked if (place := read_place(message.headers or {})) is not None]
    events = sum(place.events for place in places)
    replayed = sum(place.events for place in places if not is_live(place.lane))
    if frames <= len(looked) or not places:
        return events, frames <= len(looked), replayed
    first, last = places[0], places[-1]
    if first.total and last.total and all(place.lane == first.lane for place in places):
        events = last.total - first.total + first.events
        return events, True, 0 if is_live(first.lane) else events
    return round(events * frames / len(places)), False, round(replayed * frames / len(places))


def _events_in(message: RawStreamMsg) -> int:
    try:
        return len(decode_ids(message.data or b""))
    except Permanent:
        return 0


def _waits_since(message: RawStreamMsg) -> float | None:
    place = read_place(message.headers or {})
    if place is not None and not is_live(place.lane) and message.time:  # replayed events were accepted long ago
        return message.time.timestamp()
    with contextlib.suppress(Permanent, ValueError):
        return min(request.received_at for request in decode_frame(message.data or b"").requests) / 1e6
    return message.time.timestamp() if message.time else None
