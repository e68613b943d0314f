"""The state of every connection and of the parts that it depends on, from the broker's data and the services' words.

The broker alone gives the counts (`penstock/control/status/balance.py`), the waiting events, the fill of the streams, and the
holder of a connection's lease; so a restart resets no number. The services' `/metrics` and `/ready` give the reasons, and the
clients that the edge refuses. Each state that needs a person is a problem with a next step.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
import nats.errors
from nats.js.errors import APIError

from loader.watch.stop import OPENING, Stop, next_step, read_stop
from penstock.control.letters.letters import Filter, find
from penstock.control.metrics import Scrape, total
from penstock.control.status.archived import ArchiveStatus, read_archives, read_open_runs
from penstock.control.status.balance import Balance, SiteBalance, View, balance_of, read_site, read_view
from penstock.control.status.feeds import GOOD as GOOD_FEEDS
from penstock.control.status.feeds import FeedStatus, read_feeds
from penstock.control.status.services import (
    dead_lost_of,
    dropped_by,
    not_answering,
    of_processes,
    of_services,
    refused_by,
    words_on,
)
from penstock.control.status.warned import Wanted, read_all
from penstock.control.wording import waits
from penstock.stack.home import StackState
from router.forwarding.state import SiteState
from router.shards.summed import read_site_state
from shared.errors import UNREADABLE, NotConnected, SetupError
from shared.events.headers import is_live
from shared.jetstream import lease, topology
from shared.jetstream.broker import Broker
from shared.project.model import Connection, Project
from shared.project.snapshot import current_snapshot
from shared.streams.connection_state import GOOD, ConnectionFacts, state_of
from shared.streams.fill import WARN_RATIO, advice, read_fill
from shared.streams.removed import RemovedBalance, read_all_removed
from shared.streams.sync_state import GOOD as GOOD_SYNCS
from shared.streams.sync_state import SyncStatus, read_syncs

COUNTED_DEAD_MESSAGES = 2000
"""Letters of more messages than this are not counted one by one; the figure is then a lower bound."""

WARNED_SECONDS = 3600.0
UNROUTED_SECONDS = 10.0
"""An event that waits for the router for longer counts as not routed."""


class ConnectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One connection. Its events are counted since it began."""

    connection: str
    state: str
    """ok, idle, disabled, catching up, late, stuck, table failing, table dropped, rows missing, calls failing, stopped, failing,
    not routed or unknown."""
    why: str = ""
    received: int = 0
    """Events accepted for it, without replayed ones."""
    replayed: int = 0
    made: int = 0
    """By functions, less the events that wait for another attempt."""
    delivered: int = 0
    dropped: int = 0
    dead: int = 0
    waiting_frames: int = 0
    """In its queue, and before its functions."""
    waiting_events: int = 0
    """Events before its functions, in its queue, still in EVENTS, or with rows set aside."""
    waiting_events_is_estimate: bool = False
    settled: bool = True
    """False: its counts lag behind, and change without new events."""
    aside: dict[str, int] = {}
    """Rows set aside, by failing table."""
    oldest_waiting_seconds: float | None = None
    last_load_at: float | None = None
    """Epoch seconds."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the project and its stack."""

    revision: int
    connections: list[ConnectionStatus]
    in_the_browser: dict[str, str] = {}
    """Connections to device destinations, with the type: no service works on them, so nothing is counted."""
    syncs: list[SyncStatus] = []
    feeds: list[FeedStatus] = []
    removed: list[RemovedBalance] = []
    """Accounts of connections that left the project, each incarnation apart; the oldest are added up."""
    edge_accepted: int = 0
    """Events accepted of all sites."""
    unrouted: int = 0
    """The part of these that waits for the router; in no connection's counts."""
    unrouted_by_site: dict[str, int] = {}
    """The same by site; only sites that have some."""
    edge_dead: int = 0
    """Dead letters of events that the edge rejected."""
    edge_dropped: dict[str, int] = {}
    """Events left out on purpose at the edge since its start (of suppressed people, of bots), by reason and site, as far as known."""
    refused: dict[str, int] = {}
    """Requests refused at the edge since its start, by code, site and key, as far as known."""
    dead_lost: dict[str, int] = {}
    """Dead letters that DEAD had no room for, by what became of them (evicted, refused) and whose they were, since the services started."""
    warnings: dict[str, int] = {}
    """Warnings of the last hour, by reason."""
    archives: list[ArchiveStatus] = []
    runs: dict[str, str] = {}
    """Runs that have not ended, by id, in words."""
    not_answering: dict[str, str] = {}
    problems: dict[str, str] = {}
    """Problems apart from connections: of a service, a process, a stream, the journal; with a next step."""

    @property
    def waiting(self) -> int:
        """Number of accepted events that have not ended, over all connections."""
        return self.unrouted + sum(each.waiting_events for each in self.connections)

    @property
    def settled(self) -> bool:
        """Whether nothing waits and all counts say so."""
        return not self.waiting and all(each.settled for each in self.connections)

    @property
    def starting(self) -> bool:
        """Whether a service is just taking up a connection, or none has yet."""
        return any(each.state == "unknown" or each.why == OPENING for each in self.connections)

    @property
    def healthy(self) -> bool:
        """Whether nothing needs a person."""
        lines = (
            *(each.state in GOOD for each in self.connections),
            *(each.state in GOOD_SYNCS for each in self.syncs),
            *(each.state in GOOD_FEEDS for each in self.feeds),
        )
        return all(lines) and not self.not_answering and not self.problems


async def _routed(broker: Broker, site: str, problems: dict[str, str]) -> SiteState:
    """Returns the state of a site; an empty one where it cannot be read, which is a problem."""
    try:
        return await read_site_state(broker, site)
    except (SetupError, *UNREADABLE) as exc:
        if not any(part.endswith(f"layout of {site}") for part in problems):
            problems[f"site {site}"] = f"its state cannot be read: {exc}"
        return SiteState()


async def read_status(
    broker: Broker, project: Project, revision: int, scrapes: Sequence[Scrape], now: float, stack: StackState | None = None
) -> Status:
    """Reads the state of everything.

    Args:
        scrapes: the answers of the services; may be empty.
        now: epoch seconds.
        stack: the local stack, if there is one.

    Raises:
        NotConnected: the broker does not answer.
    """
    problems = {**of_processes(stack, scrapes), **of_services(stack, scrapes)}
    connections: list[ConnectionStatus] = []
    edge_dead = 0
    try:
        snapshot = await current_snapshot(broker)
        states = {site: await _routed(broker, site, problems) for site in project.every_site}
        sites = {site: await read_site(broker, site, state) for site, state in states.items()}
        for name, connection in project.connections.items():
            view = await read_view(broker, connection.site, snapshot.queue_of(name), states[connection.site])
            queue = snapshot.queue_of(name)
            connections.append(
                await _read_connection(
                    broker=broker,
                    name=name,
                    connection=connection,
                    view=view,
                    site=sites[connection.site],
                    scrapes=scrapes,
                    now=now,
                    queue=queue,
                )
            )
        said = {name: words_on(scrapes, f"sync {name}", ("problems",)) for name in project.syncs}
        syncs, _ = await read_syncs(broker, project, now, said)
        feeds = await read_feeds(broker, project, scrapes)
        removed = await read_all_removed(broker)
        warnings = Counter[str]()
        for each in await read_all(broker, Wanted(since=now - WARNED_SECONDS)):
            warnings[each.reason] += each.count
        archives, runs = await read_archives(broker, project, now), await read_open_runs(broker)
        for archive in archives:
            # the router that archives it says the same
            if archive.trouble and not any(part.endswith(f" archive {archive.site}") for part in problems):
                problems[f"archive {archive.site}"] = archive.trouble
        dead = (await broker.js.stream_info(topology.DEAD, subjects_filter="dead.ingest.*")).state.subjects or {}
        for subject, messages in dead.items():
            edge_dead += await _count_dead(broker, subject, messages)
        for stream in (topology.EVENTS, topology.FUNCTIONS, topology.DELIVER, topology.DEAD):
            fill = await read_fill(broker, stream)
            if fill.ratio >= WARN_RATIO:
                part = f"stream {stream}"
                # only the services know their policy
                what = next(iter(words_on(scrapes, part)), f"{fill}; {advice(stream)}")
                problems[part] = f"{what}; {_readers(states, sites)}" if stream == topology.EVENTS else what
    except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
        raise NotConnected(f"the broker does not tell its state: {exc or type(exc).__name__}") from exc
    return Status(
        revision=revision,
        connections=connections,
        in_the_browser={
            name: str(project.destinations[each.destination]["type"]) for name, each in project.devices.items() if each.enabled
        },
        syncs=syncs,
        feeds=feeds,
        removed=removed,
        edge_accepted=sum(sites[site].accepted + sites[site].unrouted for site in project.sites),
        unrouted=sum(each.unrouted for each in sites.values()),
        unrouted_by_site={each.site: each.unrouted for each in sites.values() if each.unrouted},
        edge_dead=edge_dead,
        edge_dropped=dropped_by(scrapes),
        refused=refused_by(scrapes),
        dead_lost=dead_lost_of(scrapes),
        warnings=dict(warnings.most_common()),
        archives=archives,
        runs=runs,
        not_answering=not_answering(stack, scrapes),
        problems=problems,
    )


async def _read_connection(
    broker: Broker,
    name: str,
    connection: Connection,
    view: View,
    site: SiteBalance,
    scrapes: Sequence[Scrape],
    now: float,
    queue: str,
) -> ConnectionStatus:
    balance = balance_of(name, connection.site, view)
    before = view.functions.frames.oldest_at
    oldest = [at for at in (before, view.queue.oldest_at, view.aside.oldest_at) if at is not None]
    age = max(0.0, now - min(oldest)) if oldest else None
    unrouted = max(0.0, now - site.oldest_at) if site.oldest_at is not None else None
    account, place = view.state.accounts.get(name), view.queue.oldest
    held = age
    if account is not None and place is not None and is_live(place.lane) and place.seq <= account.began and view.queue.queued_at:
        held = max(0.0, now - view.queue.queued_at)  # it comes from a backfill, and was accepted long ago
    stop = await read_stop(broker, queue)
    state, why = await _state_of(
        broker=broker, name=name, connection=connection, view=view, balance=balance, age=held, scrapes=scrapes, stop=stop
    )
    if state == "ok" and unrouted is not None:
        state, why = await _routing_state(broker, site, unrouted)
    return ConnectionStatus(
        connection=name,
        state="idle" if state == "ok" and not balance.all_waiting and not balance.delivered else state,
        why=why,
        received=balance.received,
        replayed=balance.replayed,
        made=balance.made,
        delivered=balance.delivered,
        dropped=sum(balance.dropped.values()),
        dead=sum(balance.dead.values()),
        waiting_frames=view.functions.frames.frames + view.queue.frames,
        waiting_events=balance.all_waiting,
        waiting_events_is_estimate=not balance.exact,
        settled=balance.settled,
        aside=view.aside.rows,
        oldest_waiting_seconds=age,
        last_load_at=view.ended.last_load_at,
    )


async def _state_of(
    broker: Broker,
    name: str,
    connection: Connection,
    view: View,
    balance: Balance,
    age: float | None,
    scrapes: Sequence[Scrape],
    stop: Stop | None,
) -> tuple[str, str]:
    """Returns the state and why."""
    frames = view.functions.frames.frames
    return state_of(
        ConnectionFacts(
            name=name,
            destination=connection.destination,
            enabled=connection.enabled,
            period_seconds=float(connection.batch.period) if connection.mode == "batch" else 0.0,
            words=partial(words_on, scrapes),
            loader=await lease.holder(broker, f"loader.{name}"),
            functions=await lease.holder(broker, f"functions.{name}") if frames else None,
            functions_frames=frames,
            queue_frames=view.queue.frames,
            aside=view.aside.rows,
            behind=name in view.state.behind or bool(total(scrapes, "router_connection_stopped", connection=name)),
            owed=balance.waiting["events"],
            age_seconds=age,
            stop=f"{stop.why}; {next_step(name)}" if stop is not None else "",
            held=view.state.behind[name].why if name in view.state.behind else "",
        )
    )


async def _routing_state(broker: Broker, site: SiteBalance, age: float) -> tuple[str, str]:
    """Returns the state of a connection that is well, and whose site has events that wait for the router."""
    who = await lease.holder(broker, f"router.{site.site}")
    if who is not None and age <= UNROUTED_SECONDS:
        return "ok", ""
    why = f"{waits(site.unrouted)} for the router, the oldest for {age:.0f} s"
    return "not routed", f"{why}; " + (
        "no router works on the site; is the service up?" if who is None else "see the router's log"
    )


def _readers(states: Mapping[str, SiteState], sites: Mapping[str, SiteBalance]) -> str:
    """Returns the readers that have not read EVENTS to its end."""
    behind = [f"connection {name}" for state in states.values() for name in state.behind]
    behind += [f"the router of site {each.site} ({waits(each.unrouted)})" for each in sites.values() if each.unrouted]
    return f"behind now: {', '.join(behind)}" if behind else "no connection and no router is behind"


async def _count_dead(broker: Broker, subject: str, messages: int) -> int:
    if messages > COUNTED_DEAD_MESSAGES:
        return messages
    with contextlib.suppress(ValueError):
        _, stage, name = subject.split(".", 2)
        wanted = Filter(stage=stage, site=name) if stage == "ingest" else Filter(stage=stage, connection=name)
        return sum([len(stored.matching) async for stored in find(broker, wanted)])
    return messages
