"""`penstock status`."""

from __future__ import annotations

import asyncio
import time

import click
from rich.text import Text

from penstock import exits
from penstock.metrics import scrape_all
from penstock.moments import shown
from penstock.options import Setting, at_broker
from penstock.reach import open_broker
from penstock.screen import Screen
from penstock.status import ConnectionStatus, Status, read_status
from shared.config_snapshot import stored_project
from shared.project import Project, decode_project

STYLES = {"ok": "green", "idle": "green", "disabled": "dim", "catching up": "yellow"}


@click.command()
@click.option("--metrics", multiple=True, metavar="URL", help="Admin page of a service, for brokers elsewhere; repeatable.")
@at_broker
def status(setting: Setting, metrics: tuple[str, ...]) -> int:
    """Shows every connection in one line: what came, what went, what waits, and why it is not well.

    Received, delivered and dropped count from the start of the services; without a local stack or --metrics they are unknown.
    Exit code 1 if something needs a person.

    \b
    Example:
      penstock status --json
    """
    found = asyncio.run(_read(setting, metrics))
    setting.screen.result(found)
    _show(setting.screen, found)
    return exits.OK if found.healthy else exits.NO


async def _read(setting: Setting, metrics: tuple[str, ...]) -> Status:
    reach = setting.reach()
    local = [process.admin_url for process in reach.state.processes if process.admin_url] if reach.state else []
    async with open_broker(reach) as broker:
        stored = await stored_project(broker)
        project = decode_project(stored[1].resolved) if stored else Project()
        scrapes = await scrape_all(metrics or local)
        return await read_status(broker, project, stored[0] if stored else 0, scrapes, time.time())


def _show(screen: Screen, found: Status) -> None:
    if not found.connections:
        screen.say("no connection is applied; apply a project with: penstock apply FILE")
    else:
        columns = ("connection", "state", "received", "delivered", "dropped", "dead", "waiting", "oldest", "last load", "why")
        screen.table(columns, [_row(each) for each in found.connections])
    accepted = "" if found.edge_accepted is None else f"edge: {found.edge_accepted} events accepted, "
    screen.say(f"{accepted}{found.edge_dead} dead letters of the edge; project revision {found.revision}")
    for url, why in found.not_answering.items():
        screen.say(f"{url} does not answer: {why}", "red")
    for part, why in found.problems.items():
        screen.say(f"{part}: {why}", "red")


def _row(each: ConnectionStatus) -> tuple[object, ...]:
    about = "~" if each.waiting_events_is_estimate else ""
    waiting = f"{about}{each.waiting_events} in {each.waiting_frames} frames" if each.waiting_frames else "0"
    oldest = "-" if each.oldest_waiting_seconds is None else f"{each.oldest_waiting_seconds:.0f} s"
    dead = f"{'>=' if each.dead_is_lower_bound else ''}{each.dead}"
    return (
        each.connection, Text(each.state, STYLES.get(each.state, "red")), each.received, each.delivered, each.dropped, dead,
        waiting, oldest, shown(each.last_load_at), each.why,
    )  # fmt: skip
