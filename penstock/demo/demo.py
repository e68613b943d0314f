"""`penstock up --demo`: sends sample events through the public edge, and reads the fate of each from the warehouse.

It compares four counts: accepted by the edge, forwarded by the router, committed by the loader, rows in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from penstock.control.data.send import Sent, batches, send
from penstock.control.data.tables import TableLook, look_at_tables, sample_rows, telling_columns
from penstock.control.letters.letters import Filter, Group, Stored, find, group
from penstock.control.metrics import Scrape, scrape_all, total
from penstock.control.reach import local_reach, open_broker
from penstock.control.wording import cut
from penstock.demo.sample import EVENTS, sample_events
from penstock.stack.home import DEFAULT_HOME, StackState
from penstock.terminal.options import Setting
from penstock.terminal.screen import Screen, typed_command
from shared.errors import SetupError
from shared.project.model import Project
from shared.project.snapshot import current_snapshot
from shared.tasks import timeout

LOAD_SECONDS = 90.0
POLL_SECONDS = 0.25
DONE = ("loader_events_total", "loader_events_dropped_total", "loader_events_dead_total", "loader_events_repeated_total")
SHOWN_ROWS = 3
SHOWN_TABLES = ("order_completed", "events", "users")


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's findings, for --json."""

    sent: dict[str, Any]
    seconds_to_send: float
    seconds_to_load: float
    loaded: bool
    tables: list[TableLook]
    dead: list[Group]


async def show_demo(setting: Setting, state: StackState, count: int = EVENTS) -> DemoReport:
    """Sends the sample events, waits until they are loaded, and shows what arrived.

    Raises:
        SetupError: the project that runs has no site with an open key.
        NotConnected: the edge or the broker does not answer.
    """
    screen = setting.screen
    reach = local_reach(setting.home, state)
    admin = [process.admin_url for process in state.processes if process.admin_url]
    began = time.time()
    async with open_broker(reach) as broker:
        project = (await current_snapshot(broker)).project
    site, key = _open_key(project)
    before = await scrape_all(admin)
    sent, send_seconds = await _send(screen, state, key, count)
    names = [name for name, connection in project.connections.items() if connection.enabled and connection.site == site]
    loaded, load_seconds = await _wait(screen=screen, names=names, admin=admin, before=before, accepted=sent.accepted)
    async with open_broker(reach) as broker:
        dead = [stored async for stored in find(broker, Filter(since=began - 1))]
    report = DemoReport(
        sent=msgspec.to_builtins(sent),
        seconds_to_send=round(send_seconds, 2),
        seconds_to_load=round(load_seconds, 2),
        loaded=loaded,
        tables=await look_at_tables(project),
        dead=group(dead),
    )
    screen.result(report)
    await _show(screen, project, report, dead)
    _show_next_steps(screen, state, key)
    return report


def _open_key(project: Project) -> tuple[str, str]:
    """Returns a site and one of its keys without a secret."""
    for name, site in project.sites.items():
        for key in site.keys:
            if key.secret is None:
                return name, key.id
    raise SetupError("the demo needs a site with a key that has no secret; use --project examples/shop/penstock.yaml")


async def _send(screen: Screen, state: StackState, key: str, count: int) -> tuple[Sent, float]:
    run = f"demo-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    began = time.monotonic()
    with screen.progress("sending events", total=count) as advance:

        def progress(sent: Sent, note: str) -> None:
            advance(sent.events, note=note or f"{sent.accepted} accepted")

        sent = await send(state.ingest_url, key, batches(sample_events(count, run=run), 100), progress)
    return sent, time.monotonic() - began


async def _wait(
    screen: Screen, names: Sequence[str], admin: Sequence[str], before: Sequence[Scrape], accepted: int
) -> tuple[bool, float]:
    """Waits until every connection has ended every accepted event; returns whether it has, and after how long."""
    began = time.monotonic()
    with screen.progress("loading", total=accepted * len(names)) as advance, contextlib.suppress(TimeoutError):
        async with timeout(LOAD_SECONDS):
            while True:
                now = await scrape_all(admin)
                dealt = {name: _dealt_with(now, name) - _dealt_with(before, name) for name in names}
                advance(min(sum(dealt.values()), accepted * len(names)))
                if all(events >= accepted for events in dealt.values()):
                    return True, time.monotonic() - began
                await asyncio.sleep(POLL_SECONDS)
    return False, time.monotonic() - began


def _dealt_with(scrapes: Sequence[Scrape], connection: str) -> int:
    names = (*DONE, "router_events_dropped_total")
    return int(sum(total(scrapes, name, connection=connection) or 0 for name in names))


async def _show(screen: Screen, project: Project, report: DemoReport, dead: Sequence[Stored]) -> None:
    sent = report.sent
    screen.say("")
    screen.say(
        f"{sent['events']} events sent in {report.seconds_to_send} s: {sent['accepted']} accepted, "
        f"{sent['rejected']} kept as dead letters, {sent['refused']} refused (not JSON at all); "
        + (f"all loaded {report.seconds_to_load} s later" if report.loaded else "not all of them are loaded yet"),
        "bold",
    )
    rows = [(f"{each.schema}.{each.table}", each.rows, len(each.columns), _some(each.columns)) for each in report.tables]
    screen.table(("table", "rows", "columns", "some of them"), rows, title="What arrived", spare=("columns",))
    for look in report.tables:
        if look.table in SHOWN_TABLES:
            columns, found = await sample_rows(project, look, SHOWN_ROWS)
            title = f"{look.schema}.{look.table}, {SHOWN_ROWS} of {look.rows} rows"
            screen.table(columns, found, title=title, spare=columns[:1:-1])
    examples: dict[tuple[str, str], str] = {}
    for stored in dead:
        for index in stored.matching:
            letter = stored.letters[index]
            examples.setdefault((letter.stage, str(letter.reason)), letter.detail)
    screen.table(
        ("stage", "site or connection", "reason", "count", "for example"),
        [
            (each.stage, each.name, each.reason, each.count, cut(examples.get((each.stage, each.reason), ""), 90))
            for each in report.dead
        ],
        title="Dead letters: kept whole, with the reason",
        spare=("for example", "stage"),
    )


def _some(columns: Sequence[str]) -> str:
    telling = telling_columns(columns)[:6]
    return ", ".join(telling) + (", ..." if len(columns) > len(telling) else "")


def _show_next_steps(screen: Screen, state: StackState, key: str) -> None:
    screen.say("\nTry it", "bold")
    screen.say(
        f"  curl -u {key}: {state.ingest_url}/v1/track -H 'Content-Type: application/json' "
        """-d '{"event": "Hello", "anonymousId": "me", "properties": {"n": 1}}'"""
    )
    for command in ("status", "tail --follow", "dead list", "dead show ID", "history"):
        screen.say(f"  {typed_command()} {command}{_home_option(state)}")


def _home_option(state: StackState) -> str:
    return "" if Path(state.home) == Path(DEFAULT_HOME).absolute() else f" --home {os.path.relpath(state.home)}"
