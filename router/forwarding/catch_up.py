"""Catching up: a forwarder that is behind reads EVENTS itself, and before it the archive for what EVENTS has no longer, until it is level with the front of its site.

It decides as the site's reading did: by the front's remembered verdicts if they reach back far enough, else by a second window,
filled from EVENTS (`router/window/history.py`). It sends in order and waits while the queue is full; no other forwarder waits for
it. Near the front it joins (see `router/forwarding/forwarder.py`). It never sends a frame beyond the front: the site's reading
offers those.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from router.archive.older import ArchiveUnreadError, Older
from router.forwarding.forwarder import Forwarder
from router.forwarding.front import Cursor
from router.forwarding.send import FAULT_SECONDS
from router.forwarding.shard import ShardView
from router.rules.arrival import Arrival
from router.rules.match import match
from router.trace import traced
from router.window.dedupe import Window
from router.window.history import mark_repeats, open_reader, remember
from shared.backoff import Backoff
from shared.errors import Permanent
from shared.events.headers import trace_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.reader import Message

QUIET_SECONDS = 1.0
"""After so long without a frame, EVENTS is asked whether it has any left."""

log = logging.getLogger(__name__)


async def run_forwarder(
    forwarder: Forwarder, broker: Broker, new_window: Callable[[], Window] | None, older: Older | None = None
) -> None:
    """Runs a forwarder for ever: live while it can, catching up when it must.

    Args:
        new_window: makes an empty window like the site's own; None: the site does not look for repeats.
        older: reads frames that EVENTS has no longer.
    """
    try:
        await _run(forwarder=forwarder, broker=broker, new_window=new_window, older=older)
    finally:
        forwarder.hold("")
        if older is not None:
            older.tell(forwarder.name, "")


async def _run(*, forwarder: Forwarder, broker: Broker, new_window: Callable[[], Window] | None, older: Older | None) -> None:
    pause = Backoff(*FAULT_SECONDS)
    while True:
        await forwarder.send_pending()
        while forwarder.cursor is not None:
            before = forwarder.cursor.seq
            try:
                await _catch_up(forwarder=forwarder, cursor=forwarder.cursor, broker=broker, new_window=new_window, older=older)
            except ArchiveUnreadError as exc:
                log.warning("connection cannot read the archive yet", extra={"connection": forwarder.name, "error": str(exc)})
                if forwarder.cursor is None or forwarder.cursor.seq > before:
                    pause.reset()
                _tell(forwarder, older, str(exc))
                await asyncio.sleep(pause.next())
            else:
                _tell(forwarder, older, "")


def _tell(forwarder: Forwarder, older: Older | None, why: str) -> None:
    """Tells in the site's state and in `/ready` why a connection does not come further; empty: it does."""
    if forwarder.cursor is not None and forwarder.cursor.why != why:
        forwarder.cursor.why = why
        forwarder.note_moved()
    if older is not None:
        older.tell(forwarder.name, why)


async def _catch_up(
    *, forwarder: Forwarder, cursor: Cursor, broker: Broker, new_window: Callable[[], Window] | None, older: Older | None
) -> None:
    """Reads from the cursor on, until the forwarder is level or its verdicts are forgotten."""
    view = forwarder.view if forwarder.view is not None and forwarder.view.layout is not None else None
    if view is not None:
        if view.is_routed(cursor.seq):
            await _wait_for_shards_before(forwarder, cursor, view)
        if not forwarder.accepting and cursor.seq > forwarder.front.seq:
            return forwarder.go_live()
    window = None if new_window is None or forwarder.front.knows(cursor.seq) else new_window()
    log.info("connection catches up", extra={"connection": forwarder.name, "seq": cursor.seq, "window": window is not None})
    async with open_reader(
        broker=broker, site=forwarder.sender.site, seq=cursor.seq, at_seconds=cursor.at_seconds, window=window, older=older
    ) as reader:
        while True:
            message = await reader.next(QUIET_SECONDS)
            if message is None:
                if await _is_level(forwarder, cursor, broker):
                    return forwarder.go_live()
                continue
            if message.seq < cursor.seq:
                if view is None:
                    remember(window, message)
                else:
                    view.remember(window, message)
                continue
            if message.seq > (forwarder.join_after if forwarder.accepting else forwarder.front.seq):
                return forwarder.go_live()
            if window is None and new_window is not None and not forwarder.front.knows(message.seq):
                return None
            if older is not None:
                await older.wishes.may_go_on(forwarder.name)
                if message.seq <= min(older.wishes.left_out(forwarder.name), cursor.counted):
                    cursor.seq, cursor.at_seconds = message.seq + 1, message.at_seconds
                    forwarder.note_moved()
                    continue
            mine: Message | None = message
            if view is not None:
                cursor.seq = message.seq
                if view.is_routed(message.seq):
                    await _wait_for_shards_before(forwarder, cursor, view)
                    mine = view.cut(message)
                else:
                    view.remember(window, message)
                    mine = None
            if mine is None:
                cursor.seq, cursor.at_seconds = message.seq + 1, message.at_seconds
                forwarder.note_moved()
            else:
                await _forward(forwarder, cursor, mine, window)
            if cursor.why:
                _tell(forwarder, older, "")
            _join_when_near(forwarder, cursor, message)
            if cursor.seq > (forwarder.join_after if forwarder.accepting else forwarder.front.seq):
                return forwarder.go_live()


async def _wait_for_shards_before(forwarder: Forwarder, cursor: Cursor, view: ShardView) -> None:
    """Waits until the shards that routed the site before have sent the connection's frames from before the cursor."""
    spread = forwarder.rules.spread
    for name in (forwarder.name,) if spread is None else spread.siblings:
        while view.may_hold_back(cursor.seq) and (why := await view.wait_until_clear(name, cursor.seq)):
            if cursor.why != why:
                cursor.why = why
                forwarder.note_moved()


async def _forward(forwarder: Forwarder, cursor: Cursor, message: Message, window: Window | None) -> None:
    total = 0
    again, skipped = forwarder.is_counted(message.seq), cursor.in_gap(message.seq)
    try:
        arrival = Arrival(message.seq, message.at_seconds, message.payload, with_heads=forwarder.rules.needs_heads)
        total = len(arrival)
        with traced(forwarder.telemetry, f"catch_up events.{forwarder.sender.site}", trace_of(message.headers), arrival):
            if window is None:
                arrival.repeated = forwarder.front.repeated(message.seq)
            else:
                mark_repeats(window, arrival)
            if not skipped:
                matched = match(forwarder.rules, arrival)
                parcel = forwarder.parcel(arrival, matched)
                if parcel is not None:
                    await forwarder.send(parcel)
                if not again:  # only now: a forwarder that falls behind while it sends takes back the counts of the frame
                    forwarder.count_drops(message.seq, matched)
                    _count_backfill(forwarder, message, total)
    except Permanent as exc:
        # the site's reading dead-lettered it under the same id, unless it never came so far
        if not again and not skipped:
            await forwarder.sender.bury_frame(
                telemetry=forwarder.telemetry,
                seq=message.seq,
                at_seconds=message.at_seconds,
                payload=message.payload,
                why=str(exc),
            )
            forwarder.account.bury(message.seq, total)
            _count_backfill(forwarder, message, total)
    cursor.seq = message.seq + 1
    cursor.at_seconds = message.at_seconds
    cursor.events_before += 0 if again or skipped else total
    forwarder.note_moved()


def _count_backfill(forwarder: Forwarder, message: Message, events: int) -> None:
    if message.seq <= forwarder.account.began:
        forwarder.account.backfill(message.seq, events)


def _join_when_near(forwarder: Forwarder, cursor: Cursor, message: Message) -> None:
    if not forwarder.accepting and message.waiting <= forwarder.max_frames // 2 and cursor.seq <= forwarder.front.seq:
        forwarder.collect()


async def _is_level(forwarder: Forwarder, cursor: Cursor, broker: Broker) -> bool:
    """Asks EVENTS whether it holds any frame from the cursor on, up to the end of catching up."""
    front = forwarder.front.seq
    try:
        last = (await broker.js.get_last_msg(topology.EVENTS, topology.events_filter(forwarder.sender.site))).seq or 0
    except NotFoundError:
        last = 0
    except (APIError, NatsError, OSError, TimeoutError):
        return False
    # a frame that came during the question would be offered to no one: ask again
    return last < cursor.seq and (forwarder.accepting or forwarder.front.seq == front)
