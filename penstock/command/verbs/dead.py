"""`penstock dead list | show | replay | export | purge`."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from penstock.control.letters.forms import as_json, as_line, body_of, pretty
from penstock.control.letters.letters import Filter, Group, Groups, Seen, fetch_letter, find, parse_ids, remove_all
from penstock.control.letters.outcomes import Outcome, told
from penstock.control.moments import Moment
from penstock.control.reach import open_broker
from penstock.control.wording import cut
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_broker
from shared.errors import SetupError
from shared.events.dead import DeadLetter
from shared.events.outcome import DeadReason
from shared.project.problems import are_wanted
from shared.project.snapshot import current_snapshot
from shared.reading.moments import shown

SHOWN = 20
SHOWN_DETAIL = 100
"""Characters of a detail that the list shows; `dead show` has all of it."""
STAGES = ("ingest", "feeds", "router", "functions", "loader")


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the filter options; the command gets a `Filter` as `wanted`."""

    @click.option("--connection", help="Only letters of this connection.")
    @click.option("--site", help="Only letters of this site.")
    @click.option("--stage", type=click.Choice(STAGES), help="Only letters of this stage.")
    @click.option(
        "--reason",
        type=click.Choice([str(reason) for reason in DeadReason]),
        metavar="REASON",
        help="Only letters with this reason (docs/reasons.md).",
    )
    @click.option("--since", type=Moment(), help="Only letters since then: 2026-03-01T12:00:00Z, or 15m for how long ago.")
    @click.option("--until", type=Moment(), help="Only letters until then.")
    @click.option(
        "--where", help="Only letters whose event meets conditions, as in the project file: '{field: event, eq: Paid}'."
    )
    @functools.wraps(function)
    def wrapper(
        setting: Setting,
        connection: str | None,
        site: str | None,
        stage: str | None,
        reason: str | None,
        since: float | None,
        until: float | None,
        where: str | None,
        ids: tuple[str, ...] = (),
        **rest: Any,
    ) -> Any:
        if since is not None and until is not None and until < since:
            raise click.UsageError("--until is before --since, so no letter can match")
        wanted = Filter(
            ids=parse_ids(ids), connection=connection, site=site, stage=stage, reason=reason, since=since, until=until,
            meets=_conditions(where),
        )  # fmt: skip
        return function(setting, wanted=wanted, **rest)

    return wrapper


def _conditions(where: str | None) -> Callable[[DeadLetter], bool] | None:
    if where is None:
        return None
    from penstock.control.letters.conditions import compile_conditions  # brings the rules of routing with it
    from shared.reading.document import parse_yaml

    return compile_conditions(parse_yaml(where, "--where"))


@click.group()
def dead() -> None:
    """Events that could not be processed: kept whole with the reason, until they are replayed, purged or a month old."""


@dead.command("list", short_help="Count dead letters, and show the newest.")
@click.option("--limit", type=Integer(0, 100_000), default=SHOWN, show_default=True, help="Letters to show, newest.")
@at_broker
@_filtered
def list_(setting: Setting, wanted: Filter, limit: int) -> int:
    """Counts dead letters by stage, connection or site, and reason, and shows the newest.

    \b
    Example:
      penstock dead list --connection shop-wh --since 1h
    """
    groups, newest = asyncio.run(_look(setting, wanted, limit))
    setting.screen.result(
        {
            "total": groups.total,
            "groups": groups.largest_first(),
            "letters": [as_json(letter_id, letter) for letter_id, letter in newest],
        }
    )
    if not groups.total:
        setting.screen.say("no dead letter matches" if _is_narrow(wanted) else "no dead letters")
        return exits.OK
    _show_groups(setting, groups.largest_first())
    rows = [
        (
            letter_id,
            shown(each.at),
            each.stage,
            each.connection or each.site,
            str(each.reason),
            each.event or each.type,
            cut(each.detail, SHOWN_DETAIL),
        )
        for letter_id, each in newest
    ]
    if rows:
        columns = ("id", "at (UTC)", "stage", "connection/site", "reason", "event", "detail")
        setting.screen.table(
            columns, rows, title=f"The newest {len(rows)} of {groups.total}", spare=("stage", "event", "at (UTC)")
        )
    return exits.OK


@dead.command(short_help="Show one dead letter whole.")
@click.argument("letter", metavar="ID")
@at_broker
def show(setting: Setting, letter: str) -> int:
    """Shows one dead letter: the reason, where it came from, and the original bytes.

    \b
    Example:
      penstock dead show 17.0
    """
    (checked,) = parse_ids([letter])
    each = asyncio.run(_fetch(setting, checked))
    if each is None:
        raise SetupError(f"{_gone(f'dead letter {letter}')}. See: penstock dead list")
    setting.screen.result({**as_json(letter, each), **body_of(each)})
    reason = str(each.reason)
    meaning = DeadReason(reason).meaning if reason in list(DeadReason) else ""
    advice = DeadReason(reason).advice if reason in list(DeadReason) else ""
    for name, value in (
        ("reason", f"{reason}: {meaning}" if meaning else reason), ("detail", each.detail), ("what to do", advice), ("stage", each.stage),
        ("site", each.site), ("connection", each.connection), ("table", each.table), ("at", f"{shown(each.at)} UTC"),
        ("origin", each.origin), ("messageId", each.message_id), ("key", each.request.key if each.request else None),
    ):  # fmt: skip
        if value:
            setting.screen.say(f"{name:<11} {value}")
    if not setting.screen.json:
        setting.screen.say("\noriginal bytes:")
        text = body_of(each).get("body")
        if text is None:
            setting.screen.say(repr(each.body))
        else:
            setting.screen.source(pretty(text) if setting.screen.out.is_terminal else text, "json")
    return exits.OK


@dead.command(short_help="Replay dead letters.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All letters; otherwise name ids or a filter.")
@click.option(
    "--into", type=click.Choice(["stage", "start"]), default="stage", show_default=True,
    help="stage: where they failed. start: through routing again, to all connections of the site.",
)  # fmt: skip
@click.option(
    "--wait",
    type=float,
    default=30.0,
    show_default=True,
    help="Seconds to wait for room in a full queue, and then for the result.",
)
@click.option("--dry-run", is_flag=True, help="Count what would be done, and change nothing.")
@at_broker
@_filtered
def replay(setting: Setting, wanted: Filter, everything: bool, into: str, wait: float, dry_run: bool) -> int:
    """Replays dead letters. None is removed before its replay is stored; each arrives once, also when this is interrupted.

    Dead letters of the edge are judged again by its present rules; letters that these still refuse stay. Exit code 1 if some
    stayed or failed again, or if a named ID, connection or site has no letter.

    \b
    Examples:
      penstock dead replay 17.0 17.3
      penstock dead replay --connection shop-wh --reason type_conflict
    """
    _demand_filter(wanted, everything=everything)
    seen = Seen(wanted.ids)
    outcome = asyncio.run(_replay(setting=setting, wanted=wanted, into=into, wait=wait, seen=seen, dry_run=dry_run))
    unknown = wanted.unmatched(seen)
    setting.screen.result({**msgspec.to_builtins(outcome), "unknown": unknown})
    say = setting.screen.say
    if outcome.finished:
        say(f"{outcome.finished} letters of an earlier replay that was interrupted are done")
    say(f"{outcome.replayed} would be replayed; nothing was changed" if dry_run else f"{outcome.replayed} replayed")
    for line in told(outcome, time.time()):
        say(line, "yellow")
    for each in outcome.refused:
        say(f"  {each.id} {each.reason}: {each.detail}")
    return max(_deny(setting, unknown), exits.NO if outcome.stayed else exits.OK)


@dead.command(short_help="Delete dead letters for good.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All letters; otherwise name ids or a filter.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Count what would be done, and change nothing.")
@at_broker
@_filtered
def purge(setting: Setting, wanted: Filter, everything: bool, yes: bool, dry_run: bool) -> int:
    """Deletes dead letters for good. Exit code 1 if a named ID, connection or site has no letter.

    \b
    Example:
      penstock dead purge --stage ingest --reason missing_id --yes
    """
    _demand_filter(wanted, everything=everything)
    seen = Seen(wanted.ids)
    groups, _ = asyncio.run(_look(setting, wanted, 0, seen))
    if dry_run:
        unknown = wanted.unmatched(seen)
        setting.screen.result({"purged": 0, "would_purge": groups.total, "unknown": unknown})
        _show_groups(setting, groups.largest_first())
        setting.screen.say(f"{groups.total} would be purged; nothing was changed")
        return _deny(setting, unknown)
    if groups.total and not yes:
        if not setting.screen.is_terminal:
            raise click.UsageError(f"{groups.total} dead letters would be deleted for good; say --yes")
        _show_groups(setting, groups.largest_first())
        setting.screen.agree(f"delete {groups.total} dead letters for good?", "nothing was deleted")
    if groups.total:
        asyncio.run(_purge(setting, wanted, groups))
    unknown = wanted.unmatched(seen)
    setting.screen.result({"purged": groups.total, "unknown": unknown})
    setting.screen.say(f"{groups.total} purged")
    return _deny(setting, unknown)


@dead.command(short_help="Print dead letters whole, as lines of JSON.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option("--events", is_flag=True, help="Only the original bytes, to be mended and given to `penstock send`.")
@at_broker
@_filtered
def export(setting: Setting, wanted: Filter, output: Path | None, events: bool) -> int:
    """Prints dead letters whole, one a line of JSON (with or without --json), oldest first. They stay where they are.

    With --events a line is the client's event; letters that are not one line of text are left out, and counted. Exit code 1 if
    some are left out, or if a named ID, connection or site has no letter.

    \b
    Examples:
      penstock dead export --since 1d > letters.ndjson
      penstock dead export --reason missing_id --events -o events.ndjson
    """
    seen = Seen(wanted.ids)
    try:
        file = sys.stdout if output is None else output.open("w", encoding="utf-8")
    except OSError as exc:
        raise SetupError(f"{output} cannot be written: {exc.strerror}") from exc
    try:
        written, left_out = asyncio.run(_export(setting, wanted, file, seen, events=events))
        file.flush()
    finally:
        if output is not None:
            file.close()
    if left_out:
        setting.screen.note(f"{left_out} letters are not one line of text; see them with: penstock dead show ID", "yellow")
    if output is not None:
        setting.screen.result({"written": written, "left_out": left_out, "file": str(output)})
        setting.screen.say(f"{written} written to {output}")
    return max(_deny(setting, wanted.unmatched(seen)), exits.NO if left_out else exits.OK)


def _demand_filter(wanted: Filter, *, everything: bool) -> None:
    if not _is_narrow(wanted) and not everything:
        raise click.UsageError("say which: ids, a filter such as --connection, or --all")


def _is_narrow(wanted: Filter) -> bool:
    """Whether a filter leaves letters out."""
    fields = (wanted.connection, wanted.site, wanted.stage, wanted.reason, wanted.since, wanted.until, wanted.meets)
    return bool(wanted.ids) or any(each is not None for each in fields)


def _gone(what: str) -> str:
    return f"no {what}; it was replayed, purged or has expired, or never was"


def _deny(setting: Setting, unknown: list[str]) -> int:
    """Reports names without a dead letter; returns the exit code for that."""
    for each in unknown:
        setting.screen.note(_gone(each), "yellow")
    return exits.NO if unknown else exits.OK


async def _look(
    setting: Setting, wanted: Filter, keep: int, seen: Seen | None = None
) -> tuple[Groups, list[tuple[str, DeadLetter]]]:
    """Counts the matching letters, and returns the newest with their ids."""
    groups, newest = Groups(), deque[tuple[str, DeadLetter]](maxlen=keep)
    async with open_broker(setting.reach()) as broker:
        with setting.screen.progress("reading dead letters", passing=True) as advance:
            async for stored in find(broker, wanted):
                groups.add(stored)
                if seen is not None:
                    seen.add(stored)
                newest.extend(zip(stored.ids(), (stored.letters[index] for index in stored.matching), strict=True))
                advance(groups.total)
    return groups, list(newest)


async def _export(setting: Setting, wanted: Filter, file: TextIO, seen: Seen, *, events: bool) -> tuple[int, int]:
    written = left_out = 0
    async with open_broker(setting.reach()) as broker:
        with setting.screen.progress("exporting", passing=True) as advance:
            async for stored in find(broker, wanted):
                seen.add(stored)
                for letter_id, index in zip(stored.ids(), stored.matching, strict=True):
                    line = as_line(letter_id, stored.letters[index], events=events)
                    if line is None:
                        left_out += 1
                        continue
                    file.write(line + "\n")
                    written += 1
                advance(written)
    return written, left_out


async def _fetch(setting: Setting, letter_id: str) -> DeadLetter | None:
    async with open_broker(setting.reach()) as broker:
        return await fetch_letter(broker, letter_id)


async def _purge(setting: Setting, wanted: Filter, counted: Groups) -> None:
    async with open_broker(setting.reach()) as broker:
        with setting.screen.progress("purging", total=counted.total) as advance:
            marks = are_wanted((await current_snapshot(broker)).project.connections, "dead")
            # the person was not asked about letters that came after the count
            await remove_all(broker, wanted, counted.last_seq, advance, marks=marks)


async def _replay(setting: Setting, wanted: Filter, into: str, wait: float, seen: Seen, *, dry_run: bool) -> Outcome:
    from penstock.control.letters.redeliver import Redelivery  # brings the edge with it, which the others do not need

    async with open_broker(setting.reach()) as broker:
        async for stored in find(broker, wanted):
            seen.add(stored)
        with setting.screen.progress("replaying", total=seen.letters) as advance:
            redelivery = Redelivery(
                broker, await current_snapshot(broker), "start" if into == "start" else "stage", time.time,
                room_seconds=wait, on_progress=lambda done, note: advance(done, note=note),
            )  # fmt: skip
            if dry_run:
                return await redelivery.forecast(wanted)
            await redelivery.run(wanted)
        with setting.screen.progress("waiting for loaders"):
            return await redelivery.wait(wait)


def _show_groups(setting: Setting, groups: list[Group]) -> None:
    rows = [(each.stage, each.name, each.reason, each.count, shown(each.oldest_at), shown(each.newest_at)) for each in groups]
    columns = ("stage", "connection/site", "reason", "count", "oldest (UTC)", "newest (UTC)")
    setting.screen.table(columns, rows, spare=columns[4:])
