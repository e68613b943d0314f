"""How far a site is archived: one value of the bucket `state` per site, behind the archive itself.

Status, the command and the router that sheds EVENTS read it. The archive's own manifests are its position, not this.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from shared.errors import UNREADABLE
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import Identity
from shared.jetstream.kv import Bucket
from shared.project.archive import ArchiveOptions, LocalArchive
from shared.reading.decode import decode

PREFIX = "archive."


class ArchiveNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every frame of `incarnation` up to `position` is in the archive, `first` is the oldest one there.

    `at`: when that was written (epoch seconds). `waiting_frames` and `waiting_events` were behind the position then, the oldest of
    them accepted at `oldest_at`. `missed`: sequences of EVENTS that were gone before the archive had read them. `seen`: no frame of
    the site up to this sequence is still to come. `trouble`: why the
    archive does not move; empty if it does. `where`: its place in words; `local`: the options of a local archive.
    """

    incarnation: str = ""
    position: int = 0
    first: int = 0
    at: float = 0.0
    waiting_frames: int = 0
    waiting_events: int = 0
    oldest_at: float | None = None
    missed: int = 0
    seen: int = 0
    trouble: str = ""
    where: str = ""
    local: dict[str, Any] = {}

    @property
    def options(self) -> ArchiveOptions | None:
        """The archive, if it is a local one."""
        return decode(self.local, LocalArchive) if self.local else None


async def read_note(broker: Broker, site: str) -> ArchiveNote | None:
    """Returns the note of a site; None if none was archived.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.STATE_BUCKET).get(PREFIX + site)
    return _decode(entry.value) if entry and entry.value else None


async def first_kept(broker: Broker, site: str, events: Identity) -> int:
    """Returns the first sequence of a site that EVENTS or the archive has.

    Args:
        events: EVENTS.

    Raises:
        NotConnected: the broker does not answer.
    """
    note = await read_note(broker, site)
    if note is None or note.incarnation != events.incarnation or not note.first:
        return events.first_seq
    return min(events.first_seq, note.first)


async def read_notes(broker: Broker) -> dict[str, ArchiveNote]:
    """Returns the notes of all sites that were archived. Raises as `read_note`."""
    found: dict[str, ArchiveNote] = {}
    for entry in await Bucket(broker, topology.STATE_BUCKET).entries(PREFIX):
        with contextlib.suppress(*UNREADABLE):  # of a later version
            if entry.value:
                found[entry.key.removeprefix(PREFIX)] = _decode(entry.value)
    return found


async def write_note(broker: Broker, site: str, note: ArchiveNote) -> None:
    """Replaces the note of a site.

    Raises:
        NotConnected, Transient, QueueFull: it may not be written.
    """
    await Bucket(broker, topology.STATE_BUCKET).put(PREFIX + site, msgspec.json.encode(note))


_decode = msgspec.json.Decoder(ArchiveNote).decode
