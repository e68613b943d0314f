"""`penstock suppress add | remove | list | check`: events of people are left out from now on, and nothing is removed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

import click

from penstock.control.reach import open_broker
from penstock.control.suppressing import Checked, Suppressed, add, check, entries, remove
from penstock.control.wording import counted
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker

SHOWN = 100


@click.group()
def suppress() -> None:
    """Leaves out the events of people from now on, at every service, within seconds. What is stored of them stays: `penstock forget`
    removes it too.

    An id is a userId or an anonymousId, the previousId of an alias, or the groupId of a group.

    \b
    Example:
      penstock suppress add u-17 5c1e
      penstock suppress check u-17
      penstock suppress remove u-17
    """


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the ids; the command gets them as `names`."""

    @click.argument("ids", nargs=-1)
    @click.option(
        "--ids",
        "file",
        type=click.File("r", encoding="utf-8"),
        help="A file with an id in each line; `-`: standard input. Ids in arguments are seen by everybody who may list processes.",
    )
    @functools.wraps(function)
    def wrapper(setting: Setting, ids: tuple[str, ...], file: IO[str] | None, **rest: Any) -> Any:
        return function(setting, [*ids, *(line.rstrip("\r\n") for line in file or ())], **rest)

    return wrapper


@suppress.command("add")
@at_broker
@_named
def add_ids(setting: Setting, names: list[str]) -> int:
    """Puts IDS on the list. Doing it twice changes nothing.

    \b
    Example:
      penstock suppress add u-17 5c1e
      penstock suppress add --ids people.txt
    """

    async def put() -> int:
        async with open_broker(setting.reach()) as broker:
            return await add(broker, names)

    count = asyncio.run(put())
    setting.screen.result({"added": count})
    setting.screen.say(f"{counted(count, 'id')} on the list; services leave out their events within a second", "green")
    return exits.OK


@suppress.command("remove")
@click.option("--digest", "digests", multiple=True, metavar="DIGEST", help="An entry as `penstock suppress list` shows it.")
@at_broker
@_named
def remove_ids(setting: Setting, names: list[str], digests: tuple[str, ...]) -> int:
    """Takes IDS off the list, also when `penstock forget` put them there: their events pass from now on.

    \b
    Example:
      penstock suppress remove u-17
    """
    if not names and not digests:
        raise click.UsageError("name ids, a file of them with --ids, or an entry with --digest")

    async def take() -> int:
        async with open_broker(setting.reach()) as broker:
            return await remove(broker, names, digests)

    count = asyncio.run(take())
    setting.screen.result({"removed": count})
    setting.screen.say(
        f"{counted(count, 'id')} off the list" if count else "none of them was on the list", "green" if count else "yellow"
    )
    return exits.OK if count else exits.NO


@suppress.command("list")
@at_broker
def list_ids(setting: Setting) -> int:
    """Lists the entries, the oldest first. The list holds digests and no ids: `penstock suppress check` finds an id.

    \b
    Example:
      penstock suppress list
    """

    async def read() -> list[Suppressed]:
        async with open_broker(setting.reach()) as broker:
            return await entries(broker)

    found = asyncio.run(read())
    setting.screen.result(found)
    if not found:
        setting.screen.say("nobody is suppressed")
        return exits.OK
    setting.screen.table(("digest", "since", "by"), [(each.digest, _time(each.at), each.by) for each in found[-SHOWN:]])
    setting.screen.say(
        counted(len(found), "id") + (f", the last {SHOWN} are shown; --json has all" if len(found) > SHOWN else "")
    )
    return exits.OK


@suppress.command("check")
@at_broker
@_named
def check_ids(setting: Setting, names: list[str]) -> int:
    """Says of each of IDS whether it is on the list. Exit code 1 if one is not.

    \b
    Example:
      penstock suppress check u-17
    """

    async def ask() -> list[Checked]:
        async with open_broker(setting.reach()) as broker:
            return await check(broker, names)

    if not names:
        raise click.UsageError("name ids, or a file of them with --ids")
    found = asyncio.run(ask())
    setting.screen.result(found)
    for each in found:
        since = f"suppressed since {_time(each.at)}, by {each.by}" if each.suppressed else "not suppressed"
        setting.screen.say(f"{each.id}: {since}")
    return exits.OK if all(each.suppressed for each in found) else exits.NO


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
