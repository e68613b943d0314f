"""Takes events out of the archive of a site: `rewrite(..., gone=predicate)`, for `penstock forget`.

Each object that holds such an event is written again without it, under the name of its next revision. Then the manifest names the new
object, and the old one is removed. A reader or a crash in between finds the old object or the new one, whole. At the end all
objects are removed of which the manifest names another revision, so a rewrite that is begun again after a crash leaves no trace of
the first one.

The rewrite holds the lease of the site's writer. The router that archives the site gives it up when it is asked to, and goes on
afterwards; meanwhile EVENTS holds what is accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec
import zstandard

from shared.archive import layout, lines
from shared.archive.books import digest, lease_name, owner, put
from shared.archive.layout import Entry, Manifest
from shared.archive.lines import Line
from shared.archive.reader import ArchiveReader, Found, unpack
from shared.errors import Conflict, Transient
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease, hold
from shared.stores.contract import Area, Store
from shared.tasks import end
from shared.threads import ThreadGate

LEVEL = 3
"""Of zstd."""
ASKED_SECONDS = 15.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rewritten:
    """The result of a rewrite: objects that were read, objects that were written again, and events that were taken out."""

    objects: int = 0
    rewritten: int = 0
    events: int = 0


async def rewrite(
    *, broker: Broker, store: Store, gate: ThreadGate, site: str, gone: Callable[[Line], bool], holder: str
) -> Rewritten:
    """Takes all events out of a site's archive for which `gone` is true. Begin it again after any error: it repeats nothing.

    Args:
        broker: for the lease.
        store: of the archive (`place.open_store`).
        gate: for what blocks; `gone` runs on its threads.
        site: whose archive.
        gone: whether an event must go. Its line has the ids, and the client's JSON as `body`.
        holder: who holds the lease, for people.

    Raises:
        Fenced: another writer took the lease.
        NotConnected, Transient, SetupError
    """
    async with asked_to_pause(broker, site), hold(broker, lease_name(site), holder) as lease:
        return await rewrite_held(store=store, gate=gate, site=site, gone=gone, lease=lease)


async def rewrite_held(*, store: Store, gate: ThreadGate, site: str, gone: Callable[[Line], bool], lease: Lease) -> Rewritten:
    """As `rewrite`, for a holder of the lease."""
    area = await store.claim(owner(site), lease.epoch)
    reader, report = ArchiveReader(store, site, gate), Rewritten()
    for day in (await reader.index()).days:
        manifest = await reader.books.day(day)
        for entry in manifest.objects:
            lease.check()
            report.objects += 1
            manifest = await _rewrite_object(
                reader=reader, area=area, gate=gate, manifest=manifest, entry=entry, gone=gone, report=report
            )
        await store.delete(await reader.books.replaced(manifest))
    return report


async def _rewrite_object(
    *, reader: ArchiveReader, area: Area, gate: ThreadGate, manifest: Manifest, entry: Entry, gone: Callable[[Line], bool], report: Rewritten
) -> Manifest:  # fmt: skip
    """Rewrites one object if it must be; returns the manifest that holds then."""
    data = await reader.bytes_of(Found(manifest.day, entry))
    if data is None:
        return manifest
    kept, removed, frames = await gate.run(_without, data, gone)
    if not removed:
        return manifest
    after = msgspec.structs.replace(
        entry, name=layout.rewritten(entry), revision=entry.revision + 1, events=entry.events - removed, frames=frames,
        bytes=len(kept), sha256=digest(kept),
    )  # fmt: skip
    folder = layout.folder(reader.site, manifest.day)
    await put(area, folder + after.name, kept)
    objects = [after if each.name == entry.name else each for each in manifest.objects]
    manifest = msgspec.structs.replace(manifest, objects=objects)
    await reader.books.write_day(area, manifest)
    await reader.books.store.delete([folder + entry.name])
    report.rewritten += 1
    report.events += removed
    log.info("an object of the archive is rewritten", extra={"site": reader.site, "object": after.name, "events": removed})
    return manifest


def _without(data: bytes, gone: Callable[[Line], bool]) -> tuple[bytes, int, int]:
    """Returns an object without events that must go, and how many went, and how many frames are left."""
    packer = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    parts: list[bytes] = []
    removed = 0
    frames: set[int] = set()
    for text in unpack(data):
        line = lines.parse(text)
        if line.frame is None and gone(line):
            removed += 1
            continue
        frames.add(line.seq)
        parts.append(packer.compress(text + b"\n"))
    return b"".join([*parts, packer.flush()]), removed, len(frames)


# -- the lease


def pause_key(site: str) -> str:
    """Returns the key in the bucket `leases` by which a rewrite asks the archiving router for the lease."""
    return f"archive-pause.{site}"


async def is_asked_to_pause(broker: Broker, site: str) -> bool:
    """Whether a rewrite waits for the lease of a site.

    Raises:
        NotConnected: the broker does not answer.
    """
    return await Bucket(broker, topology.LEASE_BUCKET).get(pause_key(site)) is not None


@contextlib.asynccontextmanager
async def asked_to_pause(broker: Broker, site: str) -> AsyncIterator[None]:
    """Asks for the lease of a site's writer for as long as the body runs.

    Raises:
        NotConnected, Transient: the broker does not answer.
    """
    bucket, key = Bucket(broker, topology.LEASE_BUCKET), pause_key(site)
    revision = await bucket.put(key, b"rewrite", ttl_seconds=ASKED_SECONDS)

    async def renew() -> None:
        nonlocal revision
        while True:
            await asyncio.sleep(ASKED_SECONDS / 5)
            with contextlib.suppress(Transient, Conflict):
                revision = await bucket.put(key, b"rewrite", ttl_seconds=ASKED_SECONDS)

    renewal = asyncio.create_task(renew(), name=f"pause-{key}")
    try:
        yield
    finally:
        await end(renewal)
        await bucket.remove(revision)
