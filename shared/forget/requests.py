"""Requests to forget people, and their receipts, in the bucket `forgotten`.

A request holds the ids in clear, because tables and dead letters cannot be searched by digests. It is erased when every part of it is
done. Receipts hold digests and counts, and stay.

A part is the work of one service: the loader has the rights on destinations and streams, the router on archives, and functions_runtime
knows the memory of functions and identity. Each part writes its receipt as it goes on, so a request goes on where its worker died, and counts nothing twice.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

REQUESTS = "request."
RECEIPTS = "receipt."
LOADER, ROUTER, FUNCTIONS = "loader", "router", "functions_runtime"

State = Literal["asked", "running", "waiting", "done"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked: to forget the people of these ids or, with `verify`, to look for them only.

    `names`: ids in clear. `columns`: columns of tables that hold these ids, beside those of the layouts. `digests`: of the same ids. `parts`:
    which services must answer. `purge_events`: remove frames of EVENTS too.
    """

    id: str
    names: list[str]
    digests: list[str]
    at: float
    by: str = ""
    verify: bool = False
    purge_events: bool = False
    columns: list[str] = []
    parts: list[str] = msgspec.field(default_factory=lambda: [LOADER])


class Place(msgspec.Struct, kw_only=True):
    """What was found in one place: a table, a stream, a bucket, a destination.

    `found`: rows, events, letters or entries of the person. `removed`: how many are gone. `left`: how many are still there, and `note` says
    why and until when. `covered`: whether Penstock can look into it.
    """

    where: str
    found: int = 0
    removed: int = 0
    left: int = 0
    covered: bool = True
    note: str = ""

    def look(self, now: int, *, verify: bool = False) -> None:
        """Notes how many are there now, before they are removed and after it. The ones that were there before and are not any more count as
        removed: a worker may have died before it noted what it had removed.
        """
        self.found = now if verify else max(self.found, self.removed + now)
        self.left, self.removed = now, self.found - now


class PartReceipt(msgspec.Struct, kw_only=True):
    """What one service did."""

    state: State = "running"
    began_at: float = 0.0
    ended_at: float = 0.0
    places: dict[str, Place] = {}
    trouble: str = ""
    """Why it cannot go on for now."""

    def place(self, where: str) -> Place:
        """Returns the entry of a place; makes it if there is none."""
        return self.places.setdefault(where, Place(where=where))


class Receipt(msgspec.Struct, kw_only=True):
    """What became of a request: what, where, how many, when. Holds no id of a person."""

    request: str
    verify: bool
    asked_at: float
    by: str
    digests: list[str]
    state: State
    ended_at: float = 0.0
    parts: dict[str, PartReceipt] = {}

    @property
    def places(self) -> list[Place]:
        """All places, in the order of their names."""
        return sorted((place for part in self.parts.values() for place in part.places.values()), key=lambda place: place.where)

    @property
    def left(self) -> int:
        """How many traces are left."""
        return sum(place.left for place in self.places)


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What stays of a request: all but the ids."""

    verify: bool
    at: float
    by: str
    digests: list[str]
    parts: list[str]


async def ask(broker: Broker, request: Request) -> None:
    """Stores a request; services take it up within a second.

    Raises:
        NotConnected, Transient: not known to be stored.
    """
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    kept = _Kept(verify=request.verify, at=request.at, by=request.by, digests=request.digests, parts=request.parts)
    await bucket.put(f"{RECEIPTS}{request.id}", msgspec.json.encode(kept))
    await bucket.put(REQUESTS + request.id, msgspec.json.encode(request))


async def read_receipt(broker: Broker, request_id: str) -> Receipt | None:
    """Returns the receipt of a request as it is now; None if there is no such request.

    Raises:
        NotConnected: the broker does not answer.
    """
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    entry = await bucket.get(f"{RECEIPTS}{request_id}")
    if entry is None or entry.value is None:
        return None
    kept = msgspec.json.decode(entry.value, type=_Kept)
    parts: dict[str, PartReceipt] = {}
    for name in kept.parts:
        parts[name] = await read_part(broker, request_id, name) or PartReceipt(state="asked")
    states = {part.state for part in parts.values()}
    state: State = next((each for each in ("asked", "waiting", "running") if each in states), "done")
    ended_at = max((part.ended_at for part in parts.values()), default=0.0) if state == "done" else 0.0
    return Receipt(
        request=request_id, verify=kept.verify, asked_at=kept.at, by=kept.by, digests=kept.digests, state=state,
        ended_at=ended_at, parts=parts,
    )  # fmt: skip


async def read_receipts(broker: Broker) -> list[Receipt]:
    """Returns all receipts, the oldest first.

    Raises:
        NotConnected: the broker does not answer.
    """
    keys = await Bucket(broker, topology.FORGOTTEN_BUCKET).keys(RECEIPTS)
    ids = [key.removeprefix(RECEIPTS) for key in keys if key.count(".") == 1]
    found = [await read_receipt(broker, each) for each in ids]
    return sorted((each for each in found if each is not None), key=lambda receipt: receipt.asked_at)


async def read_part(broker: Broker, request_id: str, part: str) -> PartReceipt | None:
    """Returns what one service did of a request; None: nothing yet."""
    entry = await Bucket(broker, topology.FORGOTTEN_BUCKET).get(_part_key(request_id, part))
    return msgspec.json.decode(entry.value, type=PartReceipt) if entry is not None and entry.value else None


async def write_part(broker: Broker, request_id: str, part: str, receipt: PartReceipt) -> None:
    """Stores what one service did of a request so far."""
    await Bucket(broker, topology.FORGOTTEN_BUCKET).put(_part_key(request_id, part), msgspec.json.encode(receipt))


async def end_part(broker: Broker, request: Request, part: str, receipt: PartReceipt) -> None:
    """Stores that one service is done.

    Raises:
        NotConnected, Transient: not known to be stored; do it again.
    """
    receipt.state, receipt.ended_at, receipt.trouble = "done", time.time(), ""
    await write_part(broker, request.id, part, receipt)


async def erase_if_done(broker: Broker, request: Request) -> bool:
    """Erases the ids of a request if all of its parts are done; returns whether they are erased. The broker overwrites them on its disk.

    Each part calls it until it is true: two parts that end at once may each see the other one undone.

    Raises:
        NotConnected, Transient: not known to be erased; do it again.
    """
    for part in request.parts:
        found = await read_part(broker, request.id, part)
        if found is None or found.state != "done":
            return False
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    entry = await bucket.get(REQUESTS + request.id)
    if entry is not None:
        await bucket.erase(entry.revision)
    return True


def _part_key(request_id: str, part: str) -> str:
    return f"{RECEIPTS}{request_id}.{part}"
