"""An object of the archive while it grows: lines of frames, packed as they come, so that only packed bytes stay in memory."""

from __future__ import annotations

from collections.abc import Sequence

import zstandard

from shared.archive import layout, lines
from shared.archive.books import digest
from shared.archive.layout import Entry
from shared.archive.lines import Stored
from shared.forget.ids import Forgotten

LEVEL = 3
"""Of zstd: half the bytes of level 1's fast table for a microsecond an event; higher levels cost more than they save."""


class Draft:
    """Frames of one hour of one site, in order.

    Args:
        day, hour: where the object belongs.
        after: the position of the archive before it.
        incarnation: the number of the incarnation.
        forgotten: ids whose events are left out.
    """

    def __init__(self, *, day: str, hour: str, after: int, incarnation: int, forgotten: Forgotten | None = None) -> None:
        self.day = day
        self.hour = hour
        self.after = after
        self.incarnation = incarnation
        self.first = self.last = 0
        self.frames = self.events = self.size = 0
        self.begins = self.ends = 0.0
        self._forgotten = forgotten
        self._packer = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._parts: list[bytes] = []

    def add(self, frames: Sequence[Stored]) -> None:
        """Adds frames; blocks for their packing."""
        for stored in frames:
            self._add(stored)

    def _add(self, stored: Stored) -> None:
        text, events = lines.write(stored, self._forgotten)
        self._keep(self._packer.compress(text))
        self.first = self.first or stored.seq
        self.last = stored.seq
        # the broker's clock may go back
        self.begins = min(self.begins, stored.at_seconds) if self.frames else stored.at_seconds
        self.ends = max(self.ends, stored.at_seconds)
        self.frames += 1
        self.events += events

    def finish(self, missed: int) -> tuple[Entry, bytes]:
        """Ends the object; returns its entry and its bytes. Blocks; call it once."""
        self._keep(self._packer.flush())
        data = b"".join(self._parts)
        return Entry(
            name=layout.name_of(self.hour, self.first, self.last, self.incarnation),
            first=self.first,
            last=self.last,
            after=self.after,
            begins=lines.moment(self.begins),
            ends=lines.moment(self.ends),
            frames=self.frames,
            events=self.events,
            bytes=len(data),
            sha256=digest(data),
            incarnation=self.incarnation,
            missed=missed,
        ), data

    def _keep(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self.size += len(part)
