"""Users who send to a site with shards: each waits for its answer before it sends the next event, to either of two edges.

The edges learn of a new number of shards at different times, as processes do.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec

from ingest.intake.packer import Packer, PackerSettings, open_packer
from router.forwarding.state import StateKeeper
from router.shards.keeper import is_drained
from shared.errors import Transient
from shared.events.frame import Head, RequestContext
from shared.events.shards import Shard, read_layout
from shared.jetstream.broker import Broker
from shared.telemetry.tracing.spans import Trail
from tests.support.router import apply

REQUEST = RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="shop-web")


class Users:
    """The users, and the ids of their accepted events in order."""

    def __init__(self, broker: Broker, edges: Sequence[Packer], count: int, pause_seconds: float, seed: int) -> None:
        self._broker = broker
        self._edges = edges
        self._pause_seconds = pause_seconds
        self._dice = random.Random(seed)
        self.ending = asyncio.Event()
        self.accepted: dict[str, list[str]] = {f"u{number}": [] for number in range(count)}

    @property
    def ids(self) -> list[str]:
        """All accepted ids."""
        return [id_ for ids in self.accepted.values() for id_ in ids]

    async def send(self, user: str) -> None:
        """Sends until `ending` is set; every fifth event twice."""
        while not self.ending.is_set():
            edge = self._dice.choice(self._edges)
            number = len(self.accepted[user])
            id_ = f"{user}-{number}"
            for _ in range(2 if number % 5 == 4 else 1):
                body = msgspec.json.encode({"userId": user, "properties": {"n": number}})
                await edge.submit("shop", REQUEST, [Head(id_, "track", "e", user)], [body])
            self.accepted[user].append(id_)
            await asyncio.sleep(self._pause_seconds)

    async def change(self, document: dict[str, Any]) -> None:
        """Applies a project with another number of shards; the second edge hears of it later than the first."""
        await apply(self._broker, document)
        shards = document["sites"]["shop"]["shards"]
        for edge in self._edges:
            edge.spread({"shop": shards})
            await asyncio.sleep(self._dice.random() * 0.3)


@contextlib.asynccontextmanager
async def users(broker: Broker, count: int = 12, pause_seconds: float = 0.01, seed: int = 7) -> AsyncIterator[Users]:
    """Lets users send while the context is open."""

    async def send(
        subject: str, payload: bytes, msg_id: str, events: int, waited_seconds: float, trails: Sequence[Trail]
    ) -> None:
        del events, waited_seconds, trails
        while True:
            with contextlib.suppress(Transient):
                await broker.publisher.publish(subject, payload, msg_id=msg_id)
                return

    async with contextlib.AsyncExitStack() as stack:
        edges = [
            await stack.enter_async_context(open_packer(send, lambda: uuid.uuid4().hex, PackerSettings(max_events=20)))
            for _ in range(2)
        ]
        sending = Users(broker, edges, count, pause_seconds, seed)
        tasks = [asyncio.create_task(sending.send(user)) for user in sending.accepted]
        try:
            yield sending
        finally:
            sending.ending.set()
            await asyncio.gather(*tasks)


def by_user(ids: Iterable[str]) -> dict[str, list[int]]:
    """Returns the numbers of each user's events, in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for id_ in ids:
        user, _, number = id_.partition("-")
        found[user].append(int(number))
    return found


async def drained(broker: Broker, shards: int, timeout_seconds: float = 90.0) -> None:
    """Waits until the site has so many shards, and those before have ended."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            layout = await read_layout(broker, "shop")
            if layout is not None and layout.present == shards and not layout.wish:
                former = layout.splits[-2] if len(layout.splits) > 1 else None
                states = (
                    []
                    if former is None
                    else [await StateKeeper(broker, "shop", Shard(number, former.of)).load() for number in range(former.of)]
                )
                if all(is_drained(state, layout, layout.splits[-1].since) for state in states):
                    return
            await asyncio.sleep(0.05)
