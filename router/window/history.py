"""Reads the frames of a site again from EVENTS, with a separate window for repeats.

A window is a function of the ids since `Window.history_start` (see `router/window/dedupe.py`). So a window that reads the frames
from there on decides about each later frame as the site's first reading did, in any process at any time.
"""

from __future__ import annotations

import contextlib
import logging

from nats.js.errors import NotFoundError

from router.archive.older import ArchiveUnreadError, LongReader, Older
from router.rules.arrival import Arrival
from router.window.dedupe import Window
from shared.errors import NotConnected, Permanent
from shared.events.frame import decode_ids
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.identity import identify
from shared.jetstream.reader import Message, StreamReader

LOOK_SECONDS = 10.0

log = logging.getLogger(__name__)


def open_reader(
    broker: Broker, site: str, seq: int, at_seconds: float, window: Window | None, older: Older | None = None
) -> LongReader:
    """Returns a reader that begins at `seq`, or, if a window must be filled, at the beginning of that frame's window.

    Args:
        at_seconds: a time not later than the frame's, by the broker's clock; 0 if unknown: reads from the beginning.
        older: reads frames that EVENTS has no longer; None: they are left out.
    """
    if window is None:
        return LongReader(broker, site, older, start_seq=max(1, seq))
    start = window.history_start(at_seconds)
    if start <= 0:
        return LongReader(broker, site, older)
    return LongReader(broker, site, older, start_seconds=start, start_seq=max(1, seq))


async def first_since(broker: Broker, site: str, at_seconds: float, older: Older | None = None) -> tuple[int, float] | None:
    """Returns sequence and time of the first frame of a site accepted at that time (epoch) or later; None if there is none.

    Args:
        older: looks for it in the archive too, if that can be read.

    Raises:
        NotConnected: the broker does not answer.
    """
    kept, archived = await _first_kept_since(broker, site, at_seconds), None
    try:
        archived = await older.first(broker, site, since=at_seconds) if older is not None else None
    except ArchiveUnreadError as exc:  # the site's other connections must not wait for it
        log.error("the archive cannot be read, a connection begins with what EVENTS has", extra={"site": site, "error": str(exc)})
    return min((each for each in (kept, archived) if each is not None), default=None)


async def _first_kept_since(broker: Broker, site: str, at_seconds: float) -> tuple[int, float] | None:
    subject = topology.events_filter(site)
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        try:
            newest = (await broker.js.get_last_msg(topology.EVENTS, subject)).time
        except NotFoundError:
            return None
    if newest is None or newest.timestamp() < at_seconds:
        return None
    async with StreamReader(broker, topology.EVENTS, subject, start_seconds=max(0.0, at_seconds), pull_messages=1) as reader:
        message = await reader.next(LOOK_SECONDS)
    if message is None:
        raise NotConnected(f"the stream {topology.EVENTS} gives nothing, although it holds frames of the site {site}")
    return message.seq, message.at_seconds


async def first_from(broker: Broker, site: str, seq: int, older: Older | None = None) -> tuple[int, float] | None:
    """Returns sequence and time of the first frame of a site at a sequence or behind it; None if there is none.

    Args:
        older: looks for it in the archive, if EVENTS begins behind the sequence. If that cannot be read, the answer is the sequence
            itself, and the time 0.

    Raises:
        NotConnected: the broker does not answer.
    """
    if older is not None and (await identify(broker, topology.EVENTS)).first_seq > seq:
        try:
            archived = await older.first(broker, site, seq=max(1, seq))
        except ArchiveUnreadError as exc:
            log.warning("the archive cannot be read, the reader tries again", extra={"site": site, "error": str(exc)})
            archived = (max(1, seq), 0.0)
        if archived is not None:
            return archived
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        try:
            message = await broker.js.get_msg(
                topology.EVENTS, max(1, seq), subject=topology.events_filter(site), direct=True, next=True
            )
        except NotFoundError:
            return None
    return message.seq or seq, message.time.timestamp() if message.time else 0.0


def remember(window: Window | None, message: Message) -> None:
    """Fills the window with a frame that is not routed again; an unreadable frame has no ids."""
    if window is not None:
        with contextlib.suppress(Permanent):
            window.seen(decode_ids(message.payload), message.at_seconds)


def mark_repeats(window: Window | None, arrival: Arrival) -> None:
    """Notes on the arrival which of its events are repeats, and remembers its ids."""
    if window is not None:
        arrival.repeated = window.seen(arrival.ids, arrival.at_seconds)
