"""`penstock replay`: accepted events of a range, once more."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from loader import registry
from penstock.control.moments import Moment
from penstock.control.reach import open_broker
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_broker
from penstock.terminal.screen import Screen
from shared.errors import ConfigError, Problem, SetupError
from shared.project.model import Project
from shared.project.shards import connection_of_shard
from shared.project.snapshot import stored_project
from shared.reading.document import parse_yaml
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from router.replay.run import ReplayReport

Bound = datetime | int | None


@click.command()
@click.option("--site", required=True, help="Whose events.")
@click.option("--from", "start", type=Moment(), help="First time of acceptance: 2026-03-01T12:00:00Z, or 2h for how long ago.")
@click.option("--to", "end", type=Moment(), help="Last time of acceptance; default: now.")
@click.option("--from-seq", type=Integer(1), help="Or the first sequence of EVENTS.")
@click.option("--to-seq", type=Integer(1), help="The last sequence.")
@click.option("--connection", help="Only to this connection; default: all of the site.")
@click.option("--where", help="Further conditions, as in the project file: '{field: type, eq: track}'.")
@click.option(
    "--lost",
    is_flag=True,
    help="Instead of a range: what the archive has of an EVENTS stream that was lost, and destinations lack.",
)
@click.option("--dry-run", is_flag=True, help="Count what would be sent, send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask about connections that append.")
@click.option("--id", "replay_id", help="Name of the replay. An interrupted replay goes on under its id without repeats.")
@at_broker
def replay(
    setting: Setting,
    site: str,
    start: float | None,
    end: float | None,
    from_seq: int | None,
    to_seq: int | None,
    connection: str | None,
    where: str | None,
    lost: bool,
    dry_run: bool,
    yes: bool,
    replay_id: str | None,
) -> int:
    """Reads a site's events from EVENTS, older ones from the archive, and sends them to the site's connections again, by their present rules.

    Rows are loaded again. A connection that merges on the message id replaces existing rows; a connection that appends doubles
    them, so the command names it and asks first.

    With --lost it sends what a broker took with it whose disk was lost: each connection gets the archived events behind the last one that its
    destination has, once. Begun again, it repeats nothing.

    \b
    Examples:
      penstock replay --site shop --from 2h --connection shop-wh --dry-run
      penstock replay --site shop --lost
    """
    if lost:
        return _lost(
            setting, site, connection, dry_run=dry_run, agreed=yes, others=(start, end, from_seq, to_seq, where, replay_id)
        )
    if (start is not None and from_seq is not None) or (end is not None and to_seq is not None):
        raise click.UsageError("a range begins at a time or at a sequence, and ends likewise: not both")
    if start is None and from_seq is None:
        raise click.UsageError("say where the range begins: --from or --from-seq")
    for name, first, last in (("", start, end), ("-seq", from_seq, to_seq)):
        if first is not None and last is not None and first > last:
            raise click.UsageError(f"--from{name} is after --to{name}: the range is empty")
    replay_id = replay_id or uuid.uuid4().hex[:12]
    bounds = (_bound(start, from_seq), _bound(end, to_seq))
    try:
        report = asyncio.run(
            _replay(
                setting=setting,
                site=site,
                bounds=bounds,
                replay_id=replay_id,
                connection=connection,
                where=_conditions(where),
                dry_run=dry_run,
                agreed=yes,
            )
        )
    except (KeyboardInterrupt, click.Abort):
        setting.screen.note(
            f"interrupted; it goes on without repeats as {range_options(*bounds)} --id {replay_id}, all else as before"
        )
        return exits.INTERRUPTED
    setting.screen.result(report)
    _show(setting.screen, report)
    return exits.NO if report.unreadable else exits.OK


def _lost(setting: Setting, site: str, connection: str | None, *, dry_run: bool, agreed: bool, others: Sequence[object]) -> int:
    from penstock.command.lost import replay_lost

    if any(each is not None for each in others):
        raise click.UsageError("--lost finds its range itself: leave out --from, --to, --from-seq, --to-seq, --where and --id")

    def agree(project: Project) -> None:
        _agree(setting.screen, appending(project, site, connection), dry_run=dry_run, agreed=agreed)

    reports = asyncio.run(replay_lost(setting, site, connection, dry_run=dry_run, agree=agree))
    setting.screen.result(reports)
    for report in reports:
        _show(setting.screen, report)
    return exits.NO if any(report.unreadable for report in reports) else exits.OK


async def _replay(
    setting: Setting,
    site: str,
    bounds: tuple[Bound, Bound],
    replay_id: str,
    connection: str | None,
    where: object,
    *,
    dry_run: bool,
    agreed: bool,
) -> ReplayReport:
    from penstock.control.archives import options_of
    from router.archive.older import Older
    from router.replay.run import replay as replay_range  # brings the router with it, which --help does not need
    from shared.archive.note import read_notes

    gate = ThreadGate(2, "replay")
    async with open_broker(setting.reach()) as broker:
        stored = await stored_project(broker)
        if stored is None:
            raise SetupError("no project was applied yet; apply one with `penstock apply FILE`")
        config = stored[1].snapshot(stored[0])
        _agree(setting.screen, appending(config.project, site, connection), dry_run=dry_run, agreed=agreed)
        with setting.screen.progress("reading frames" if dry_run else "replaying frames") as advance:

            def progress(report: ReplayReport) -> None:
                advance(report.frames, note=f"{report.events} events", total=report.frames + report.left)

            archives = options_of(config.project, await read_notes(broker))
            try:
                return await replay_range(
                    broker, config, site, *bounds,
                    replay_id=replay_id, connection=connection, where=where, dry_run=dry_run, progress=progress,
                    older=Older(gate, lambda: archives),
                )  # fmt: skip
            finally:
                gate.close()


def range_options(start: Bound, end: Bound) -> str:
    """Returns options that give this range at any time; `--from 2h` is another range a minute later."""
    texts = []
    for name, bound in (("from", start), ("to", end)):
        if isinstance(bound, int):
            texts.append(f"--{name}-seq {bound}")
        elif bound is not None:
            texts.append(f"--{name} {bound:%Y-%m-%dT%H:%M:%S.%fZ}")
    return " ".join(texts)


def appending(project: Project, site: str, connection: str | None) -> list[str]:
    """Returns the connections of a replay whose tables or files would hold its rows twice."""
    return [
        name
        for name, each in project.connections.items()
        if each.site == site
        and each.enabled
        and connection in (None, name, connection_of_shard(name))
        and not (each.deduplicate and registry.plugin(project.destinations[each.destination]["type"]).CAPABILITIES.merge != "no")
    ]


def _agree(screen: Screen, names: list[str], *, dry_run: bool, agreed: bool) -> None:
    if not names:
        return
    text = f"rows that are loaded already are doubled by {', '.join(names)}, which append{'s' if len(names) == 1 else ''}"
    if dry_run or agreed:
        screen.note(f"warning: {text}", "yellow")
        return
    if not screen.is_terminal or screen.json:
        raise click.UsageError(f"{text}; say --yes to agree, or name another --connection")
    screen.say(text, "yellow")
    screen.agree("replay?", "nothing was sent")


def _bound(moment: float | None, seq: int | None) -> Bound:
    return seq if moment is None else datetime.fromtimestamp(moment, UTC)


def _conditions(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return parse_yaml(text, "--where")
    except ConfigError as exc:
        raise ConfigError([*exc.problems, Problem("--where", "expected conditions such as '{field: type, eq: track}'")]) from exc


def _show(screen: Screen, report: ReplayReport) -> None:
    if not report.frames:
        screen.say("neither EVENTS nor the archive keeps a frame of the site in this range")
        return
    verb = "would be sent" if report.dry_run else "sent"
    screen.say(f"{report.events} events in {report.frames} frames read, sequences {report.first_seq} to {report.last_seq}")
    rows = [
        (name, sent.events, sent.frames, ", ".join(f"{count} {reason}" for reason, count in sent.dropped.items()) or "-")
        for name, sent in report.connections.items()
    ]
    screen.table(("connection", f"events {verb}", "frames", "left out"), rows)
    if report.unreadable:
        screen.say(f"{report.unreadable} frames could not be read; they are in the dead letters", "yellow")
    if report.window_shortened:
        screen.say("the range holds more ids than are remembered: repeats far apart may have been sent twice", "yellow")
    if not report.dry_run:
        screen.say(f"replay {report.replay}: loaders take it from here; see penstock status")
