"""`penstock catalog list | show | dbt | schema | types | plan`: which events and properties sites have sent."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from penstock.control.catalogue.forms import json_schemas, title_of, tracking_plan, typescript
from penstock.control.catalogue.read import Found, SeenEvent, read_catalogue
from penstock.control.reach import open_broker
from penstock.control.wording import counted, cut
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.errors import ConfigError, Problem
from shared.project.model import Project
from shared.project.snapshot import current_snapshot

SHOWN_SAMPLE = 30


@click.group()
def catalog() -> None:
    """Shows which events and properties sites have sent: how many, since when, with which types, by whom.

    Counts are exact. Properties, senders and the masked sample come from samples.

    \b
    Example:
      penstock catalog list
      penstock catalog plan --site shop > plans/shop.yaml
    """


def _of_site(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --site; the command gets the site and its events."""

    @click.option("--site", help="The site; default: the only one.")
    @functools.wraps(function)
    def wrapper(setting: Setting, site: str | None, **rest: Any) -> Any:
        found, project = asyncio.run(_read(setting, site))
        return function(setting, _chosen(found, project, site), project, **rest)

    return wrapper


@catalog.command("list")
@click.option("--site", help="Only this site.")
@at_broker
def list_events(setting: Setting, site: str | None) -> int:
    """Lists every event of every site, with its volume and who sends it.

    \b
    Example:
      penstock catalog list --site shop --json
    """
    found, _ = asyncio.run(_read(setting, site))
    setting.screen.result(found)
    if not found.events:
        setting.screen.say("no event was seen yet; the catalogue is written every few seconds")
        return exits.OK
    rows = [
        (
            each.site, each.type, each.event or "-", each.total, next(reversed(each.days.values()), 0), len(each.properties),
            _time(each.first_at), _time(each.last_at), ", ".join(each.keys) or "-",
        )
        for each in found.events
    ]  # fmt: skip
    columns = ("site", "type", "event", "events", "last day", "properties", "first (UTC)", "last (UTC)", "keys")
    setting.screen.table(columns, rows)
    for name, amount in found.others.items():
        setting.screen.say(f"{name}: {counted(amount, 'event')} of further names, which the catalogue does not hold", "yellow")
    return exits.OK


@catalog.command()
@click.argument("event")
@at_broker
@_of_site
def show(setting: Setting, events: Sequence[SeenEvent], _: Project, event: str) -> int:
    """Shows the properties of EVENT: the name of a track event, or a type such as `identify`.

    \b
    Example:
      penstock catalog show "Order Completed" --site shop
    """
    wanted = [each for each in events if title_of(each) == event]
    if not wanted:
        known = ", ".join(sorted(map(title_of, events))[:20]) or "none"
        raise ConfigError([Problem("EVENT", f"no event of the site is named {event!r}; known: {known}")])
    setting.screen.result(wanted[0])
    rows = [
        (
            each.path,
            " | ".join(each.types),
            f"{each.seen} of {wanted[0].sampled}",
            _time(each.last_at),
            cut(_shown(each.sample), SHOWN_SAMPLE),
        )
        for each in wanted[0].properties
    ]
    setting.screen.table(("property", "types", "in samples", "last (UTC)", "sample, masked"), rows)
    setting.screen.say(
        f"{counted(wanted[0].total, 'event')}; sent by {', '.join([*wanted[0].keys, *wanted[0].libraries]) or 'nobody known'}"
    )
    return exits.OK


@catalog.command()
@click.option("--connection", help="Whose tables; default: the first of the site that makes some.")
@at_broker
@_of_site
def dbt(setting: Setting, events: Sequence[SeenEvent], project: Project, connection: str | None) -> int:
    """Writes sources of dbt (YAML): the tables and columns that a connection makes of the events.

    \b
    Example:
      penstock catalog dbt --site shop > models/sources.yml
    """
    from penstock.control.catalogue.dbt import sources  # brings the loader with it

    site = events[0].site if events else ""
    return _write(setting, sources(project, events, site, connection))


@catalog.command()
@at_broker
@_of_site
def schema(setting: Setting, events: Sequence[SeenEvent], _: Project) -> int:
    """Writes a JSON Schema with one definition for each event.

    \b
    Example:
      penstock catalog schema --site shop > shop.schema.json
    """
    text = msgspec.json.format(msgspec.json.encode(json_schemas(events))).decode()
    return _print(setting, text + "\n", json_schemas(events))


@catalog.command()
@at_broker
@_of_site
def types(setting: Setting, events: Sequence[SeenEvent], _: Project) -> int:
    """Writes TypeScript types, one interface for each event.

    \b
    Example:
      penstock catalog types --site shop > src/events.ts
    """
    text = typescript(events)
    return _print(setting, text, {"typescript": text})


@catalog.command()
@at_broker
@_of_site
def plan(setting: Setting, events: Sequence[SeenEvent], _: Project) -> int:
    """Writes a tracking plan (YAML) to begin with: every event with the properties and types that were seen.

    \b
    Example:
      penstock catalog plan --site shop > plans/shop.yaml
    """
    return _write(setting, tracking_plan(events))


def _write(setting: Setting, document: dict[str, Any]) -> int:
    from shared.reading.document import write_document  # brings yaml

    return _print(setting, write_document(document), document)


def _print(setting: Setting, text: str, data: Any) -> int:
    if setting.screen.json:
        setting.screen.result(data)
    else:
        sys.stdout.write(text)
    return exits.OK


async def _read(setting: Setting, site: str | None) -> tuple[Found, Project]:
    async with open_broker(setting.reach()) as broker:
        return await read_catalogue(broker, site), (await current_snapshot(broker)).project


def _chosen(found: Found, project: Project, site: str | None) -> list[SeenEvent]:
    sites = sorted({each.site for each in found.events} | set(project.sites))
    if site is not None and site not in sites:
        raise ConfigError([Problem("--site", f"no site is named {site!r}; known: {', '.join(sites) or 'none'}")])
    if site is None and len(sites) != 1:
        raise ConfigError([Problem("--site", f"say which site: {', '.join(sites) or 'none was seen yet'}")])
    return found.events


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
