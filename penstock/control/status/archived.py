"""How far sites are archived, by what the archiving routers noted on the broker; and runs that have not ended."""

from __future__ import annotations

import msgspec

from shared.archive.note import read_notes
from shared.archive.place import archive_of
from shared.jetstream.broker import Broker
from shared.project.model import Project
from shared.streams.runs import read_runs

SILENT_SECONDS = 60.0
"""A router notes every few seconds how far it is."""


class ArchiveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One archived site. `missed`: sequences that EVENTS had lost before they were archived."""

    site: str
    where: str
    waiting_events: int = 0
    oldest_waiting_seconds: float | None = None
    missed: int = 0
    trouble: str = ""


async def read_archives(broker: Broker, project: Project, now: float) -> list[ArchiveStatus]:
    """Returns the sites that are archived now.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: list[ArchiveStatus] = []
    for site, note in (await read_notes(broker)).items():
        if archive_of(project, site, note.options) is None:
            continue
        silent = now - note.at
        trouble = (
            f"no router has archived it for {silent:.0f} s; see what the routers say" if silent > SILENT_SECONDS else note.trouble
        )
        found.append(
            ArchiveStatus(
                site=site,
                where=note.where,
                waiting_events=note.waiting_events,
                oldest_waiting_seconds=None if note.oldest_at is None else max(0.0, now - note.oldest_at),
                missed=note.missed,
                trouble=trouble,
            )
        )
    return sorted(found, key=lambda each: each.site)


async def read_open_runs(broker: Broker) -> dict[str, str]:
    """Returns by id, in words, the runs that have not ended. Raises as `read_archives`."""
    return {
        run.id: f"{run.kind} of {run.target}, {run.state}, {run.done_ratio:.0%} sent"
        for run in await read_runs(broker)
        if not run.is_over
    }
