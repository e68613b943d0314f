"""What became of the events that a loader took from its connection's queue: one value of the bucket `stats` per connection.

The loader writes it (`loader/queue/account.py`), the router removes it when the connection leaves the project, the command reads it. It bears
the name of the connection's queue: a connection that is added again, or moves to another site, begins at zero.
"""

from __future__ import annotations

import msgspec

from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket


class Counts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Events that are at their end. `live`: how many of them the router forwarded as they came; `replayed`: the others."""

    live: int = 0
    replayed: int = 0
    delivered: int = 0
    dead: dict[str, int] = {}
    dropped: dict[str, int] = {}

    @property
    def total(self) -> int:
        """All of them."""
        return self.delivered + sum(self.dead.values()) + sum(self.dropped.values())

    def plus(self, more: Counts) -> Counts:
        """Returns the sum."""
        return Counts(
            live=self.live + more.live,
            replayed=self.replayed + more.replayed,
            delivered=self.delivered + more.delivered,
            dead=_sum(self.dead, more.dead),
            dropped=_sum(self.dropped, more.dropped),
        )


class Pending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A load under way: it counts once it is known to be committed.

    `lane` and `last` tell by the ledger, or the plan, whether it is; `source` and `through` where the queue was when it counts.
    """

    lane: str
    last: int
    tables: list[str]
    source: str
    through: int
    counts: Counts
    early: dict[str, str] = {}


class Ended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value. `through`: by source (a lane, or a table's rows set aside) the last sequence whose events are counted.

    `early`: events that are counted although rows of them are still set aside, because they are dead: by frame, as hexadecimal bits.
    """

    counts: Counts = Counts()
    through: dict[str, int] = {}
    early: dict[str, str] = {}
    last_load_at: float | None = None
    """Epoch seconds."""
    pending: Pending | None = None
    moved: bool = False
    """Whether some of it was loaded into another destination than that of now."""


def ended_key(queue: str) -> str:
    """The key of a connection in the bucket `stats`, by the name of its queue."""
    return f"loader.{queue}"


def decode_ended(value: bytes | None) -> Ended:
    """Reads a value; of a connection that ended nothing yet there is none."""
    return msgspec.json.decode(value, type=Ended) if value else Ended()


async def forget_ended(broker: Broker, queue: str) -> None:
    """Removes what was counted: the connection left the project.

    Raises:
        NotConnected: the broker does not answer.
    """
    bucket = Bucket(broker, topology.STATS_BUCKET)
    entry = await bucket.get(ended_key(queue))
    if entry is not None:
        await bucket.remove(entry.revision)


def _sum(one: dict[str, int], two: dict[str, int]) -> dict[str, int]:
    return {reason: one.get(reason, 0) + two.get(reason, 0) for reason in (*one, *two)} if two else one
