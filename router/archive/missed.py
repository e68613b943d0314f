"""Counts the frames that EVENTS' limits removed before the archive had read them.

EVENTS does not say of which site a removed frame was. So the count is of sequences: frames of other sites in the same stretch count
too. A stretch in which the site had nothing counts nothing, as long as the archive had once seen the end of EVENTS behind it.
"""

from __future__ import annotations

import logging

from shared.archive.note import ArchiveNote
from shared.jetstream.identity import Identity
from shared.telemetry.metrics import Telemetry

log = logging.getLogger(__name__)


class Missed:
    """The count of one site. `seen`: no frame of the site up to this sequence is still to come."""

    def __init__(self, telemetry: Telemetry, site: str) -> None:
        self._telemetry = telemetry
        self._site = site
        self.seen = 0
        self.total = 0
        self._open = 0
        self._until = 0

    def begin(self, position: int, note: ArchiveNote, events: Identity) -> None:
        """Begins a session at a position, with what the last one noted; counts what an archive lacks that went back."""
        self._open, self._until, self.total = 0, 0, note.missed
        incarnation = events.incarnation
        if note.incarnation == incarnation and note.position > position:
            self._open = max(0, min(note.position, events.first_seq - 1) - position)
            log.error(
                "the archive lacks what it had: another directory or bucket is in its place, or an older copy. What EVENTS has no longer is "
                "missing; put it back, then penstock archive repair",
                extra={"site": self._site, "position": position, "was": note.position, "missed": self._open},
            )
            position += self._open
        # what the last session had seen beyond its position was the end of EVENTS, or is read again
        self.seen = max(position, note.seen if note.incarnation == incarnation and note.position == position else 0)

    def passed(self, seq: int) -> None:
        """Notes that a frame was read; frames on their way when EVENTS lost them are not missed."""
        if seq <= self._until and self._open:
            self._open -= 1
        self.seen = max(self.seen, seq)

    def look(self, events: Identity, last_read: int, *, is_level: bool) -> None:
        """Compares the stream with what was read.

        Args:
            events: EVENTS, looked at before `is_level` was.
            last_read: the last sequence of the site that was read.
            is_level: whether no frame of the site is behind it.
        """
        known = max(self.seen, last_read)
        if not is_level and events.first_seq > known + 1 and known:
            gone = events.first_seq - 1 - known
            self._open += gone
            self._until = self.seen = events.first_seq - 1
            log.error(
                "EVENTS lost frames before they were archived",
                extra={"site": self._site, "first": known + 1, "last": events.first_seq - 1},
            )
        if is_level:
            self.seen = max(known, events.last_seq)

    def take(self) -> int:
        """Returns the count that belongs to the next object."""
        taken, self._open = self._open, 0
        return taken

    def give_back(self, missed: int) -> None:
        """Takes back a count whose object was not written."""
        self._open += missed

    def written(self, missed: int) -> None:
        """Notes that an object with this count is in the archive."""
        self.total += missed
        if missed:
            self._telemetry.count("archive_missed_frames_total", missed, site=self._site)
