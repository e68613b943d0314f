"""Load plans of destinations without transactions, kept in the KV bucket `state`.

A destination that commits rows and ledger together needs no plan: its ledger tells what is loaded. For the others the object's name
is the plan, so a repeat must have the same boundaries to overwrite itself. The plan is stored before the load and marked done behind
it, before anything is acknowledged. So a crash leaves one of two states: not done, and every frame of the plan comes again and is
loaded again under the same name; or done, and what comes again is only acknowledged.
"""

from __future__ import annotations

import msgspec

from loader.contract import LoadPlan
from shared import topology
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

    async def read(self) -> None:
        """Reads what a former holder left.

        Raises:
            NotConnected
        """
        entry = await self._bucket.get(self._key)
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
            NotConnected, Transient: not known to be stored; do not load, or do not acknowledge.
        """
        self._lanes.pop(plan.lane, None)
        self._lanes[plan.lane] = StoredPlan(plan.first, plan.last, done)
        # lanes of replays end; the newest few are all that can still come again
        for lane in list(self._lanes)[:-KEPT_LANES]:
            del self._lanes[lane]
        await self._bucket.put(self._key, msgspec.json.encode(self._lanes))
