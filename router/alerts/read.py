"""Reads the facts that alerts judge from the broker: the same that `penstock status` shows. Asks no service, and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from router.alerts.judge.facts import OfConnection, OfLine, OfSite
from router.forwarding.account import Account
from router.forwarding.state import SiteState
from shared.errors import Permanent
from shared.events.headers import is_live
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.project.model import Connection
from shared.project.snapshot import ConfigSnapshot
from shared.streams.connection_state import ConnectionFacts, state_of
from shared.streams.fill import advice, read_fill
from shared.streams.reports import Told
from shared.streams.sync_state import GOOD as GOOD_SYNCS
from shared.streams.sync_state import read_syncs
from shared.streams.waiting import look_aside, look_at_oldest

PART = "alerts"
"""The part of `/ready` that says which alerts cannot be sent; no alert tells of it."""
_PROCESS = re.compile(r"^process \d+: ")
_OF_A_LINE = ("connection ", "sync ", "feed ", "stream ", "clients", PART)
"""Parts of `/ready` that are told by another kind, or are no fault of the stack."""
_FEW = 20
UNROUTED_SECONDS = 10.0
"""An event that waits longer for the router is named, as `penstock status` does."""


class Queues(msgspec.Struct, frozen=True, kw_only=True):
    """Messages by subject, and how many a subject may have (0: any number)."""

    messages: dict[str, int] = {}
    limit: int = 0

    def ratio(self, subject: str) -> float:
        """Part of the room that is taken."""
        return self.messages.get(subject, 0) / self.limit if self.limit > 0 else 0.0


async def read_queues(broker: Broker, stream: str) -> Queues:
    """Counts the messages of every queue of a stream.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"cannot look at the stream {stream}"):
        info = await broker.js.stream_info(stream, subjects_filter=">")
    return Queues(messages=info.state.subjects or {}, limit=max(0, info.config.max_msgs_per_subject or 0))


def words_of(reports: Sequence[Told], part: str) -> list[str]:
    """Returns what the services say of a part, problems before warnings."""
    parts = [*(told.report.problems for told in reports), *(told.report.warnings for told in reports)]
    return [why for each in parts for name, why in each.items() if _PROCESS.sub("", name) == part]


def problems_of(reports: Sequence[Told]) -> dict[str, str]:
    """Returns what services say of parts that are of no connection, sync, feed or stream."""
    return {
        f"{told.service}: {name}": why
        for told in reports
        for part, why in {**told.report.warnings, **told.report.problems}.items()
        if not (name := _PROCESS.sub("", part)).startswith(_OF_A_LINE)
    }


async def read_connections(
    broker: Broker,
    snapshot: ConfigSnapshot,
    states: Mapping[str, SiteState],
    sites: Mapping[str, OfSite],
    reports: Sequence[Told],
    now: float,
) -> dict[str, OfConnection]:
    """Returns the state of every connection, of problems among them.

    Raises:
        NotConnected: the broker does not answer.
    """
    connections = snapshot.project.connections
    if not connections:
        return {}
    deliver, functions = await read_queues(broker, topology.DELIVER), await read_queues(broker, topology.FUNCTIONS)
    retry = await read_queues(broker, topology.RETRY)
    names = [f"{service}.{name}" for name in connections for service in ("loader", "functions")]
    holders = await Bucket(broker, topology.LEASE_BUCKET).get_many(names)
    found: dict[str, OfConnection] = {}
    for name, connection in connections.items():
        queue, site = snapshot.queue_of(name), states.get(connection.site, SiteState())
        subject, before = topology.deliver_subject(queue), topology.functions_subject(queue)
        ages = [
            await _age(broker, stream, where, account=site.accounts.get(name), now=now)
            for stream, where, some in (
                (topology.DELIVER, subject, deliver.messages.get(subject)),
                (topology.FUNCTIONS, before, functions.messages.get(before)),
            )
            if some
        ]
        aside: Mapping[str, int] = {}
        if retry.messages.get(topology.retry_subject("loader", queue)):
            set_aside = await look_aside(broker, queue, _FEW)
            aside = set_aside.rows
            ages.append(None if set_aside.oldest_at is None else now - set_aside.oldest_at)
        unrouted = sites[connection.site].unrouted_seconds if connection.site in sites else None
        age = max((each for each in (*ages, unrouted) if each is not None), default=None)
        mark, period = site.behind.get(name), _period(connection)
        leases = [holders.get(f"{service}.{name}") for service in ("loader", "functions")]
        loader, runs = (None if each is None else (each.value or b"").decode() for each in leases)
        state, why = state_of(
            ConnectionFacts(
                name=name,
                destination=connection.destination,
                enabled=connection.enabled,
                period_seconds=period,
                words=lambda part: words_of(reports, part),
                loader=loader,
                functions=runs,
                functions_frames=functions.messages.get(before, 0),
                queue_frames=deliver.messages.get(subject, 0),
                aside=aside,
                behind=mark is not None,
                owed=0 if mark is None else mark.owed,
                age_seconds=age,
                held="" if mark is None else mark.why,
            )
        )
        if state == "ok" and unrouted is not None and unrouted > UNROUTED_SECONDS:
            state, why = (
                "not routed",
                f"the oldest event of its site waits for the router for {unrouted:.0f} s; see the router's log",
            )
        found[name] = OfConnection(
            site=connection.site,
            destination=connection.destination,
            state=state,
            why=why,
            period_seconds=period,
            oldest_seconds=age,
            queues={"DELIVER": deliver.ratio(subject), "FUNCTIONS": functions.ratio(before)},
        )
    return found


def _period(connection: Connection) -> float:
    return float(connection.batch.period) if connection.mode == "batch" else 0.0


async def _age(broker: Broker, stream: str, subject: str, account: Account | None, now: float) -> float | None:
    try:
        oldest = await look_at_oldest(broker, stream, subject)
    except Permanent:  # of a later version
        return None
    if oldest is None or oldest.waits_since is None:
        return None
    at, place = oldest.waits_since, oldest.place
    if account is not None and place is not None and is_live(place.lane) and place.seq <= account.began and oldest.queued_at:
        at = oldest.queued_at  # it comes from a backfill, and was accepted long ago
    return max(0.0, now - at)


async def read_lines(
    broker: Broker, snapshot: ConfigSnapshot, reports: Sequence[Told], now: float
) -> tuple[dict[str, OfLine], dict[str, OfLine]]:
    """Returns the states of syncs and of feeds.

    Raises:
        NotConnected: the broker does not answer.
    """
    project = snapshot.project
    said = {
        name: [why for told in reports for part, why in told.report.problems.items() if part == f"sync {name}"]
        for name in project.syncs
    }
    syncs: dict[str, OfLine] = {}
    if project.syncs:
        states, _ = await read_syncs(broker, project, now, said)
        syncs = {each.sync: OfLine(state=each.state, good=each.state in GOOD_SYNCS, why=each.why) for each in states}
    feeds: dict[str, OfLine] = {}
    holders = await Bucket(broker, topology.LEASE_BUCKET).get_many([f"feed.{name}" for name in project.feeds])
    for name, document in project.feeds.items():
        enabled = document.get("enabled", True) and project.sites[document["site"]].enabled
        words = words_of(reports, f"feed {name}")
        if not enabled:
            feeds[name] = OfLine(state="disabled", good=True)
        elif words:
            feeds[name] = OfLine(state="failing", good=False, why=words[0])
        elif f"feed.{name}" not in holders:
            feeds[name] = OfLine(state="no runner", good=False, why="no runner works on it; is the service connector_runner up?")
        else:
            feeds[name] = OfLine(state="ok", good=True)
    return syncs, feeds


async def read_streams(broker: Broker) -> dict[str, tuple[float, str]]:
    """Returns how full DEAD and EVENTS are, and what that means. EVENTS counts from where keeping room is no longer routine.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: dict[str, tuple[float, str]] = {}
    for stream in (topology.EVENTS, topology.DEAD):
        fill = await read_fill(broker, stream)
        # the routers let EVENTS fill to four fifths before they remove what is delivered
        ratio = fill.ratio if stream == topology.DEAD or fill.ratio > 0.9 else 0.0
        found[stream] = (ratio, f"{fill}; {advice(stream)}")
    return found


async def read_disks(broker: Broker, reports: Sequence[Told]) -> dict[str, tuple[float, str]]:
    """Returns how full the broker's store is, where it has a limit, and the disks that processes write to.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: dict[str, tuple[float, str]] = {}
    with asking("the broker does not tell how full its store is"):
        account = await broker.js.account_info()
    limit = account.limits.max_storage if account.limits else 0
    if limit and limit > 0:
        ratio = account.storage / limit
        found["the broker's store"] = (
            ratio,
            f"{account.storage / 2**30:.1f} of {limit / 2**30:.1f} GiB; raise its limit or its disk",
        )
    return found | disks_in(reports)


def disks_in(reports: Sequence[Told]) -> dict[str, tuple[float, str]]:
    """Returns how full the disks of all processes are, by mount point and machine. Pure."""
    newest: dict[str, Told] = {}
    uses: dict[str, set[str]] = {}
    for told in reports:
        for mount, disk in told.disks.items():
            place = f"{mount} on {told.host}"
            uses.setdefault(place, set()).update(f"{purpose} of {told.service}" for purpose in disk.used_for)
            if place not in newest or told.at > newest[place].at:
                newest[place] = told
    return {
        f"the disk {place}": (
            (disk := told.disks[place.removesuffix(f" on {told.host}")]).ratio,
            f"{disk.free_bytes / 2**30:.1f} GiB are free; it holds {', '.join(sorted(uses[place]))}",
        )
        for place, told in newest.items()
    }
