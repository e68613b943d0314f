"""The archives of the running project, from where the command runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from shared.archive.note import ArchiveNote, read_note, read_notes
from shared.archive.place import archive_of, open_store
from shared.archive.reader import ArchiveReader
from shared.archive.repair import Repaired, repair
from shared.errors import ConfigError, Problem
from shared.jetstream.broker import Broker
from shared.project.archive import ArchiveOptions
from shared.project.model import Project
from shared.project.snapshot import current_snapshot
from shared.threads import ThreadGate


def options_of(project: Project, notes: Mapping[str, ArchiveNote]) -> dict[str, ArchiveOptions]:
    """Returns where each site is archived. A directory that the routers were told of is found by the sites' notes."""
    found: dict[str, ArchiveOptions] = {}
    for site in project.sites:
        options = archive_of(project, site, notes[site].options if site in notes else None)
        if options is not None:
            found[site] = options
    return found


async def sites_of(broker: Broker, site: str | None) -> list[str]:
    """Returns the archived sites, or the one that was named.

    Raises:
        ConfigError: it is not archived.
        NotConnected: the broker does not answer.
    """
    known = options_of((await current_snapshot(broker)).project, await read_notes(broker))
    if site is not None and site not in known:
        raise ConfigError([Problem("site", f"site {site!r} is not archived; archived: {', '.join(sorted(known)) or 'none'}")])
    return sorted(known) if site is None else [site]


async def repair_archive(broker: Broker, site: str, gate: ThreadGate, *, dry_run: bool) -> Repaired:
    """Makes the books of a site's archive fit its objects; raises as `repair` and `open_archive`."""
    async with open_archive(broker, site, gate) as reader:
        return await repair(
            broker=broker, store=reader.books.store, gate=gate, site=site, holder="penstock archive repair", dry_run=dry_run
        )


@contextlib.asynccontextmanager
async def open_archive(broker: Broker, site: str, gate: ThreadGate) -> AsyncIterator[ArchiveReader]:
    """Opens the archive of a site.

    Raises:
        ConfigError: it is not archived.
        NotConnected, SetupError
    """
    note = await read_note(broker, site)
    project = (await current_snapshot(broker)).project
    options = options_of(project, {site: note} if note is not None else {}).get(site)
    if options is None:
        raise ConfigError([Problem("site", f"site {site!r} is not archived")])
    store = await open_store(options, gate)
    try:
        yield ArchiveReader(store, site, gate)
    finally:
        await store.close()
