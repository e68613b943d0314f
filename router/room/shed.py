"""Shedding: EVENTS keeps frames by age while there is room, and by position when there is none.

One router at a time does this (a lease). When EVENTS is nearly full it removes the oldest frames that every reader has passed.
Readers are the routers of all sites, with their connections that are behind (`router/forwarding/state.py`), and replays under way
(`shared/jetstream/hold_back.py`). A reader only moves forward, so a passed frame stays passed. A replay or a backfill that begins
meanwhile finds EVENTS shorter, as it would have a moment later.

Windows of message ids are filled from EVENTS again when a router starts (`router/window/dedupe.py`). Frames inside a window are
kept until the stream is almost full; then a router that starts recognises repeats only as far back as EVENTS reaches, and a
warning says so.

A site that left the project holds nothing back. A site that no router has begun yet does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from nats.js import api
from nats.js.errors import NotFoundError

from router.forwarding.keeper import look_while_held
from router.forwarding.state import SiteState, note_shed, read_states
from router.window.dedupe import Window
from shared.errors import NotConnected
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
"""From here on frames inside windows of message ids are shed as well."""
TARGET_RATIO = 0.7
LOOK_SECONDS = 5.0
PART = f"shedding {topology.EVENTS}"
"""The part of `/ready`."""

log = logging.getLogger(__name__)


class Need(NamedTuple):
    """The first frame that a reader still needs, the earliest time of its acceptance, and the reader's name."""

    seq: int
    at_seconds: float
    reader: str


def needs_of(site: str, state: SiteState | None, incarnation: str) -> list[Need]:
    """Returns the needs of a site's router: frames behind its position, and frames that it owes to connections. Pure."""
    if state is None or state.incarnation != incarnation:
        return [Need(1, math.inf, f"site {site}, which no router has begun yet")]
    behind = [Need(mark.seq, mark.at_seconds, f"connection {name}, which is behind") for name, mark in state.behind.items()]
    return [Need(state.position + 1, state.at_seconds, f"site {site}, whose router is behind"), *behind]


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


async def keep_room(context: ServiceContext) -> None:
    """Sheds for ever, while this process holds the lease for it."""
    if context.settings.events_when_short == "refuse":
        return
    while True:
        async with hold(context.broker, LEASE, context.instance) as lease:
            holds = Holds(context.broker)

            async def look(holds: Holds = holds) -> None:
                project = context.config.current.project
                await Shedding(
                    broker=context.broker, project=project, holds=holds, health=context.health, telemetry=context.telemetry
                ).run_once()

            await look_while_held(lease, topology.EVENTS, PERIOD_SECONDS, look)
        context.health.good(PART)


class Shedding:
    """One look at EVENTS."""

    def __init__(self, broker: Broker, project: Project, holds: Holds, health: Health, telemetry: Telemetry) -> None:
        self._broker = broker
        self._project = project
        self._holds = holds
        self._health = health
        self._telemetry = telemetry

    async def run_once(self) -> int:
        """Removes frames that must and may go; returns their number.

        Raises:
            NotConnected: the broker does not answer.
        """
        fill = await read_fill(self._broker, topology.EVENTS)
        if fill.ratio < SHORT_RATIO:
            self._health.good(PART)
            return 0
        info = await self._look()
        needs = await self._needs(info)
        first = min(needs, default=Need(info.state.last_seq + 1, 0.0, ""))
        kept_from = first.seq
        into_windows = fill.ratio >= ALMOST_FULL_RATIO
        if not into_windows:
            kept_from = min(kept_from, await self._window_begins(needs))
        before = min(kept_from, cut_for(info.state, fill.limit))
        if before <= info.state.first_seq:
            if first.seq <= info.state.first_seq:
                self._warn(fill, first)
            return 0
        self._health.good(PART)
        return await self._remove(info, before, into_windows=into_windows)

    async def _look(self) -> api.StreamInfo:
        with asking(f"cannot look at the stream {topology.EVENTS}"):
            return await self._broker.js.stream_info(topology.EVENTS, subjects_filter=topology.events_filter("*"))

    async def _needs(self, info: api.StreamInfo) -> list[Need]:
        incarnation = incarnation_of(info)
        states = await read_states(self._broker)
        held = await self._holds.first()
        needs = [] if held is None else [Need(held, math.inf, "a replay")]
        for site in sorted({subject.split(".")[1] for subject in info.state.subjects or {}} | set(self._project.sites)):
            if site in states and site not in self._project.sites:
                continue
            wanted = needs_of(site, states.get(site), incarnation)
            earliest = min(wanted)
            # the next frame of this site only: a quiet site must not hold back frames of the others
            frame = await self._next_frame(site, earliest.seq)
            if frame is not None and frame <= info.state.last_seq:
                needs.append(Need(frame, earliest.at_seconds, earliest.reader))
        return needs

    async def _next_frame(self, site: str, seq: int) -> int | None:
        with asking(f"cannot look at the stream {topology.EVENTS}"):
            request = {"seq": seq, "next_by_subj": topology.events_filter(site)}
            answer = await self._broker.nc.request(
                f"$JS.API.STREAM.MSG.GET.{topology.EVENTS}", msgspec.json.encode(request), timeout=LOOK_SECONDS
            )
        found = msgspec.json.decode(answer.data, type=_Found)
        if found.message is not None:
            return found.message.seq
        if found.error is not None and found.error.code == 404:
            return None
        raise NotConnected(f"cannot look at the stream {topology.EVENTS}: {found.error}")

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


class _Message(msgspec.Struct):
    seq: int = 0


class _Error(msgspec.Struct):
    code: int = 0
    description: str = ""


class _Found(msgspec.Struct):
    message: _Message | None = None
    error: _Error | None = None
