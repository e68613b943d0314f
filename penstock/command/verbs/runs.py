"""`penstock rebuild` and `penstock runs`: work that takes long and outlives the command."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from penstock.control.reach import open_broker
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.streams.runs import OVER

if TYPE_CHECKING:
    from penstock.terminal.screen import Screen
    from shared.jetstream.broker import Broker
    from shared.streams.runs import Run

LOOK_SECONDS = 0.5


@click.command()
@click.argument("target")
@click.option(
    "--from",
    "source",
    type=click.Choice(["archive"]),
    default="archive",
    help="Where events come from that EVENTS has no longer.",
)
@click.option("--detach", is_flag=True, help="Do not watch the run; `penstock runs show` does.")
@at_broker
def rebuild(setting: Setting, target: str, source: str, detach: bool) -> int:  # noqa: ARG001  # there is one source
    """Loads all events of TARGET, a destination or a connection, again, after it was wiped.

    Events come from the archive, and from EVENTS where that has them still, in order and each once, also events that arrive meanwhile.
    Services do the work; the command only watches, and may end.

    A destination is wiped if its tables and its ledger are gone: the schema, or the file. If the ledger is there, rows are merged into
    what is there; a connection that appends is skipped, because it would get its rows twice, and the exit code is 1.

    \b
    Example:
      penstock rebuild wh --from archive
    """
    return asyncio.run(_rebuild(setting, target, detach=detach))


async def _rebuild(setting: Setting, target: str, *, detach: bool) -> int:
    from penstock.control.runs import rebuild as begin  # brings what --help does not need

    async with open_broker(setting.reach()) as broker:
        run = await begin(broker, target)
        if detach:
            setting.screen.say(f"run {run.id} begins; watch it with penstock runs show {run.id} --watch")
        else:
            setting.screen.note(f"run {run.id}; if you leave, it goes on, and penstock runs show {run.id} --watch looks again")
            run = await _watch(setting.screen, broker, run)
    _show(setting.screen, run)
    return exits.OK if run.state not in OVER or run.state == "done" else exits.NO


async def _watch(screen: Screen, broker: Broker, run: Run) -> Run:
    from penstock.control.runs import find_run

    said = len(run.log)
    with screen.progress(f"run {run.id}") as advance:
        while True:
            run = await find_run(broker, run.id)
            told = [text for _, text in run.log[said:]]
            said = len(run.log)
            advance(round(run.done_ratio * 1000), note=told[-1] if told else run.state, total=1000)
            if run.is_over:
                return run
            await asyncio.sleep(LOOK_SECONDS)


@click.group()
def runs() -> None:
    """Lists rebuilds, shows their progress and log, pauses, resumes and cancels them.

    Services carry a run on; the command that began it may end. While it is paused, its connections get nothing, also no new events: they wait.

    \b
    Example:
      penstock runs list
      penstock runs pause 3f2a9c01b7de
    """


@runs.command("list")
@at_broker
def list_(setting: Setting) -> int:
    """Lists runs, the newest first.

    \b
    Example:
      penstock runs list
    """
    found = asyncio.run(_list(setting))
    setting.screen.result(found)
    rows = [(run.id, run.kind, run.target, run.state, f"{run.done_ratio:.0%}", _time(run.created_at)) for run in reversed(found)]
    if rows:
        setting.screen.table(("run", "kind", "of", "state", "done", "begun"), rows)
    else:
        setting.screen.say("there are no runs")
    return exits.OK


async def _list(setting: Setting) -> list[Run]:
    from shared.streams.runs import read_runs

    async with open_broker(setting.reach()) as broker:
        return await read_runs(broker)


@runs.command()
@click.argument("run_id", metavar="RUN")
@click.option("--watch", is_flag=True, help="Stay until it has ended.")
@at_broker
def show(setting: Setting, run_id: str, watch: bool) -> int:
    """Shows a run: its connections, how far they are, and its log.

    \b
    Example:
      penstock runs show 3f2a9c01b7de --watch
    """
    run = asyncio.run(_look(setting, run_id, watch=watch))
    _show(setting.screen, run)
    return exits.OK if run.state not in OVER or run.state == "done" else exits.NO


async def _look(setting: Setting, run_id: str, *, watch: bool) -> Run:
    from penstock.control.runs import find_run

    async with open_broker(setting.reach()) as broker:
        run = await find_run(broker, run_id)
        return await _watch(setting.screen, broker, run) if watch else run


def _wishing(wish: str, words: str) -> None:
    """Adds a command that asks a run for something."""

    @runs.command(wish, help=f"{words}\n\n\b\nExample:\n  penstock runs {wish} 3f2a9c01b7de")
    @click.argument("run_id", metavar="RUN")
    @at_broker
    def ask(setting: Setting, run_id: str) -> int:
        return _want(setting, run_id, wish)


_wishing("pause", "Pauses a run until it is resumed.")
_wishing("resume", "Lets a paused run go on where it was.")
_wishing("cancel", "Ends a run: events that it has not sent stay out of the destination, and live ones go on.")


def _want(setting: Setting, run_id: str, wish: str) -> int:
    from penstock.control.runs import want

    async def ask() -> Run:
        async with open_broker(setting.reach()) as broker:
            return await want(broker, run_id, wish)

    run = asyncio.run(ask())
    setting.screen.result(run)
    if run.is_over:
        setting.screen.say(f"run {run.id} has ended: {run.state}", "yellow")
        return exits.NO
    setting.screen.say(f"run {run.id}: asked to {wish}", "green")
    return exits.OK


def _show(screen: Screen, run: Run) -> None:
    screen.result(run)
    nothing = "; nothing was loaded" if run.state == "skipped" else ""
    screen.say(f"run {run.id}: {run.kind} of {run.target}, {run.state}, {run.done_ratio:.0%} sent{nothing}")
    rows = [
        (name, part.state, f"{part.done_ratio:.0%}", f"{part.first} to {part.last}" if part.last else "-", part.chunks)
        for name, part in run.parts.items()
    ]
    screen.table(("connection", "state", "sent", "sequences", "chunks"), rows)
    for name, part in run.parts.items():
        if part.why:
            screen.say(f"{name}: {part.why}", "yellow")
    for at, text in run.log[-10:]:
        screen.say(f"{_time(at)}  {text}")


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
