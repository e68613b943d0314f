"""The fate of the events that a loader took from its connection's queue: one value of the bucket `stats` per connection.

The loader writes it (`loader/queue/account.py`), the command reads it. Its key is the name of the connection's queue, so a
connection that is added again, or moves to another site, begins at zero. It outlives its connection
(`shared/streams/removed.py`).
"""

from __future__ import annotations

import msgspec

from shared.events.frame import Frame
from shared.events.headers import is_live


class Counts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Numbers of ended events. `live`: events that the router forwarded as they came; `replayed`: the others. Where a connection has
    functions, these tell what the router forwarded, and the rest what came of it.
    """

    live: int = 0
    replayed: int = 0
    delivered: int = 0
    dead: dict[str, int] = {}
    dropped: dict[str, int] = {}
    made: int = 0
    """How many events more functions gave than they took. Below zero where they took some that wait in RETRY for another attempt."""
    functions_dead: dict[str, int] = {}
    functions_dropped: dict[str, int] = {}
    """What ended in functions already, by reason."""

    @property
    def total(self) -> int:
        """All that ended: `live`, `replayed` and `made` together."""
        ended = (self.dead, self.dropped, self.functions_dead, self.functions_dropped)
        return self.delivered + sum(sum(each.values()) for each in ended)

    def plus(self, more: Counts) -> Counts:
        """Returns the sum."""
        return Counts(
            live=self.live + more.live,
            replayed=self.replayed + more.replayed,
            delivered=self.delivered + more.delivered,
            dead=add_reasons(self.dead, more.dead),
            dropped=add_reasons(self.dropped, more.dropped),
            made=self.made + more.made,
            functions_dead=add_reasons(self.functions_dead, more.functions_dead),
            functions_dropped=add_reasons(self.functions_dropped, more.functions_dropped),
        )


def counts_of_frame(frame: Frame, *, live: bool) -> Counts:
    """Returns what a frame adds to the counts of its events: nothing, unless functions wrote it. Pure.

    Args:
        live: whether its lane is of frames that were routed as they came.
    """
    if frame.taken < 0:
        return NOTHING
    more = frame.taken - len(frame)
    return Counts(
        live=more if live else 0,
        replayed=0 if live else more,
        made=frame.made,
        functions_dead=frame.dead,
        functions_dropped=frame.dropped,
    )


NOTHING = Counts()


class Pending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A load under way: it counts once the loader knows that it is committed.

    By `lane` and `last` the ledger, or the plan, tells whether it is; `source` and `through` say how far the queue then is.
    """

    lane: str
    last: int
    tables: list[str]
    source: str
    through: int
    counts: Counts
    early: dict[str, str] = {}
    sent: int = 0

    def ends(self, lane: str, seq: str) -> bool:
        """Says whether a frame of the queue is at its end with this load."""
        return lane == self.source and int(seq) <= self.through


class Ended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value. `through`: by source (a lane, or a table's rows set aside) the last sequence whose events are counted.

    `early`: events that are counted although rows of them are still set aside, because they are dead: by frame, as hexadecimal
    bits.
    """

    counts: Counts = Counts()
    through: dict[str, int] = {}
    early: dict[str, str] = {}
    last_load_at: float | None = None
    """Epoch seconds."""
    pending: Pending | None = None
    moved: bool = False
    """Whether some of it was loaded into a former destination."""
    destination: str = ""
    address: str = ""
    """The destination of the last load, and a hash of its options; of the pending load, if there is one."""
    sent: int = 0
    """How many events the router had sent as they came, according to the newest counted frame."""
    begun: dict[str, str] = {}
    """Events that are counted, or wait in RETRY, while others of their frame are still in the queue: by frame, as hexadecimal
    bits. Only where events are sent one by one."""
    cuts: dict[str, list[int]] = {}
    """By lane the last sequences of frames whose events are sent together. Only where events are sent in batches."""
    swept: dict[str, int] = {}
    """By stream the last message that a loader took away, and counted, after the connection was removed."""

    def begun_events(self, *, replayed: bool) -> int:
        """Returns how many events of frames in the queue are done with the queue.

        Args:
            replayed: of lanes that were not routed as they came, or of the others.
        """
        return sum(int(bits, 16).bit_count() for frame, bits in self.begun.items() if is_live(frame) != replayed)

    def settled(self) -> Ended:
        """Returns the account in which the pending load counts."""
        pending = self.pending
        if pending is None:
            return self
        early = {frame: bits for frame, bits in (self.early | pending.early).items() if bits != "0"}
        # of a destination before this one
        begun = {frame: bits for frame, bits in self.begun.items() if not pending.ends(*frame.rsplit(":", 1))}
        return msgspec.structs.replace(
            self,
            counts=self.counts.plus(pending.counts),
            through={**self.through, pending.source: max(pending.through, self.through.get(pending.source, 0))},
            early=early,
            begun=begun,
            pending=None,
            sent=max(pending.sent, self.sent),
        )


def ended_key(queue: str) -> str:
    """The key of a connection in the bucket `stats`, by the name of its queue."""
    return f"loader.{queue}"


def decode_ended(value: bytes | None) -> Ended:
    """Reads a value; a connection that has ended no event has none."""
    return msgspec.json.decode(value, type=Ended) if value else Ended()


def add_reasons(one: dict[str, int], two: dict[str, int]) -> dict[str, int]:
    """Returns the sum of counts by reason."""
    return {reason: one.get(reason, 0) + two.get(reason, 0) for reason in (*one, *two)} if two else one
