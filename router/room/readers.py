"""Who still needs a frame of EVENTS: routers of sites, with their connections that are behind, replays under way, and archives.

Frames that all of them have passed may be removed: to make room (`shed.py`), or to forget a person.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec
from nats.js import api

from router.forwarding.state import SiteState, read_states
from router.shards.summed import has_ended
from shared.archive.note import read_note
from shared.errors import NotConnected
from shared.events.shards import Layout, read_layouts
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.hold_back import Holds
from shared.jetstream.identity import incarnation_of
from shared.project.model import Project

LOOK_SECONDS = 5.0


class Need(NamedTuple):
    """The first frame that a reader still needs, the earliest time of its acceptance, and the reader's name."""

    seq: int
    at_seconds: float
    reader: str


def needs_of(site: str, state: SiteState | None, incarnation: str, first: int = 1) -> list[Need]:
    """Returns the needs of a site's router: frames behind its position, and frames that it owes to connections. Pure.

    Args:
        first: where a router that has not begun yet will begin.
    """
    if state is None or state.incarnation != incarnation:
        return [Need(first, math.inf, f"site {site}, which no router has begun yet")]
    behind = [Need(mark.seq, mark.at_seconds, f"connection {name}, which is behind") for name, mark in state.behind.items()]
    if has_ended(state):
        return behind
    return [Need(state.position + 1, state.at_seconds, f"site {site}, whose router is behind"), *behind]


def needs_of_shards(site: str, layout: Layout, states: Mapping[str, SiteState], incarnation: str) -> list[Need]:
    """Returns the needs of the routers of a site's shards; none if the layout is of another EVENTS: then all is needed. Pure."""
    if layout.incarnation != incarnation:
        return [Need(1, math.inf, f"site {site}, which no router has begun yet")]
    needs: list[Need] = []
    for shard in layout.shards:
        own = layout.next_range(shard, 1)
        if own is not None:
            needs += needs_of(f"{site} ({shard})", states.get(shard.key(site)), incarnation, own.first)
    return needs


async def look_at_events(broker: Broker) -> api.StreamInfo:
    """Returns the state of EVENTS with its subjects.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        return await broker.js.stream_info(topology.EVENTS, subjects_filter=topology.events_filter("*"))


class Readers:
    """The readers of EVENTS.

    Args:
        project: the applied project. A site that is not in it and was routed once holds nothing back.
        holds: of replays; keep it between two looks.
        archived: the sites that are archived now.
    """

    def __init__(self, *, broker: Broker, project: Project, holds: Holds, archived: Collection[str]) -> None:
        self._broker = broker
        self._project = project
        self._holds = holds
        self._archived = archived

    async def needs(self, info: api.StreamInfo) -> list[Need]:
        """Returns what routers and replays still need of the frames that EVENTS had when `look_at_events` looked.

        Raises:
            NotConnected: the broker does not answer.
        """
        incarnation = incarnation_of(info)
        states = await read_states(self._broker, damaged=True)  # a site without a state needs all its frames
        layouts, damaged = await read_layouts(self._broker)
        held = await self._holds.first()
        needs = [] if held is None else [Need(held, math.inf, "a replay")]
        for site in sorted({subject.split(".")[1] for subject in info.state.subjects or {}} | set(self._project.every_site)):
            if site in states and site not in self._project.every_site:
                continue
            if site in damaged:
                wanted = [Need(1, math.inf, f"site {site}, whose layout cannot be read")]
            elif site in layouts:
                wanted = needs_of_shards(site, layouts[site], states, incarnation)
            else:
                wanted = needs_of(site, states.get(site), incarnation)
            if not wanted:
                continue
            earliest = min(wanted)
            # the next frame of this site only: a quiet site must not hold back frames of the others
            frame = await self._next_frame(site, earliest.seq)
            if frame is not None and frame <= info.state.last_seq:
                needs.append(Need(frame, earliest.at_seconds, earliest.reader))
        return needs

    async def not_archived(self, info: api.StreamInfo) -> int:
        """Returns the first frame that an archive has not read; one more than the last frame if there is none. Raises as `needs`."""
        incarnation, first = incarnation_of(info), info.state.last_seq + 1
        for site in self._archived:
            note = await read_note(self._broker, site)
            position = note.position if note is not None and note.incarnation == incarnation else 0
            frame = await self._next_frame(site, position + 1)
            first = min(first, frame if frame is not None else first)
        return first

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


class _Message(msgspec.Struct):
    seq: int = 0


class _Error(msgspec.Struct):
    code: int = 0
    description: str = ""


class _Found(msgspec.Struct):
    message: _Message | None = None
    error: _Error | None = None
