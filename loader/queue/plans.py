"""Load plans of destinations without transactions, kept in the KV bucket `state`.

A destination that commits rows and ledger together needs no plan: its ledger tells which rows are loaded. For other destinations
the object's name is the plan, so a repeat must have the same boundaries to overwrite itself. The plan is stored before the load,
and marked done after it, before its frames are acknowledged. So a crash leaves one of two states. Not done: every frame of the
plan comes again and is loaded again under the same name. Done: frames that come again are only acknowledged.

It is written by compare-and-set: a former holder that wakes up in the middle of a write must not overwrite its successor's plan.
"""

from __future__ import annotations

import msgspec

from loader.contract.warehouse import LoadPlan
from shared.errors import Conflict, Fenced
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

KEPT_LANES = 64
_ASIDE = "\n"
"""Separates a lane from the table of rows that were set aside; no lane's name contains it."""


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
        """Reads the plans of a former holder.

        Raises:
            NotConnected
        """
        entry = await self._bucket.get(self._key)
        self._revision = entry.revision if entry else 0
        self._lanes = msgspec.json.decode(entry.value, type=dict[str, StoredPlan]) if entry and entry.value else {}

    def unfinished(self) -> dict[str, int]:
        """Returns by lane the last sequence of a plan that may not be loaded."""
        return {lane: plan.last for lane, plan in self._lanes.items() if not plan.done and _ASIDE not in lane}

    def loaded(self) -> dict[str, int]:
        """Returns by lane the last sequence that is certainly loaded."""
        return {lane: plan.last if plan.done else plan.first - 1 for lane, plan in self._lanes.items() if _ASIDE not in lane}

    def asides(self) -> set[tuple[str, str, int]]:
        """Returns loaded rows that had been set aside and whose frame may come again: table, lane, sequence."""
        split = (lane.split(_ASIDE, 2) for lane in self._lanes if _ASIDE in lane)
        return {(table, lane, int(seq)) for lane, seq, table in split}

    async def write_aside(self, table: str, lane: str, seq: int) -> None:
        """Notes that a frame's rows of a table that were set aside are loaded; needed until the frame's own plan is done.

        Raises:
            as `write`.
        """
        plan = self._lanes.get(lane)
        if plan is None or not plan.done or plan.last < seq:
            self._lanes[f"{lane}{_ASIDE}{seq}{_ASIDE}{table}"] = StoredPlan(seq, seq, True)
            await self._store()

    async def write(self, plan: LoadPlan, *, done: bool) -> None:
        """Stores a plan before its load, or that it is done.

        Raises:
            Fenced: another holder wrote since `read`; do not load.
            NotConnected, Transient: it may not be stored; do not load, or do not acknowledge, and `read` again.
        """
        self._lanes.pop(plan.lane, None)
        self._lanes[plan.lane] = StoredPlan(plan.first, plan.last, done)
        if done:
            for lane, aside in list(self._lanes.items()):
                if lane.startswith(f"{plan.lane}{_ASIDE}") and aside.last <= plan.last:
                    del self._lanes[lane]
        # lanes of replays end; only the newest few finished plans can still come again
        ended = [lane for lane, stored in self._lanes.items() if stored.done and _ASIDE not in lane]
        for lane in ended[:-KEPT_LANES]:
            del self._lanes[lane]
        await self._store()

    async def _store(self) -> None:
        value = msgspec.json.encode(self._lanes)
        try:
            self._revision = await self._bucket.put(self._key, value, revision=self._revision)
        except Conflict as exc:
            raise Fenced(f"another loader has written the plans {self._key}; leaving the connection to it") from exc
