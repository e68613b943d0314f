"""The result of a replay of dead letters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from shared.reading.moments import shown


class Refused(msgspec.Struct, frozen=True):
    """A letter that stays, and why."""

    id: str
    reason: str
    detail: str


@dataclass(slots=True)
class Outcome:
    """The result of a replay, in letters."""

    replayed: int = 0
    still_bad: int = 0
    """Letters of ingest and feeds that are still refused; they stay."""
    refused: list[Refused] = field(default_factory=list)
    """The first of them."""
    held_back: int = 0
    """Letters that the router would now drop as repeats; they stay."""
    held_back_until: float = 0.0
    """The time from which the router drops none of them; epoch seconds."""
    unreadable: int = 0
    """Letters with a frame that this version cannot read; they stay."""
    of_syncs: int = 0
    """Letters of rows of syncs; they stay, and the rows come again when the source gives them again."""
    not_kept: int = 0
    """Letters whose bytes were not kept, because privacy rules could not clean them; they stay."""
    foreign: int = 0
    """Letters of a loader whose connection was removed, or now belongs to another site; they stay."""
    foreign_until: float = 0.0
    """As `held_back_until`, for these."""
    siteless: int = 0
    """Letters that would go through routing, of a site that left the project; they stay."""
    waiting: int = 0
    """Replayed letters that their loader has not taken yet."""
    dead_again: int = 0
    """Replayed letters that failed again; they are new dead letters."""
    finished: int = 0
    """Letters of an earlier replay that was interrupted."""
    unmarked: int = 0
    """Replayed letters whose rows in tables of `from: dead` stay open, because DEAD had no room for a note."""

    @property
    def stayed(self) -> int:
        """Letters that are still there, or there again."""
        left = self.dead_again + self.still_bad + self.held_back + self.foreign + self.siteless
        return left + self.unreadable + self.not_kept + self.of_syncs


def told(outcome: Outcome, now: float) -> Iterator[str]:
    """Yields a line for each kind of letters that were not just replayed; `now` is epoch seconds."""
    later = outcome.foreign_until > now
    for count, text in (
        (outcome.dead_again, "failed again; they are new dead letters"),
        (outcome.unmarked, "are replayed, but DEAD had no room to tell connections with `from: dead`: their rows stay open"),
        (outcome.waiting, "are stored and wait for their loader"),
        (outcome.still_bad, "stay: the edge would refuse them again"),
        (
            outcome.held_back,
            (
                "stay: the router would drop them as repeats within the site's dedupe_window; --into start works for all of them from"
                f" {_minute(outcome.held_back_until)} on, --into stage now where their connection is still there"
            ),
        ),
        (
            outcome.foreign,
            "stay: their connection was removed or moved to another site; --into start sends them to all connections of their site"
            + (f", from {_minute(outcome.foreign_until)} on: until then the router drops some as repeats" if later else ""),
        ),
        (
            outcome.siteless,
            (
                "stay: their site left the project, so no router would take them; apply a project with the site, or send their events to another"
                " one: penstock dead export --events"
            ),
        ),
        (
            outcome.of_syncs,
            (
                "stay: they are rows of a sync, which come again when its source gives them again, at the latest with the next full refresh"
                " of their stream; then `penstock dead purge` removes the letters"
            ),
        ),
        (outcome.unreadable, "stay: they hold a frame that this version cannot read"),
        (
            outcome.not_kept,
            "stay: privacy rules could not clean their bytes, so these were not kept; `penstock dead show` has size and hash",
        ),
    ):
        if count:
            yield f"{count} {text}"


def _minute(moment: float) -> str:
    """Returns the first whole minute that is not before a moment."""
    return f"{shown(math.ceil(moment / 60) * 60)} UTC"
