"""`penstock forget`: a person's events are left out from now on, and what is stored of the person is removed."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO

import click

from penstock.control.forgetting import forget as ask_to_forget
from penstock.control.forgetting import release, settled
from penstock.control.reach import open_broker
from penstock.control.wording import counted
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from penstock.terminal.screen import Screen
from shared.forget.requests import Receipt, read_receipts
from shared.jetstream.broker import Broker


@click.command()
@click.option("--user", "users", multiple=True, metavar="ID", help="A `userId` of the person; may be given several times.")
@click.option("--anonymous", multiple=True, metavar="ID", help="An `anonymousId` of the person.")
@click.option("--group", "groups", multiple=True, metavar="ID", help="A `groupId`: all events and rows that name the group.")
@click.option(
    "--ids",
    "file",
    type=click.File("r", encoding="utf-8"),
    help="A file with an id in each line, of any kind; `-`: standard input. "
    "Ids in arguments are seen by everybody who may list processes of this machine.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME",
    help="A further column of tables that holds these ids or names, such as `email`; may be given several times.",
)
@click.option("--verify", is_flag=True, help="Remove nothing: read everything again, and list what is left.")
@click.option(
    "--purge-events", is_flag=True, help="Remove frames of EVENTS that hold events of the person, and their neighbours in them."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Ask the services, and do not wait for the receipt.")
@click.option("--list", "listed", is_flag=True, help="List all requests and what became of them.")
@click.option("--receipt", metavar="REQUEST", help="Show the receipt of a request; waits for its end.")
@click.option("--release", "released", metavar="REQUEST", help="Let events of its ids pass again from now on.")
@at_broker
def forget(
    setting: Setting,
    users: tuple[str, ...],
    anonymous: tuple[str, ...],
    groups: tuple[str, ...],
    file: IO[str] | None,
    columns: tuple[str, ...],
    verify: bool,
    purge_events: bool,
    yes: bool,
    no_wait: bool,
    listed: bool,
    receipt: str | None,
    released: str | None,
) -> int:
    """Forgets a person. Events of the ids are left out from now on, within seconds. Then services remove what is stored: rows in
    databases, dead letters, lines of functions, the memory of functions and identity. The receipt says what, where, how many and when.

    The command may end: the services go on, and --receipt shows how far they are.

    \b
    Example:
      penstock forget --user u-17 --anonymous 5c1e --json > receipt.json
      penstock forget --user u-17 --anonymous 5c1e --verify
    """
    screen = setting.screen
    names = [*users, *anonymous, *groups, *(line.rstrip("\r\n") for line in file or ())]
    if sum((bool(names), listed, receipt is not None, released is not None)) != 1:
        raise click.UsageError("name a person with --user, --anonymous, --group or --ids; or say --list, --receipt or --release")
    if names and purge_events and not verify:
        screen.note("warning: frames of EVENTS also hold events of others; these can no longer be replayed from EVENTS", "yellow")
    if names and not verify and not yes and screen.is_terminal and not screen.json:
        screen.say(f"rows, dead letters and memory of {counted(len(names), 'id')} are removed; this cannot be undone", "yellow")
        screen.agree("forget?", "nothing was removed")
    return asyncio.run(
        _run(
            setting=setting,
            names=names,
            columns=columns,
            verify=verify,
            purge_events=purge_events,
            wait=not no_wait,
            receipt=receipt,
            released=released,
        )
    )


async def _run(
    *,
    setting: Setting,
    names: list[str],
    columns: Sequence[str],
    verify: bool,
    purge_events: bool,
    wait: bool,
    receipt: str | None,
    released: str | None,
) -> int:
    screen = setting.screen
    async with open_broker(setting.reach()) as broker:
        if released is not None:
            found = await release(broker, released)
            screen.result(found)
            screen.say(f"events of the {counted(len(found.digests), 'id')} of request {released} pass again")
            return exits.OK
        if not names and receipt is None:
            return _show_all(screen, await read_receipts(broker))
        if receipt is not None:
            requests = [receipt]
        else:
            asked = await ask_to_forget(
                broker, names, by=getpass.getuser(), verify=verify, purge_events=purge_events, columns=columns
            )
            requests = [each.request for each in asked]
            told = "" if verify else "; events of these ids are left out from now on"
            screen.note(f"request {' '.join(requests)}{told}")
            if not wait:
                screen.result(asked[0] if len(asked) == 1 else asked)
                return exits.OK
        done = [await _wait(screen, broker, each, "services look" if verify else "services forget") for each in requests]
    screen.result(done[0] if len(done) == 1 else done)
    for each in done:
        _show(screen, each)
    return exits.NO if any(each.verify and each.left for each in done) else exits.OK


async def _wait(screen: Screen, broker: Broker, request: str, what: str) -> Receipt:
    with screen.progress(what) as advance:

        def told(now: Receipt) -> None:
            waits = [place.where for place in now.places if place.left and place.where.startswith("queue")]
            later = [f"{place.where}: {place.note}" for place in now.places if place.note.startswith("not ")]
            trouble = next((part.trouble for part in now.parts.values() if part.trouble), "")
            said = trouble or next(iter(later), "")
            advance(len(now.places), note=said or (f"waits for {waits[0]}" if waits and now.state == "waiting" else now.state))

        return await settled(broker, request, told)


def _show(screen: Screen, receipt: Receipt) -> None:
    rows = [
        (place.where, place.found, "-" if receipt.verify or not place.covered else place.removed, place.left, place.note or "-")
        for place in receipt.places
    ]
    if rows:
        screen.table(("where", "found", "removed", "left", "note"), rows)
    if receipt.verify:
        screen.say(
            "nothing is left" if not receipt.left else f"{counted(receipt.left, 'trace')} left",
            "" if not receipt.left else "yellow",
        )
    screen.say(f"request {receipt.request}, asked at {_time(receipt.asked_at)}, done at {_time(receipt.ended_at)}")


def _show_all(screen: Screen, receipts: list[Receipt]) -> int:
    screen.result(receipts)
    if not receipts:
        screen.say("nobody was forgotten yet")
        return exits.OK
    rows = [
        (
            each.request, "look" if each.verify else "forget", _time(each.asked_at), each.by, len(each.digests), each.state,
            sum(place.removed for place in each.places), each.left,
        )
        for each in receipts
    ]  # fmt: skip
    screen.table(("request", "what", "asked at", "by", "ids", "state", "removed", "left"), rows)
    return exits.OK


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}" if seconds else "-"
