"""Shedding: EVENTS keeps frames by age while there is room, and by position when there is none.

One router at a time does this (a lease). When EVENTS is nearly full it removes the oldest frames that every reader has passed.
Readers (`router/room/readers.py`) only move forward, so a passed frame stays passed. A replay or a backfill that begins meanwhile finds
EVENTS shorter, as it would have a moment later.

Windows of message ids are filled from EVENTS again when a router starts (`router/window/dedupe.py`). Frames inside a window are
kept until the stream is almost full; then a router that starts recognises repeats only as far back as EVENTS reaches, and a
warning says so. Frames that are not archived yet are kept as long: a store that is away must not stop the edge, and the archive
counts what it missed.

A site that left the project holds nothing back. A site that no router has begun yet does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable

from nats.js import api
from nats.js.errors import NotFoundError

from router.forwarding.keeper import look_while_held
from router.forwarding.state import note_shed
from router.room.readers import Need, Readers, look_at_events
from router.window.dedupe import Window
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.hold_back import Holds
from shared.jetstream.identity import incarnation_of
from shared.jetstream.lease import hold
from shared.jetstream.reader import StreamReader
from shared.project.model import Project
from shared.service import ServiceContext
from shared.streams.fill import Fill, read_fill
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

LEASE = "keeper.events"
PERIOD_SECONDS = 0.2
"""Short, because a small stream fills in a second."""
SHORT_RATIO = 0.8
"""From here on frames are shed."""
ALMOST_FULL_RATIO = 0.9
"""From here on frames inside windows of message ids, and frames that are not archived, are shed as well."""
TARGET_RATIO = 0.7
LOOK_SECONDS = 5.0
PART = f"shedding {topology.EVENTS}"
"""The part of `/ready`."""

log = logging.getLogger(__name__)


def cut_for(info: api.StreamState, limit: int) -> int:
    """Returns the sequence before which frames must go to reach the target, if all are equally large. Pure."""
    excess = info.bytes - TARGET_RATIO * limit
    return info.first_seq + math.ceil(info.messages * max(0.0, excess) / max(1, info.bytes))


def history_starts(needs: Iterable[Need], newest_at: float, windows: Iterable[float]) -> float:
    """Returns the earliest time (epoch) that a window of message ids may read: the longest window of the reader furthest back.
    Pure.

    Args:
        newest_at: time of the newest frame, by the broker's clock: a site that is level needs its window from there.
    """
    earliest = min((need.at_seconds for need in needs), default=newest_at)
    longest = max(windows, default=0.0)
    return Window(longest, 1).history_start(min(earliest, newest_at)) if longest > 0 else math.inf


async def keep_room(context: ServiceContext, archived: Callable[[], Collection[str]] = tuple) -> None:
    """Sheds for ever, while this process holds the lease for it.

    Args:
        archived: returns the sites that are archived now.
    """
    if context.settings.events_when_short == "refuse":
        return
    while True:
        async with hold(context.broker, LEASE, context.instance) as lease:
            holds = Holds(context.broker)

            async def look(holds: Holds = holds) -> None:
                project = context.config.current.project
                await Shedding(
                    broker=context.broker,
                    project=project,
                    holds=holds,
                    health=context.health,
                    telemetry=context.telemetry,
                    archived=archived(),
                ).run_once()

            await look_while_held(lease, topology.EVENTS, PERIOD_SECONDS, look)
        context.health.good(PART)


class Shedding:
    """One look at EVENTS."""

    def __init__(
        self,
        broker: Broker,
        project: Project,
        holds: Holds,
        health: Health,
        telemetry: Telemetry,
        archived: Collection[str] = (),
    ) -> None:
        self._broker = broker
        self._project = project
        self._health = health
        self._telemetry = telemetry
        self._readers = Readers(broker=broker, project=project, holds=holds, archived=archived)

    async def run_once(self) -> int:
        """Removes frames that must and may go; returns their number.

        Raises:
            NotConnected: the broker does not answer.
        """
        fill = await read_fill(self._broker, topology.EVENTS)
        if fill.ratio < SHORT_RATIO:
            self._health.good(PART)
            return 0
        info = await look_at_events(self._broker)
        needs = await self._readers.needs(info)
        first = min(needs, default=Need(info.state.last_seq + 1, 0.0, ""))
        kept_from = first.seq
        into_windows = fill.ratio >= ALMOST_FULL_RATIO
        if not into_windows:
            kept_from = min(kept_from, await self._window_begins(needs), await self._readers.not_archived(info))
        before = min(kept_from, cut_for(info.state, fill.limit))
        if before <= info.state.first_seq:
            if first.seq <= info.state.first_seq:
                self._warn(fill, first)
            return 0
        self._health.good(PART)
        return await self._remove(info, before, into_windows=into_windows)

    async def _window_begins(self, needs: list[Need]) -> int:
        """Returns the first sequence that a window of message ids may need."""
        sites = self._project.sites.values()
        with asking(f"cannot look at the stream {topology.EVENTS}"):
            try:
                newest = (await self._broker.js.get_last_msg(topology.EVENTS, topology.events_filter("*"))).time
            except NotFoundError:
                return 0
        newest_at = newest.timestamp() if newest else 0.0
        start = history_starts(needs, newest_at, [float(site.dedupe_window) for site in sites])
        if start == math.inf:
            return 2**63
        if start <= 0:
            return 0
        async with StreamReader(self._broker, topology.EVENTS, start_seconds=start, pull_messages=1) as reader:
            message = await reader.next(LOOK_SECONDS)
        return message.seq if message is not None else 0

    async def _remove(self, info: api.StreamInfo, before: int, *, into_windows: bool) -> int:
        await note_shed(self._broker, incarnation_of(info), before)
        with asking(f"cannot shed the stream {topology.EVENTS}"):
            await self._broker.js.purge_stream(topology.EVENTS, seq=before)
        removed = before - info.state.first_seq
        self._telemetry.count("events_shed_frames_total", removed)
        extra = {"frames": removed, "before": before}
        if into_windows:
            log.warning(
                "EVENTS was almost full: frames inside the window of message ids are shed; a router that starts now recognises "
                "no repeats of older events. Raise PENSTOCK_EVENTS_MAX_BYTES",
                extra=extra,
            )
        else:
            log.info("EVENTS is short of room: frames that every reader has passed are shed", extra=extra)
        return removed

    def _warn(self, fill: Fill, first: Need) -> None:
        if PART not in self._health.warnings:
            log.error("EVENTS cannot be shed, a reader holds it back", extra={"reader": first.reader, "needs_from": first.seq})
        self._health.warn(
            PART,
            f"{fill}, and nothing can be shed: {first.reader}, needs all from {first.seq} on; "
            "when it is full the edge answers 503. Let that reader catch up, or raise PENSTOCK_EVENTS_MAX_BYTES",
        )
