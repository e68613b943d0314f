"""Takes a person out of the archives: the router knows where they are, and may write there."""

from __future__ import annotations

from functools import partial

import msgspec

from shared.archive import lines
from shared.archive.books import lease_name
from shared.archive.lines import Line
from shared.archive.place import open_store
from shared.archive.reader import ArchiveReader, Found, unpack
from shared.archive.rewrite import asked_to_pause, rewrite_held
from shared.events.frame import Head
from shared.forget.person import Person
from shared.forget.requests import Place
from shared.forget.worker import Save
from shared.jetstream.broker import Broker
from shared.jetstream.lease import hold
from shared.project.archive import ArchiveOptions
from shared.stores.contract import Store
from shared.threads import ThreadGate


async def look_through(
    *, broker: Broker, gate: ThreadGate, site: str, options: ArchiveOptions, person: Person, place: Place, holder: str, save: Save
) -> None:
    """Counts a person's events in the archive of a site, and takes them out.

    It holds the lease of the archive's writer from before it counts. So what a router has read and not put into the archive yet is in the
    archive, or goes there without the person's events.

    Raises:
        Fenced: another writer took the lease.
        NotConnected, Transient, SetupError
    """
    store = await open_store(options, gate)
    try:
        async with asked_to_pause(broker, site), hold(broker, lease_name(site), holder) as lease:
            place.look(await _count(store, site, gate, person))
            await save()
            if place.left:
                await rewrite_held(store=store, gate=gate, site=site, gone=partial(_is_of, person), lease=lease)
                place.look(0)
    finally:
        await store.close()


async def count(*, gate: ThreadGate, site: str, options: ArchiveOptions, person: Person) -> int:
    """Returns how many archived events of a site are the person's.

    Raises:
        NotConnected, Transient, SetupError
    """
    store = await open_store(options, gate)
    try:
        return await _count(store, site, gate, person)
    finally:
        await store.close()


async def _count(store: Store, site: str, gate: ThreadGate, person: Person) -> int:
    reader, found = ArchiveReader(store, site, gate), 0
    for day in (await reader.index()).days:
        for entry in (await reader.books.day(day)).objects:
            data = await reader.bytes_of(Found(day, entry))
            if data is not None:
                found += await gate.run(_count_in, data, person)
    return found


def _count_in(data: bytes, person: Person) -> int:
    return sum(1 for text in unpack(data) if (line := lines.parse(text)).frame is None and _is_of(person, line))


def _is_of(person: Person, line: Line) -> bool:
    head = Head(line.message_id, line.type, user_id=line.user_id, anonymous_id=line.anonymous_id)
    return person.has_event(head, b"" if line.body is msgspec.UNSET else bytes(line.body))
