"""Compares the manifests of a site's archive with its objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.archive import layout
from shared.archive.examine import examine
from shared.archive.layout import Entry
from shared.archive.reader import ArchiveReader
from shared.errors import Permanent, SetupError
from shared.threads import ThreadGate


@dataclass(slots=True)
class Verified:
    """The result for one site. `strays`: objects that no manifest names, which the archive's writer removes. `missed`: sequences of
    EVENTS that were gone before the archive had read them."""

    site: str
    days: int = 0
    objects: int = 0
    frames: int = 0
    events: int = 0
    bytes: int = 0
    missed: int = 0
    strays: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    """Days with objects that the index does not list."""


async def verify(
    reader: ArchiveReader, gate: ThreadGate, progress: Callable[[Verified, int], None] = lambda _, __: None
) -> Verified:
    """Reads every object of a site's archive, and compares it with its manifest.

    Args:
        reader: of the site.
        gate: for unpacking.
        progress: called after each object, with the number of objects of the days that were begun.

    Raises:
        NotConnected, Transient, SetupError
    """
    report, chain = Verified(reader.site), list[Entry]()
    known = 0
    index = await reader.index()
    report.unlisted = sorted(
        {
            layout.day_of(each.key)
            for each in await reader.books.store.list(layout.home(reader.site))
            if layout.is_object(each.key)
        }
        - set(index.days)
    )
    report.problems += [f"{day}: the index does not list it, although it has objects" for day in report.unlisted]
    for day in index.days:
        report.days += 1
        try:
            manifest = await reader.books.day(day)
        except SetupError as exc:
            report.problems.append(str(exc))
            continue
        known += len(manifest.objects)
        if not manifest.objects:
            report.problems.append(f"{day}: its manifest is gone or empty")
        for entry in manifest.objects:
            await _verify_object(reader=reader, gate=gate, day=day, entry=entry, report=report)
            progress(report, known)
        chain += manifest.objects
        report.strays += await reader.books.strays(manifest)
    report.problems += layout.breaks(chain)
    return report


async def _verify_object(*, reader: ArchiveReader, gate: ThreadGate, day: str, entry: Entry, report: Verified) -> None:
    report.objects += 1
    report.missed += entry.missed
    key = layout.folder(reader.site, day) + entry.name
    if not layout.is_name(entry.name):
        report.problems.append(f"{key}: not the name of an object")
        return
    data = await reader.books.object(day, entry)
    if data is None:
        report.problems.append(f"{key}: is gone, or its checksum is another")
        return
    try:
        seen = await gate.run(examine, data)
    except Permanent as exc:
        report.problems.append(f"{key}: {exc}")
        return
    frames, events = (seen.frames, seen.events) if seen is not None else (0, 0)
    report.bytes += len(data)
    report.frames += frames
    report.events += events
    if (frames, events) != (entry.frames, entry.events):
        said = f"{entry.events} events in {entry.frames} frames"
        report.problems.append(f"{key}: holds {events} events in {frames} frames, the manifest says {said}")
    if seen is not None and not entry.first <= seen.first <= seen.last <= entry.last:
        report.problems.append(f"{key}: holds sequences {seen.first} to {seen.last}")
