"""Load plans of destinations without transactions, kept in the KV bucket `state`.

A destination that commits rows and ledger together needs no plan: its ledger tells what is loaded. For the others the object's name
is the plan, so a repeat must have the same boundaries to overwrite itself. The plan is stored before the load and marked done behind
it, before anything is acknowledged. So a crash leaves one of two states: not done, and every frame of the plan comes again and is
loaded again under the same name; or done, and what comes again is only acknowledged.

It is written by compare-and-set: a former holder that wakes up in the middle of a write must not put its plan over its successor's.
"""

from __future__ import annotations

import msgspec

from loader.contract import LoadPlan
from shared import topology
from shared.errors import Conflict, Fenced
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

KEPT_LANES = 64


class StoredPlan(msgspec.Struct, frozen=True):
    """The newest plan of one lane."""

    first: int
    last: int
    done: bool


class Plans:
    """The plans of one connection."""

    def __init__(self, broker: Broker, connection: str) -> None:
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._key = f"plan.{connection}"
        self._lanes: dict[str, StoredPlan] = {}
        self._revision = 0

    async def read(self) -> None:
        """Reads what a former holder left.

        Raises:
            NotConnected
        """
        entry = await self._bucket.get(self._key)
        self._revision = entry.revision if entry else 0
        self._lanes = msgspec.json.decode(entry.value, type=dict[str, StoredPlan]) if entry and entry.value else {}

    def unfinished(self) -> dict[str, int]:
        """Returns by lane the last sequence of a plan that is not known to be loaded."""
        return {lane: plan.last for lane, plan in self._lanes.items() if not plan.done}

    def loaded(self) -> dict[str, int]:
        """Returns by lane the last sequence that is loaded for certain."""
        return {lane: plan.last if plan.done else plan.first - 1 for lane, plan in self._lanes.items()}

    async def write(self, plan: LoadPlan, *, done: bool) -> None:
        """Stores a plan before its load, or that it is done.

        Raises:
            Fenced: another holder wrote since `read`; do not load.
            NotConnected, Transient: not known to be stored; do not load, or do not acknowledge, and `read` again.
        """
        self._lanes.pop(plan.lane, None)
        self._lanes[plan.lane] = StoredPlan(plan.first, plan.last, done)
        # lanes of replays end; the newest few are all that can still come again
        for lane in list(self._lanes)[:-KEPT_LANES]:
            del self._lanes[lane]
        value = msgspec.json.encode(self._lanes)
        try:
            self._revision = await self._bucket.put(self._key, value, revision=self._revision)
        except Conflict as exc:
            raise Fenced(f"another loader has written the plans {self._key}; leaving the connection to it") from exc
