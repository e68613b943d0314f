"""Delivers events into a destination as the loader does, without a broker: what is published is kept here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from loader.contract.warehouse import LoadPlan, Session
from loader.delivery.deliver import Deliverer, Work
from loader.queue.aside import Failing
from loader.rows.shape import Shaper
from shared.events.dead import DeadLetter, decode_dead
from shared.jetstream.publisher import Publisher
from shared.project.model import Connection
from shared.telemetry.metrics import Telemetry
from tests.support.destinations.opened import Open
from tests.unit.loader.shaping import frame_of

Event = Mapping[str, Any]


class Kept:
    """Stands for the publisher: dead letters, and how many frames were set aside."""

    def __init__(self) -> None:
        self.dead: list[DeadLetter] = []
        self.aside = 0

    async def publish(self, subject: str, payload: bytes, *, msg_id: str | None = None, headers: object = None) -> None:
        if subject.startswith("dead."):
            self.dead += decode_dead(payload)
        else:
            self.aside += 1


class _Silence:
    def count(self, *_: object, **__: object) -> None:
        """Counts nothing."""

    def record(self, *_: object, **__: object) -> None:
        """Records nothing."""

    show = record


class Delivery:
    """One connection into an open destination; `passthrough` into the table `events`, appending, unless told otherwise."""

    def __init__(self, wh: Open, session: Session, lane: str = "live", **options: Any) -> None:
        self._lane = lane
        options = {"layout": "passthrough", "deduplicate": False, **options}
        connection = Connection(site="shop", destination="wh", **options)
        self._shaper = Shaper("shop-wh", connection, wh.capabilities, "shop")
        self.kept = Kept()
        self._failing = Failing()
        self._deliverer = Deliverer(
            "shop-wh",
            "shop",
            self._shaper.rules,
            session,
            cast("Publisher", self.kept),
            cast("Telemetry", _Silence()),
            self._failing,
        )
        self._sequence = self._sent = 0

    def why(self, table: str = "events") -> str:
        """Returns why a table fails and its rows were set aside; empty if it does not."""
        error = self._failing.why(table)
        return "" if error is None else str(error)

    async def send(self, *events: Event | bytes) -> dict[str, str]:
        """Delivers one chunk, bodies perhaps as they are; returns the events that became dead letters, with the detail."""
        self._sequence += 1
        bodies = [event if isinstance(event, bytes) else {"type": "track", **event} for event in events]
        self._shaper.add(frame_of(bodies, first=self._sent), self._sequence)
        self._sent += len(events)
        known = len(self.kept.dead)
        plan = LoadPlan("shop-wh", self._lane, self._sequence, self._sequence)
        await self._deliverer.deliver(Work(plan, self._shaper.take()))
        return {str(letter.message_id): letter.detail for letter in self.kept.dead[known:]}
