"""One shard of a connection, as routing sees it: which events of a frame are its own. Pure.

A *split* says how many shards take a connection's frames from a sequence of EVENTS on, as for sites (`shared/events/shards.py`). So an event's
shard is a function of its sequence and its user, also when a frame is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from router.rules.arrival import Arrival
from shared.events.shards import Split, part_of


class Spread(NamedTuple):
    """Shard `number`, from 0 on, of the connection `connection`; the oldest split first. `siblings`: the names of all its shards."""

    connection: str
    number: int
    splits: tuple[Split, ...]
    siblings: tuple[str, ...] = ()

    def split_of(self, seq: int) -> Split:
        """Returns the split that a sequence is in."""
        return next((split for split in reversed(self.splits) if split.since <= seq), self.splits[0])

    def own(self, arrival: Arrival) -> Sequence[int]:
        """Returns the indexes, ascending, of the events that are the shard's own.

        Raises:
            Permanent: the frame is damaged inside.
        """
        of = self.split_of(arrival.seq).of
        if of == 1:
            return range(len(arrival)) if self.number == 0 else ()
        if self.number >= of:
            return ()
        return [index for index, head in enumerate(arrival.heads) if part_of(head.user_key, of) == self.number]


def next_splits(former: Sequence[Split], of: int, since: int) -> list[Split]:
    """Returns the splits with a new number of shards from a sequence on, which no frame that was routed has reached."""
    kept = [split for split in former if split.since < since]
    return kept if kept and kept[-1].of == of else [*kept, Split(since, of)]
