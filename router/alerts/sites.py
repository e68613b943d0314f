"""Reads the facts of sites from the broker: when the newest event came, what waits for a router, and the counts of earlier hours."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec

from router.alerts.judge.facts import OfSite
from router.alerts.judge.volume import History, begin, note
from router.alerts.store import HISTORIES, Cell
from router.forwarding.state import SiteState, state_key
from router.shards.summed import read_summed
from shared.errors import UNREADABLE, SetupError
from shared.events.shards import decode_layout, layout_key
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.project.snapshot import ConfigSnapshot
from shared.streams.waiting import look_at_next

BEHIND_SECONDS = 60.0
"""Events that wait for a router for longer are missing in the count of their hour."""


class Histories:
    """The counts of sites, each a value of its own: a value of the broker has no room for those of many sites."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._cells: dict[str, Cell] = {}

    async def read(self, site: str) -> History | None:
        """Returns the history of a site; None: it has none yet.

        Raises:
            NotConnected: the broker does not answer.
        """
        value = await self._cells.setdefault(site, Cell(self._broker, HISTORIES + site)).value()
        with contextlib.suppress(*UNREADABLE):  # of another version
            return msgspec.json.decode(value, type=History) if value else None
        return None

    async def keep(self, site: str, history: History) -> None:
        """Takes the history of a site.

        Raises:
            Fenced: another router wrote it.
            NotConnected, Transient: it is not known to be written.
        """
        await self._cells[site].keep(msgspec.json.encode(history))

    def forget_others(self, sites: Mapping[str, object]) -> None:
        """Forgets sites that left the project."""
        self._cells = {site: cell for site, cell in self._cells.items() if site in sites}


async def read_sites(
    broker: Broker, snapshot: ConfigSnapshot, histories: Histories, now: float, *, watched_since: float = 0.0
) -> tuple[dict[str, OfSite], dict[str, SiteState]]:
    """Returns the sites with their histories continued, and the routers' states; the reserved sites of problems among them.

    Args:
        watched_since: since when routers look without a pause (epoch seconds).

    Raises:
        Fenced: another router looks.
        NotConnected, Transient: the broker does not answer.
    """
    sites = snapshot.project.every_site
    histories.forget_others(sites)
    keys = [key for name in sites for key in (state_key(name), layout_key(name))]
    entries = await Bucket(broker, topology.STATE_BUCKET).get_many(keys)
    found: dict[str, OfSite] = {}
    states: dict[str, SiteState] = {}
    for name, site in sites.items():
        entry, states[name] = entries.get(state_key(name)), SiteState()
        shared = entries.get(layout_key(name))
        with contextlib.suppress(*UNREADABLE, SetupError):  # of a later version
            if shared is not None and (layout := decode_layout(shared.value, name)) is not None:
                states[name] = await read_summed(broker, name, layout)
            elif entry is not None and entry.value:
                states[name] = msgspec.json.decode(entry.value, type=SiteState)
        before = await histories.read(name)
        last_seq, last_at = await _last(broker, name)
        last_at = last_at or (before.last_at if before is not None else 0.0)
        waits_since = await look_at_next(broker, name, states[name].position) if last_seq > states[name].position else None
        unrouted = None if waits_since is None else max(0.0, now - waits_since)
        accepted, behind = states[name].accepted, (unrouted or 0.0) > BEHIND_SECONDS
        history = begin(accepted, now) if before is None else note(before, accepted, now, last_at, behind=behind)
        await histories.keep(name, history)
        found[name] = OfSite(
            enabled=site.enabled, history=history, last_at=last_at, watched_since=watched_since, unrouted_seconds=unrouted
        )
    return found, states


async def _last(broker: Broker, site: str) -> tuple[int, float]:
    """Returns the sequence and the time of a site's newest frame; zeros: EVENTS has none."""
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        info = await broker.js.stream_info(topology.EVENTS, subjects_filter=topology.events_filter(site))
        if not info.state.subjects:
            return 0, 0.0
        message = await broker.js.get_last_msg(topology.EVENTS, topology.events_filter(site), direct=True)
    return message.seq or 0, message.time.timestamp() if message.time else 0.0
