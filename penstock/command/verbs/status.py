"""`penstock status`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from penstock.command.fed import show_feeds
from penstock.command.synced import show_syncs
from penstock.control.metrics import scrape_all
from penstock.control.moments import Moment, gone
from penstock.control.reach import open_broker
from penstock.control.status.rest import Rest
from penstock.control.status.services import not_answering, said_by_services
from penstock.control.status.status import ConnectionStatus, Status, read_status
from penstock.control.wording import counted, waits
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from penstock.terminal.screen import Screen, Styled
from shared.devices.connections import IN_THE_BROWSER
from shared.errors import NotConnected, SetupError
from shared.project.model import Project
from shared.project.snapshot import current_snapshot, stored_project
from shared.reading.moments import shown

if TYPE_CHECKING:
    from penstock.control.status.audit import Audit

WAIT_SECONDS = 0.25
WATCH_SECONDS = 2.0
SHOWN_REFUSED = 5
SHOWN_IDS = 5
COLUMNS = (
    "connection", "state", "received", "delivered", "dropped", "dead", "waiting", "oldest", "last load (UTC)",
)  # fmt: skip
SPARE = ("last load (UTC)", "oldest", "received", "dropped")
STYLES = {"ok": "green", "idle": "green", "disabled": "dim", "catching up": "yellow"}


@click.command()
@click.option("--check", "checks", is_flag=True, help="Check by ids that every accepted event has arrived, once.")
@click.option(
    "--since", type=Moment(), metavar="TIME", help="With --check: leave out events that were accepted before this time."
)
@click.option(
    "--wait",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="First wait until no event waits and the counts are settled, at most so long; then exit code 1.",
)
@click.option("--watch", is_flag=True, help="Show it again every two seconds until Ctrl-C.")
@click.option("--metrics", multiple=True, metavar="URL", help="Admin page of a service, for brokers elsewhere; repeatable.")
@at_broker
def status(setting: Setting, metrics: tuple[str, ...], watch: bool, checks: bool, since: float | None, wait: float | None) -> int:
    """Shows every connection in one line: events received, delivered, dropped, dead and waiting, and why it is not well.

    Below, every sync in one line: its newest run, what waits for its destination, when rows came last, and when it runs next.
    And every feed in one line: records received, dead, and not read yet, and when the last one came.

    The counts begin with the connection; replayed events stand behind received ones, as "5 + 3", and behind those the events that
    functions made more, as "5 + 0 + 1". Without a local stack or --metrics the facts that only the services know are missing. Exit
    code 1 if something needs a person.

    \b
    Examples:
      penstock status --watch
      penstock send events.ndjson && penstock status --wait 60
    """
    ends_at, rest = time.monotonic() + (wait or 0.0), Rest()
    while True:
        found = asyncio.run(_read(setting, metrics))
        rested = wait is None or rest.is_reached(found, time.monotonic())
        if not rested and time.monotonic() < ends_at:
            time.sleep(WAIT_SECONDS)
            continue
        if not rested:
            late = waits(found.waiting, "still ") if found.waiting else "the counts are not settled"
            if found.waiting or not found.settled:
                setting.screen.note(f"{late} after {wait:g} s", "yellow")
        elif wait is not None and not found.settled:
            setting.screen.note("the counts do not balance; penstock status --check says which", "yellow")
        if checks:
            return _check(setting, since)
        if watch and setting.screen.is_terminal and not setting.screen.json:
            click.clear()
        setting.screen.result(found)
        _show(setting.screen, found)
        if not watch:
            return exits.OK if found.healthy and rested else exits.NO
        time.sleep(WATCH_SECONDS)


def _check(setting: Setting, since: float | None) -> int:
    from penstock.control.status.audit import audit  # reads and routes events again, which no other command does

    async def run() -> Audit:
        async with open_broker(setting.reach()) as broker:
            return await audit(broker, await current_snapshot(broker), since)

    found = asyncio.run(run())
    screen = setting.screen
    screen.result(found)
    columns = ("connection", "received", "replayed", "made", "delivered", "dropped", "dead", "waiting")
    screen.table(
        columns,
        [
            (each.connection, each.received, each.replayed, each.made, each.delivered, sum(each.dropped.values()), sum(each.dead.values()),
             each.all_waiting)
            for each in found.connections
        ]
        + [
            (gone(each), each.received, each.replayed, each.made, each.delivered, sum(each.dropped.values()), sum(each.dead.values()), each.waiting)
            for each in found.removed
        ],
    )  # fmt: skip
    for note in found.notes:
        screen.say(note, "yellow")
    for name, why in found.unchecked.items():
        screen.say(f"{name}: not checked: {why}", "red")
    for finding in found.findings:
        some = f": {counted(finding.events, 'event')}, such as {', '.join(finding.ids[:SHOWN_IDS])}" if finding.events else ""
        screen.say(f"{finding.name}: {finding.what}{some}", "red")
    looked = f"{counted(found.ids, 'id')} read, {counted(found.asked, 'id')} looked for in destinations"
    if found.passed:
        screen.say(f"nothing is missing and nothing is doubled; {looked}", "green")
    elif not found.findings:
        screen.say(f"nothing is missing and nothing is doubled of what was checked; {looked}", "yellow")
    return exits.OK if found.passed else exits.NO


async def _read(setting: Setting, metrics: tuple[str, ...]) -> Status:
    reach = setting.reach()
    local = [process.admin_url for process in reach.state.processes if process.admin_url] if reach.state else []
    try:
        async with open_broker(reach) as broker:
            stored = await stored_project(broker)
            project = stored[1].snapshot(stored[0]).project if stored else Project()
            scrapes = await scrape_all(metrics or local)
            return await read_status(
                broker=broker,
                project=project,
                revision=stored[0] if stored else 0,
                scrapes=scrapes,
                now=time.time(),
                stack=reach.state,
            )
    except (NotConnected, SetupError):  # the services say more than the broker
        scrapes = await scrape_all(metrics or local)
        silent = {service: f"does not answer: {why}" for service, why in not_answering(reach.state, scrapes).items()}
        for part, why in {**said_by_services(reach.state, scrapes), **silent}.items():
            setting.screen.note(f"{part}: {why}", "red")
        raise


def _show(screen: Screen, found: Status) -> None:
    if not (found.connections or found.in_the_browser or found.syncs or found.feeds):
        screen.say("no connection is applied; apply a project with: penstock apply FILE")
    if found.connections:
        screen.table(COLUMNS, [_row(each) for each in found.connections], spare=SPARE)
        if any(each.replayed or each.made for each in found.connections):
            made = " + made by functions" if any(each.made for each in found.connections) else ""
            screen.say(f"received + replayed{made} = delivered + dropped + dead + waiting", "dim")
        for each in found.connections:
            if each.why:
                screen.say(f"{each.connection}: {each.why}", STYLES.get(each.state, "red"))
    for name, type_name in found.in_the_browser.items():
        screen.say(f"{name}: {IN_THE_BROWSER} ({type_name}); no service counts its events", "dim")
    if found.syncs:
        show_syncs(screen, found.syncs)
    if found.feeds:
        show_feeds(screen, found.feeds)
    for left in found.removed:
        ends = f"{left.delivered} delivered, {sum(left.dropped.values())} dropped, {sum(left.dead.values())} dead"
        more = f", {left.waiting} waiting" if left.waiting else ""
        screen.say(
            f"{gone(left)}: {left.received + left.replayed + left.made} received, {ends}{more}", "red" if left.problems else "dim"
        )
    accepted = f"{counted(found.edge_accepted, 'event')} accepted, "
    screen.say(f"edge: {accepted}{counted(found.edge_dead, 'dead letter')}; project revision {found.revision}")
    for what, count in list(found.edge_dropped.items())[:SHOWN_REFUSED]:
        screen.say(f"edge: left out {counted(count, 'event')} since its start: {what}", "dim")
    for site, events in found.unrouted_by_site.items():
        screen.say(f"site {site}: {waits(events)} for the router", "yellow")
    for what, count in list(found.refused.items())[:SHOWN_REFUSED]:
        screen.say(f"edge: refused {counted(count, 'request')} since its start: {what}", "yellow")
    rest = list(found.refused.values())[SHOWN_REFUSED:]
    if rest:
        screen.say(
            f"edge: refused {counted(sum(rest), 'request')} more, of {counted(len(rest), 'other kind')}; --json has all", "yellow"
        )
    if found.refused:
        screen.say("what a code means: docs/protocols/; from where requests came: lines `refused` of the edge's log", "yellow")
    for what, count in list(found.dead_lost.items())[:SHOWN_REFUSED]:
        how, _, whose = what.partition(", ")
        done = "evicted" if how == "evicted" else "not kept"
        screen.say(f"{counted(count, 'dead letter')} of {whose} {done} for want of room, since the services started", "yellow")
    lost = list(found.dead_lost.values())[SHOWN_REFUSED:]
    if lost:
        screen.say(
            f"{counted(sum(lost), 'dead letter')} of {counted(len(lost), 'other')} lost for want of room; --json has all",
            "yellow",
        )
    for archive in found.archives:
        oldest = "" if archive.oldest_waiting_seconds is None else f", the oldest for {archive.oldest_waiting_seconds:.0f} s"
        missed = f"; {archive.missed} frames were gone before they were archived" if archive.missed else ""
        to_come = counted(archive.waiting_events, "event")
        screen.say(f"archive of {archive.site}: {to_come} to come{oldest}{missed}", "yellow" if archive.missed else "dim")
    for run_id, what in found.runs.items():
        screen.say(f"run {run_id}: {what}; see: penstock runs show {run_id}", "yellow")
    if found.warnings:
        most = ", ".join(f"{reason} {count}" for reason, count in list(found.warnings.items())[:SHOWN_REFUSED])
        screen.say(f"warnings of the last hour: {most}; see: penstock warnings", "yellow")
    for service, why in found.not_answering.items():
        screen.say(f"{service} does not answer: {why}", "red")
    for part, why in found.problems.items():
        screen.say(f"{part}: {why}", "red")


def _row(each: ConnectionStatus) -> tuple[object, ...]:
    about = "~" if each.waiting_events_is_estimate else ""
    waiting = f"{about}{each.waiting_events}"
    more = [each.replayed, each.made] if each.made else [each.replayed] if each.replayed else []
    received = " + ".join(map(str, [each.received, *more])) if more else each.received
    oldest = "-" if each.oldest_waiting_seconds is None else f"{each.oldest_waiting_seconds:.0f} s"
    return (
        each.connection, Styled(each.state, STYLES.get(each.state, "red")), received, each.delivered, each.dropped,
        each.dead, waiting, oldest, shown(each.last_load_at),
    )  # fmt: skip
