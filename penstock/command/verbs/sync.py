"""`penstock sync`: runs of the syncs of the applied project."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.command.dotenv import with_dotenv
from penstock.command.synced import show_syncs
from penstock.control.project.projects import DEFAULT_FILE, read_document
from penstock.control.reach import local_environment, open_broker
from penstock.control.wording import counted
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_broker, at_home
from penstock.terminal.screen import Styled

if TYPE_CHECKING:
    from shared.syncs.records import RunRecord

_streams = click.option("--stream", "streams", multiple=True, help="Only this stream; may be given several times.")
_wait = click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
CODES = {
    "succeeded": exits.OK, "partial": exits.PARTIAL, "failed": exits.NO, "cancelled": exits.CANCELLED, "timed_out": exits.TIMED_OUT,
}  # fmt: skip
"""Exit codes by the end of a run."""
STREAM_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}


@click.group()
def sync() -> None:
    """Run syncs, look at their runs, cancel, reset; write a sync into the project file."""


@sync.command("list")
@at_broker
def list_(setting: Setting) -> int:
    """Lists the syncs of the applied project with their newest runs.

    \b
    Example:
      penstock sync list
    """
    from penstock.control.syncs.runs import Known, list_syncs

    async def look() -> list[Known]:
        async with open_broker(setting.reach()) as broker:
            return await list_syncs(broker)

    found = asyncio.run(look())
    setting.screen.result(found)
    if not found:
        setting.screen.say("the applied project has no syncs; write one with `penstock sync init`")
        return exits.OK
    show_syncs(setting.screen, [each.status for each in found])
    return exits.OK


@sync.command()
@click.argument("name")
@_streams
@_wait
@at_broker
def run(setting: Setting, name: str, streams: tuple[str, ...], no_wait: bool) -> int:
    """Runs sync NAME now, and shows how each stream goes on, until the end. Ctrl-C only ends the showing.

    If a run goes on already, this one begins after it. Exit codes: 0 it succeeded, 6 some streams failed, 1 it failed, 7 it was cancelled,
    8 it took longer than `timeout`.

    \b
    Example:
      penstock sync run crm-wh
    """
    return _run(setting, name, streams, afresh=False, no_wait=no_wait)


@sync.command()
@click.argument("name")
@_streams
@_wait
@at_broker
def backfill(setting: Setting, name: str, streams: tuple[str, ...], no_wait: bool) -> int:
    """Reads all rows of sync NAME again from the beginning, into the tables that are there.

    Rows that merge on a key replace the stored ones; rows that are appended come a second time.

    \b
    Example:
      penstock sync backfill crm-wh --stream users
    """
    return _run(setting, name, streams, afresh=True, no_wait=no_wait)


@sync.command()
@click.argument("name")
@click.option("--run", "number", type=Integer(1), help="Number of the run; default: the newest.")
@at_broker
def logs(setting: Setting, name: str, number: int | None) -> int:
    """Shows the runs of sync NAME, and what the connector said in the newest.

    \b
    Example:
      penstock sync logs crm-wh --run 12
    """
    from penstock.control.syncs.runs import log_of_run, runs_of
    from shared.syncs.records import Log

    async def look() -> tuple[list[RunRecord], int, Log | None]:
        async with open_broker(setting.reach()) as broker:
            return (await runs_of(broker, name), *await log_of_run(broker, name, number))

    runs, shown, log = asyncio.run(look())
    setting.screen.result({"runs": runs, "run": shown, "log": log})
    if number is None:
        rows = [
            (each.number, each.status, _time(each.began), f"{each.seconds:.1f} s", each.rows, each.filtered or "", each.error)
            for each in runs
        ]
        setting.screen.table(("run", "status", "began, UTC", "took", "rows", "filtered", "error"), rows)
    if log is None:
        asked = next((each.rows or each.streams for each in runs if each.number == shown), True)
        none = (
            f"the log of run {shown} is not kept any more"
            if asked
            else f"run {shown} ended before it asked for rows: it has no log"
        )
        setting.screen.note(none)
        return exits.OK
    if log.left_out:
        setting.screen.note(f"{counted(log.left_out, 'line')} before these had no room")
    for line in log.lines:
        setting.screen.say(f"{_time(line.at)}  {line.level:5}  {line.text}")
    return exits.OK


@sync.command()
@click.argument("name")
@at_broker
def cancel(setting: Setting, name: str) -> int:
    """Ends the run of sync NAME that goes on; what was read until then is loaded.

    \b
    Example:
      penstock sync cancel crm-wh
    """
    from penstock.control.syncs.runs import ask_for, known_sync

    async def do() -> bool:
        async with open_broker(setting.reach()) as broker:
            newest = (await known_sync(broker, name)).newest
            if newest is None or not newest.is_open:
                return False
            await ask_for(broker, name, "cancel")
            return True

    asked = asyncio.run(do())
    setting.screen.result({"sync": name, "cancelled": asked})
    setting.screen.say(f"the run of {name} ends" if asked else f"no run of {name} goes on", "green" if asked else "yellow")
    return exits.OK if asked else exits.NO


@sync.command()
@click.argument("name")
@_streams
@click.option("--yes", is_flag=True, help="Do not ask.")
@at_broker
def reset(setting: Setting, name: str, streams: tuple[str, ...], yes: bool) -> int:
    """Forgets how far sync NAME has read, so that its next run reads all rows. The tables stay as they are.

    \b
    Example:
      penstock sync reset crm-wh --stream users
    """
    from penstock.control.syncs.runs import ask_for

    if not yes:
        setting.screen.agree(f"the next run of {name} reads {', '.join(streams) or 'all streams'} from the beginning.", "--yes")

    async def do() -> None:
        async with open_broker(setting.reach()) as broker:
            await ask_for(broker, name, "reset", streams)

    asyncio.run(do())
    setting.screen.result({"sync": name, "reset": list(streams)})
    setting.screen.say(f"the next run of {name} reads from the beginning", "green")
    return exits.OK


@sync.command()
@click.argument("connector")
@click.argument("destination")
@click.option("--name", help="Name of the sync; default: both names.")
@click.option("--schedule", default="", help="`every 15m`, or five fields of cron; default: only when a person says so.")
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_FILE, show_default=True, help="The project file."
)
@at_home
def init(setting: Setting, connector: str, destination: str, name: str | None, schedule: str, file: Path) -> int:
    """Asks CONNECTOR for its streams, and writes a sync of them into DESTINATION into the project file.

    \b
    Example:
      penstock sync init crm wh --schedule 'every 1h'
    """
    from penstock.control.connectors.asked import ask_streams, connector_of
    from penstock.control.syncs.written import add_sync, free_prefix, sync_text
    from shared.errors import ConfigError, Problem
    from shared.reading.decode import meant
    from shared.syncs.schedule import Schedule

    document = read_document(file)
    known = document.get("destinations") or {}
    if destination not in known:
        hint = f"known: {', '.join(known) or 'none'}"
        raise ConfigError(
            [Problem("destinations", f"no destination is named {destination!r};{meant(destination, known)} {hint}")]
        )
    try:
        Schedule(schedule)
    except ValueError as exc:
        raise ConfigError([Problem("--schedule", str(exc))]) from exc
    name = name or f"{connector}-{destination}"
    entry = connector_of(document, connector, file.parent, with_dotenv(local_environment(setting.home), file.parent))
    cache = Path(os.path.abspath(setting.home.folder)) / "connectors"
    streams = asyncio.run(ask_streams(connector, entry, cache, lambda _: None))
    prefix = free_prefix(document, name, connector=connector, destination=destination, streams=streams)
    text = sync_text(name, connector=connector, destination=destination, schedule=schedule, streams=streams, prefix=prefix)
    add_sync(file, text, name)
    setting.screen.result({"sync": name, "file": str(file), "streams": [str(each.known_as) for each in streams]})
    setting.screen.say(text.rstrip())
    if prefix:
        setting.screen.note(
            f"another sync fills tables of these names in {destination}; the new ones begin with {prefix}", "yellow"
        )
    setting.screen.say(f"written into {file}; `penstock apply {file}` makes it run", "green")
    return exits.OK


def _run(setting: Setting, name: str, streams: tuple[str, ...], *, afresh: bool, no_wait: bool) -> int:
    from penstock.command.followed import followed, sum_of
    from penstock.control.syncs.runs import ask_for, follow_run, known_sync

    asked = False

    async def do() -> RunRecord | None:
        nonlocal asked
        async with open_broker(setting.reach()) as broker:
            newest = (await known_sync(broker, name)).newest
            if newest is not None and newest.status == "running":
                setting.screen.note(
                    f"run {newest.number} of {name} goes on since {_time(newest.began)}; the one you ask for begins after it",
                    "yellow",
                )
            wanted = await ask_for(broker, name, "run", streams, afresh=afresh)
            asked = True
            if no_wait:
                return None
            with followed(setting.screen, name) as seen:
                return await follow_run(broker, name, wanted, seen)

    try:
        record = asyncio.run(do())
    except KeyboardInterrupt:
        if asked:
            setting.screen.note(
                f"the run of {name} goes on; to look at it: penstock sync list; to end it: penstock sync cancel {name}", "yellow"
            )
        return exits.INTERRUPTED
    if record is None:
        setting.screen.result({"sync": name, "asked": True})
        setting.screen.say(f"a run of {name} is asked for", "green")
        return exits.OK
    setting.screen.result(record)
    rows = [
        (
            stream,
            Styled(of.status, STREAM_STYLES.get(of.status, "")),
            of.rows,
            of.filtered or "",
            of.loaded,
            of.dead,
            f"{of.table} ({of.write})",
            of.error,
        )
        for stream, of in record.streams.items()
    ]
    if rows:
        setting.screen.table(("stream", "status", "read", "filtered", "loaded", "dead", "table", "error"), rows)
    setting.screen.say(sum_of(record), "green" if record.status == "succeeded" else "red")
    if record.status != "succeeded":
        setting.screen.say(f"what the connector said: penstock sync logs {name} --run {record.number}", "dim")
    return CODES.get(record.status, exits.NO)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
