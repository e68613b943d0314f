"""The state of every connection and of the parts that it depends on, from the broker's data and the services' words.

The broker alone gives the counts (`penstock/control/status/balance.py`), the waiting events, the fill of the streams, and the
holder of a connection's lease; so a restart resets no number. The services' `/metrics` and `/ready` give the reasons, and the
clients that the edge refuses. Each state that needs a person is a problem with a next step.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence

import msgspec
import nats.errors
from nats.js.errors import APIError

from loader.watch.stop import Stop, next_step, read_stop
from penstock.control.letters.letters import Filter, find
from penstock.control.metrics import Scrape, total
from penstock.control.status.balance import Balance, SiteBalance, View, balance_of, read_site, read_view
from penstock.control.wording import counted, waits
from penstock.stack.home import StackState
from router.forwarding.state import SiteState, StateKeeper
from shared.errors import NotConnected
from shared.events.headers import is_live
from shared.jetstream import lease, topology
from shared.jetstream.broker import Broker
from shared.project.model import Connection, Project
from shared.project.snapshot import current_snapshot
from shared.streams.fill import WARN_RATIO, advice, read_fill
from shared.streams.removed import RemovedBalance, read_all_removed
from shared.streams.waiting import CALLS

COUNTED_DEAD_MESSAGES = 2000
"""Letters of more messages than this are not counted one by one; the figure is then a lower bound."""

LATE_SLACK_SECONDS = 30.0
DYING_SECONDS = 300.0
"""A process that died more than once, the last time within this time, is not well although it runs."""
UNROUTED_SECONDS = 10.0
"""An event that waits for the router for longer counts as not routed."""
CLIENTS = "clients"
"""The part of `/ready` for refused clients. Any client can cause refusals: they are shown, and are no problem of the stack."""
_PROCESS = re.compile(r"^process \d+: ")
"""The prefix of each process's parts in the `/ready` of an edge of several processes."""
GOOD = ("ok", "idle", "disabled", "catching up")
"""States that need no person."""


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
    refused: dict[str, int] = {}
    """Requests refused at the edge since its start, by code, site and key, as far as known."""
    dead_lost: dict[str, int] = {}
    """Dead letters that DEAD had no room for, by what became of them (evicted, refused) and whose they were, since the services started."""
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
    def healthy(self) -> bool:
        """Whether nothing needs a person."""
        return not self.not_answering and not self.problems and all(each.state in GOOD for each in self.connections)


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
    problems = {**_of_processes(stack, scrapes), **_of_services(stack, scrapes)}
    connections: list[ConnectionStatus] = []
    edge_dead = 0
    try:
        snapshot = await current_snapshot(broker)
        states = {site: await StateKeeper(broker, site).load() or SiteState() for site in project.sites}
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
        removed = await read_all_removed(broker)
        dead = (await broker.js.stream_info(topology.DEAD, subjects_filter="dead.ingest.*")).state.subjects or {}
        for subject, messages in dead.items():
            edge_dead += await _count_dead(broker, subject, messages)
        for stream in (topology.EVENTS, topology.FUNCTIONS, topology.DELIVER, topology.DEAD):
            fill = await read_fill(broker, stream)
            if fill.ratio >= WARN_RATIO:
                part = f"stream {stream}"
                # only the services know their policy
                what = next(iter(_said(scrapes, part)), f"{fill}; {advice(stream)}")
                problems[part] = f"{what}; {_readers(states, sites)}" if stream == topology.EVENTS else what
    except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
        raise NotConnected(f"the broker does not tell its state: {exc or type(exc).__name__}") from exc
    return Status(
        revision=revision,
        connections=connections,
        removed=removed,
        edge_accepted=sum(each.accepted + each.unrouted for each in sites.values()),
        unrouted=sum(each.unrouted for each in sites.values()),
        unrouted_by_site={each.site: each.unrouted for each in sites.values() if each.unrouted},
        edge_dead=edge_dead,
        refused=_refused(scrapes),
        dead_lost=_dead_lost(scrapes),
        not_answering=not_answering(stack, scrapes),
        problems=problems,
    )


def not_answering(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the services that do not answer, and why."""
    return {_named(stack, scrape.url): scrape.error for scrape in scrapes if scrape.error}


def said_by_services(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the state without the broker: which services are ready, and the problems of services and processes."""
    said = {_named(stack, scrape.url): "ready" if scrape.ready else "not ready" for scrape in scrapes if not scrape.error}
    parts = {
        f"{_named(stack, scrape.url)} {part}": why
        for scrape in scrapes
        for part, why in {**scrape.warnings, **scrape.problems}.items()
    }
    return {**_of_processes(stack, scrapes), **said, **parts}


def _named(stack: StackState | None, url: str) -> str:
    """Returns a service's address, with its name if known."""
    names = [process.name for process in stack.processes if process.admin_url == url] if stack is not None else []
    return f"{names[0]} ({url})" if names else url


def _of_processes(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the processes that the supervisor cannot keep running."""
    found: dict[str, str] = {}
    for process in stack.processes if stack is not None else ():
        died = time.time() - process.died_at < DYING_SECONDS
        keeps_dying = process.restarts > 1 and died
        if keeps_dying or (process.restarts and process.state != "ready"):
            scrape = next((each for each in scrapes if each.url == process.admin_url), None)
            parts = scrape.problems if scrape is not None else {}
            why = "".join(f"; {part}: {why}" for part, why in parts.items())
            log = f"{stack.home}/logs/{process.name}.log" if stack is not None else ""
            # a death of long ago does not explain why it does not answer now
            deaths = f"; it died {counted(process.restarts, 'time')}" if died or process.state != "not ready" else ""
            found[f"process {process.name}"] = f"{process.state}{why}{deaths}; its log says why: {log}"
    return found


def _of_services(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the services' problems, except those of connections and refused clients; streams are measured here."""
    return {
        f"{_named(stack, scrape.url)} {part}": why
        for scrape in scrapes
        for part, why in {**scrape.warnings, **scrape.problems}.items()
        if not _PROCESS.sub("", part).startswith(("connection ", "stream ", CLIENTS))
    }


def _refused(scrapes: Sequence[Scrape]) -> dict[str, int]:
    found: dict[str, int] = {}
    for scrape in scrapes:
        for labels, value in scrape.samples.get("ingest_requests_refused_total", ()):
            what = ", ".join(f"{label} {labels[label]}" for label in sorted(labels) if labels[label])
            found[what] = found.get(what, 0) + int(value)
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def _dead_lost(scrapes: Sequence[Scrape]) -> dict[str, int]:
    found: dict[str, int] = {}
    for what in ("evicted", "refused"):
        for scrape in scrapes:
            for labels, value in scrape.samples.get(f"dead_letters_{what}_total", ()):
                name = f"{what}, {labels.get('stage', '')} {labels.get('source', '')}"
                found[name] = found.get(name, 0) + int(value)
    return found


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
    if not connection.enabled:
        return "disabled", "enabled: false in the project"
    if stop is not None:
        return "stopped", f"{stop.why}; {next_step(name)}"
    said = _said(scrapes, f"connection {name}")
    if said:
        return "failing", said[0]
    if await lease.holder(broker, f"loader.{name}") is None:
        return "unknown", "no loader works on it; is the service up?"
    if view.functions.frames.frames and await lease.holder(broker, f"functions.{name}") is None:
        return "unknown", "frames wait for its functions and no service runs them; is functions_runtime up?"
    if view.aside.rows:
        told = _said(scrapes, f"connection {name}: tables") + _said(scrapes, f"connection {name}: calls")
        return "calls failing" if CALLS in view.aside.rows else "table failing", "; ".join(told) or _of_tables(view.aside.rows)
    if name in view.state.behind or total(scrapes, "router_connection_stopped", connection=name):
        owed = balance.waiting["events"]
        return "catching up", f"its queue was full; the router reads again from EVENTS, {owed} events are left"
    if stuck := _said(scrapes, f"connection {name}: waiting"):
        return "stuck", stuck[0]
    period = float(connection.batch.period) if connection.mode == "batch" else 0.0
    if (view.queue.frames or view.functions.frames.frames) and age is not None and age > 2 * period + LATE_SLACK_SECONDS:
        return (
            "late",
            f"the oldest event waits for {age:.0f} s; see the loader's log, or try: penstock check {connection.destination}",
        )
    if missing := _said(scrapes, f"connection {name}: missing"):
        return "rows missing", missing[0]
    dropped = _said(scrapes, f"connection {name}: dropped tables")
    return ("table dropped", dropped[0]) if dropped else ("ok", "")


async def _routing_state(broker: Broker, site: SiteBalance, age: float) -> tuple[str, str]:
    """Returns the state of a connection that is well, and whose site has events that wait for the router."""
    who = await lease.holder(broker, f"router.{site.site}")
    if who is not None and age <= UNROUTED_SECONDS:
        return "ok", ""
    why = f"{waits(site.unrouted)} for the router, the oldest for {age:.0f} s"
    return "not routed", f"{why}; " + (
        "no router works on the site; is the service up?" if who is None else "see the router's log"
    )


def _said(scrapes: Sequence[Scrape], part: str) -> list[str]:
    """Returns the services' words about a part, problems before warnings."""
    return [
        why
        for said in ("problems", "warnings")
        for scrape in scrapes
        for name, why in getattr(scrape, said).items()
        if _PROCESS.sub("", name) == part
    ]


def _readers(states: Mapping[str, SiteState], sites: Mapping[str, SiteBalance]) -> str:
    """Returns the readers that have not read EVENTS to its end."""
    behind = [f"connection {name}" for state in states.values() for name in state.behind]
    behind += [f"the router of site {each.site} ({waits(each.unrouted)})" for each in sites.values() if each.unrouted]
    return f"behind now: {', '.join(behind)}" if behind else "no connection and no router is behind"


def _of_tables(rows: Mapping[str, int]) -> str:
    if CALLS in rows:
        return (
            f"{rows[CALLS]} events wait for another call, because one failed; the loader's log says why, and when it tries again"
        )
    each = ", ".join(f"{count} rows of {table}" for table, count in sorted(rows.items()))
    return f"{each} are set aside because loading the table fails; the loader's log says why, and when it tries again"


async def _count_dead(broker: Broker, subject: str, messages: int) -> int:
    if messages > COUNTED_DEAD_MESSAGES:
        return messages
    with contextlib.suppress(ValueError):
        _, stage, name = subject.split(".", 2)
        wanted = Filter(stage=stage, site=name) if stage == "ingest" else Filter(stage=stage, connection=name)
        return sum([len(stored.matching) async for stored in find(broker, wanted)])
    return messages
