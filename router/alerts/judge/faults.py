"""The faults that an alert tells of: the facts of a moment, judged by its rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from router.alerts.contract import AlertRules, Kind
from router.alerts.judge import volume
from router.alerts.judge.facts import DeadRun, Facts, OfConnection, OfLine
from router.alerts.judge.ledger import Fault, Kept
from shared.project.shards import connection_of_shard
from shared.reading.moments import shown
from shared.streams.connection_state import GOOD

NEARLY_OVER_SECONDS = 3 * 86_400
"""A certificate that ends sooner is critical."""
UNWATCHED = "this alert tells no more of it"
REMOVED = "it left the project"
DISABLED = "it is disabled"
UNREPORTED = "no process reports it any more"
_ROOM = "it waits in the broker, and none is lost"
_EDGES = ("ingest", "feeds")
"""Stages whose dead letters are of a site, not of a connection."""


def faults_of(facts: Facts, rules: AlertRules) -> list[Fault]:
    """Returns what is wrong, of the kinds and things that an alert tells of."""
    return [fault for fault in _all(facts, rules) if rules.tells(fault.kind)]


def ending_of(facts: Facts, rules: AlertRules, key: str, kept: Kept) -> str | None:
    """Returns why a fault that is not there ended: empty if it got well, None if the facts say nothing of it."""
    kind, _, about = key.partition(" ")
    if not rules.tells(kept.kind):
        return UNWATCHED
    name = about.rpartition(" ")[2]
    match kind:
        case "connection" | "freshness" | "queue" if not about.startswith("stream "):
            found = facts.connections.get(name)
            if found is None:
                return REMOVED
            if not (_wants(rules.connections, name) and _wants(rules.sites, found.site)):
                return UNWATCHED
            return DISABLED if found.state == "disabled" else ""
        case "silence" | "volume":
            site = facts.sites.get(name)
            if site is None:
                return REMOVED
            if not _wants(rules.sites, name):
                return UNWATCHED
            if not site.enabled:
                return DISABLED
            # only an event ends a silence, and only an hour that is known an unusual one
            lasts = site.last_at < kept.since if kind == "silence" else not volume.knows_last_hour(site.history)
            return None if lasts else ""
        case "sync":
            return _of_line(facts.syncs.get(name), wanted=_wants(rules.syncs, name))
        case "feed":
            return _of_line(facts.feeds.get(name), wanted=_wants(rules.feeds, name))
        case "certificate":
            return UNWATCHED if about not in facts.certificates else None if facts.certificates[about] is None else ""
        case "disk":
            return "" if about in facts.disks else UNREPORTED
        case "service":
            return "" if about.partition(":")[0] in facts.running else UNREPORTED
    return ""


def _of_line(line: OfLine | None, *, wanted: bool) -> str | None:
    if line is None:
        return REMOVED
    if wanted and line.state == "running":
        return None  # the run that goes on may fail, too
    return UNWATCHED if not wanted else DISABLED if line.state == "disabled" else ""


def _all(facts: Facts, rules: AlertRules) -> Iterator[Fault]:
    for name, connection in facts.connections.items():
        if _wants(rules.connections, name) and _wants(rules.sites, connection.site):
            yield from _of_connection(name, connection, rules)
    for name, site in facts.sites.items():
        if not site.enabled or not _wants(rules.sites, name):
            continue
        bound = None if rules.silence is None else float(rules.silence)
        if why := volume.silent(site.history, site.last_at, facts.now, bound, watched_since=site.watched_since):
            title = f"site {name} is silent"
            yield _fault("silence", name, title=title, why=why, next_=f"penstock tail {name}", at_once=True)
        if why := volume.unusual(site.history, rules.volume):
            title = f"the traffic of site {name} is unusual"
            yield _fault("volume", name, title=title, why=why, next_=f"penstock tail {name}", warning=True, at_once=True)
    for name, sync in facts.syncs.items():
        if not sync.good and _wants(rules.syncs, name):
            yield _fault("sync", name, title=f"sync {name}: {sync.state}", why=sync.why, next_=f"penstock sync logs {name}")
    for name, feed in facts.feeds.items():
        if not feed.good and _wants(rules.feeds, name):
            yield _fault("feed", name, title=f"feed {name}: {feed.state}", why=feed.why, next_="penstock status")
    for name, run in facts.dead.items():
        if _wants_dead(facts, rules, run):
            yield _of_dead(facts, name, run)
    for stream, (ratio, why) in facts.streams.items():
        if ratio >= rules.queue:
            yield _fault(
                "queue", f"stream {stream}", title=f"the stream {stream} is {ratio:.0%} full", why=why, next_="penstock status"
            )
    for part, why in facts.services.items():
        yield _fault("service", part, title=f"{part} has a problem", why=why, next_="penstock status")
    for place, (ratio, why) in facts.disks.items():
        if ratio >= rules.disk:
            yield _fault("disk", place, title=f"{place} is {ratio:.0%} full", why=why)
    for server, ends_at in facts.certificates.items():
        if ends_at is not None and ends_at - facts.now < rules.certificate:
            over, soon = ends_at <= facts.now, ends_at - facts.now < NEARLY_OVER_SECONDS
            title = f"the certificate of {server} {'has ended' if over else 'ends soon'}"
            why = f"it ends at {shown(ends_at)} UTC; renew it"
            yield _fault("certificate", server, title=title, why=why, warning=not soon, at_once=True)


def _of_connection(name: str, connection: OfConnection, rules: AlertRules) -> Iterator[Fault]:
    names = (name, connection.site, connection.destination)
    if connection.state not in (*GOOD, "late"):
        # a service that is away is no matter of the destination
        check = "penstock status" if connection.state == "unknown" else f"penstock check {connection.destination}"
        title = f"connection {name}: {connection.state}"
        yield _fault("connection", name, title=title, why=connection.why, next_=check, names=names)
    bound = float(rules.freshness) + connection.period_seconds
    age = connection.oldest_seconds
    if age is not None and age > bound and connection.state != "disabled":
        why = f"its oldest event waits for {age / 60:.0f} min, the bound is {bound / 60:.0f} min; {_ROOM}"
        title = f"{connection.destination} is behind, by connection {name}"
        yield _fault("freshness", name, title=title, why=why, next_="penstock status", names=names)
    for queue, ratio in connection.queues.items():
        if ratio >= rules.queue:
            why = f"it is {ratio:.0%} full; beyond its limit the router reads again from EVENTS, as long as these are kept"
            title = f"the queue {queue} of connection {name} nears its limit"
            yield _fault("queue", f"{queue} of {name}", title=title, why=why, next_="penstock status", names=names)


def _of_dead(facts: Facts, name: str, run: DeadRun) -> Fault:
    most = sorted(run.reasons.items(), key=lambda each: -each[1])
    reasons = ", ".join(f"{count} {reason}" for reason, count in most)
    known = (("connection", facts.connections), ("sync", facts.syncs), ("site", facts.sites))
    other = "site" if run.stage in _EDGES else "connection"
    thing = other if run.stage in _EDGES else next((each for each, names in known if run.name in names), other)
    only = "" if thing == "sync" else f" --{thing} {run.name}"
    return _fault(
        "dead",
        name,
        title=f"dead letters of {thing} {run.name} ({run.stage})",
        why=f"{'at least ' if run.at_least else ''}{run.letters} since {shown(run.since)} UTC: {reasons}",
        next_=f"penstock dead list --stage {run.stage}{only}",
        warning=True,
        at_once=True,
        sample=run.sample,
        names=(run.name,),
    )


def _wants_dead(facts: Facts, rules: AlertRules, run: DeadRun) -> bool:
    if run.stage in _EDGES:
        return _wants(rules.sites, run.name) and not rules.connections
    site = facts.connections[run.name].site if run.name in facts.connections else ""
    return _wants(rules.connections, run.name) and _wants(rules.sites, site)


def _wants(names: list[str], name: str) -> bool:
    return not names or not {name, connection_of_shard(name)}.isdisjoint(names)


def _fault(
    kind: Kind,
    about: str,
    *,
    title: str,
    why: str,
    next_: str = "",
    warning: bool = False,
    at_once: bool = False,
    sample: dict[str, str] | None = None,
    names: Sequence[str] = (),
) -> Fault:
    return Fault(
        key=f"{kind} {about}",
        kind=kind,
        title=title,
        why=why,
        next=next_,
        severity="warning" if warning else "critical",
        at_once=at_once,
        sample=sample or {},
        names=tuple(names) or (about,),
    )
