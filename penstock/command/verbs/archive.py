"""`penstock archive`: how far sites are archived, and whether their archives are whole."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from penstock.control.reach import open_broker
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from penstock.terminal.screen import Screen
    from shared.archive.note import ArchiveNote
    from shared.archive.repair import Repaired
    from shared.archive.verify import Verified

MOST_SHOWN = 20


@click.group()
def archive() -> None:
    """Shows how far the sites are archived, verifies their archives, and repairs them.

    \b
    Example:
      penstock archive status
    """


@archive.command()
@at_broker
def status(setting: Setting) -> int:
    """Shows for each archived site where its archive is, how much waits, and what it missed.

    \b
    Example:
      penstock archive status
    """
    notes = asyncio.run(_status(setting))
    setting.screen.result(notes)
    now = time.time()
    rows = [
        (
            site,
            note.position,
            note.waiting_events,
            "-" if note.oldest_at is None else f"{max(0.0, now - note.oldest_at):.0f} s",
            note.missed,
            note.where,
            note.trouble or "-",
        )
        for site, note in notes.items()
    ]
    if rows:
        setting.screen.table(("site", "up to", "events wait", "oldest", "missed", "where", "trouble"), rows)
    else:
        setting.screen.say("no site is archived; see docs/archive.md")
    return exits.NO if any(note.trouble for note in notes.values()) else exits.OK


async def _status(setting: Setting) -> dict[str, ArchiveNote]:
    from shared.archive.note import read_notes

    async with open_broker(setting.reach()) as broker:
        return await read_notes(broker)


@archive.command()
@click.option("--site", help="Only this site.")
@at_broker
def verify(setting: Setting, site: str | None) -> int:
    """Reads every object, and compares it with its manifest: checksum, sequences, number of events, and that none is missing.

    \b
    Example:
      penstock archive verify --site shop
    """
    found = asyncio.run(_verify(setting, site))
    setting.screen.result(found)
    for report in found:
        _show(setting.screen, report)
    if not found:
        setting.screen.say("no site is archived; see docs/archive.md")
    return exits.NO if any(report.problems for report in found) else exits.OK


async def _verify(setting: Setting, site: str | None) -> list[Verified]:
    from penstock.control.archives import open_archive, sites_of
    from shared.archive.verify import verify as verify_site

    gate = ThreadGate(2, "verify")
    try:
        async with open_broker(setting.reach()) as broker:
            reports: list[Verified] = []
            for name in await sites_of(broker, site):
                async with open_archive(broker, name, gate) as reader:
                    with setting.screen.progress(f"verifying {name}") as advance:
                        reports.append(
                            await verify_site(reader, gate, lambda report, total, on=advance: on(report.objects, total=total))  # type: ignore[misc]
                        )
            return reports
    finally:
        gate.close()


def _show(screen: Screen, report: Verified) -> None:
    colour = "red" if report.problems else "green"
    missed = f", {report.missed} frames missed" if report.missed else ""
    text = f"{report.events} events in {report.frames} frames and {report.objects} objects of {report.days} days{missed}"
    screen.say(f"{report.site}: {text}; {len(report.problems)} problems", colour)
    for each in report.problems[:MOST_SHOWN]:
        screen.say(f"  {each}", "red")
    if report.strays:
        screen.say(f"  {len(report.strays)} objects that no manifest names; a router that begins settles these", "yellow")
    if report.problems:
        screen.say(f"  put back what is missing, or go on without it: penstock archive repair --site {report.site}", "yellow")


@archive.command()
@click.option("--site", required=True, help="Whose archive.")
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and change nothing.")
@at_broker
def repair(setting: Setting, site: str, dry_run: bool) -> int:
    """Makes lost or damaged books of an archive of its objects, and goes on without objects that are gone or damaged.

    Put back what you can from a copy before. Objects that are damaged are kept aside, below damaged/; manifests note how many frames
    are missing, and replays and rebuilds go on without them. The router stops archiving meanwhile, and events wait in EVENTS.

    \b
    Examples:
      penstock archive repair --site shop --dry-run
      penstock archive repair --site shop
    """
    report = asyncio.run(_repair(setting, site, dry_run=dry_run))
    setting.screen.result(report)
    screen, would = setting.screen, "would be " if dry_run else ""
    for keys, done in (
        (report.listed, "listed"),
        (report.made, "written"),
        (report.removed, "removed, a rewrite had replaced it"),
    ):
        for key in keys[:MOST_SHOWN]:
            screen.say(f"{key}: {would}{done}")
        if len(keys) > MOST_SHOWN:
            screen.say(f"{len(keys) - MOST_SHOWN} more {would}{done}; --json has all")
    for text in report.left_out:
        screen.say(text, "red")
    if report.events:
        screen.say(f"{report.events} events in {report.frames} frames {'would be' if dry_run else 'are'} left out", "red")
    if not (report.made or report.left_out or report.listed or report.removed):
        screen.say("the archive fits its books, nothing is to be done", "green")
    return exits.NO if report.left_out else exits.OK


async def _repair(setting: Setting, site: str, *, dry_run: bool) -> Repaired:
    from penstock.control.archives import repair_archive, sites_of

    gate = ThreadGate(2, "repair")
    try:
        async with open_broker(setting.reach()) as broker:
            (name,) = await sites_of(broker, site)
            return await repair_archive(broker, name, gate, dry_run=dry_run)
    finally:
        gate.close()
