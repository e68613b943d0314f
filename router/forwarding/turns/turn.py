"""The order of a user's events while the number of a connection's shards changes.

From a split on, a user may belong to another shard, so another loader. A forwarder sends a frame from there only after all that its
connection's shards were sent from before the split is delivered: every sibling has sent its frames from before, and all that then waited
before functions, in the queues and in RETRY is gone from there. What other routers of the site send meanwhile does not count, so that wait
ends under load too. Until then the forwarder is behind, and the site's state and `/ready` say for whom it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
from nats.js.errors import NotFoundError

from router.forwarding.forwarder import Forwarder, ShardsChange
from router.forwarding.shard import ShardView
from router.forwarding.state import Life
from router.rules.compiled import ConnectionRules
from router.rules.spread import next_splits
from shared.events.shards import Split
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.streams.waiting import FUNCTIONS_STAGE

Turn = tuple[int, int]
"""The sequences at which a split of the connection begins, and one of its site."""

_BEFORE = "its number of shards changes; it waits for "


class Turns:
    """The splits of all connections of a site, or of one of its shards.

    Args:
        forwarders: by connection.
        lives: returns the lives of the site's connections, in which splits and turns are noted.
        on_moved: called when lives must be stored.
    """

    def __init__(
        self,
        broker: Broker,
        forwarders: Mapping[str, Forwarder],
        view: ShardView | None,
        lives: Callable[[], dict[str, Life]],
        on_moved: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._forwarders = forwarders
        self._view = view
        self._lives = lives
        self._on_moved = on_moved
        self._waits: dict[tuple[str, Turn], list[_Wait]] = {}
        self._looking = asyncio.Lock()
        self._has_new_splits = False

    def spread(self, connection: ConnectionRules, *, is_new: bool, since: int) -> ConnectionRules:
        """Returns the rules with the splits of the connection's shards, and notes these; call it for the first shard before the others.

        Args:
            is_new: the connection gets its first frames now.
            since: a sequence that no router of the site has sent, nor any behind it.
        """
        if connection.spread is None:
            return connection
        spread, lives = connection.spread, self._lives()
        life = lives.get(connection.name, Life())
        if connection.name != spread.connection:
            splits = lives.get(spread.connection, Life()).splits
        elif is_new:
            splits = list(spread.splits)
        else:
            splits = next_splits(life.splits or [Split(1, 1)], connection.shards, since)
        if splits != life.splits:
            lives[connection.name] = msgspec.structs.replace(life, splits=splits)
            self._has_new_splits = True
        return replace(connection, spread=spread._replace(splits=tuple(splits)))

    def take_new(self) -> bool:
        """Returns whether there are splits since the last call. Store them before the next frame is offered to forwarders: another router
        would send it to other shards."""
        new, self._has_new_splits = self._has_new_splits, False
        return new

    def is_late(self, connection: ConnectionRules) -> bool:
        """Whether a shard was added to a connection that had events before; others got these."""
        spread = connection.spread
        return spread is not None and spread.number > 0 and len(self._lives().get(spread.connection, Life()).splits) > 1

    def _passed(self, connection: str) -> Turn:
        return self._lives().get(connection, Life()).turned

    def _pass(self, connection: str, turn: Turn) -> None:
        lives = self._lives()
        if connection in lives:
            lives[connection] = msgspec.structs.replace(lives[connection], turned=turn)
            self._on_moved()

    async def check(self, forwarder: Forwarder, seq: int) -> None:
        """Returns if a frame may be sent.

        Raises:
            ShardsChange: not yet; says for whom it waits.
            NotConnected: the broker does not answer.
        """
        spread = forwarder.rules.spread
        if spread is None:
            return
        since = split.since if (split := spread.split_of(seq)) != spread.splits[0] else 0
        layout = self._view.layout if self._view is not None else None
        place = layout.index(seq) if layout is not None else 0
        turn = (since, layout.splits[place].since if layout is not None and place else 0)
        name, begins = spread.connection, max(turn)
        if turn <= self._passed(name):
            return
        async with self._looking:
            if turn <= self._passed(name):
                return
            for sibling in spread.siblings:
                other = self._forwarders.get(sibling)
                if other is not None and other.place().seq < begins:
                    raise ShardsChange(f"{_BEFORE}{sibling}, to which the router has earlier frames to send")
            if (name, turn) not in self._waits:
                self._waits[name, turn] = [
                    _Wait(self._broker, each, self._forwarders[each].rules.queue)
                    for each in spread.siblings
                    if each in self._forwarders
                ]
            for wait in self._waits[name, turn]:
                await wait.look()
            del self._waits[name, turn]
            self._pass(name, turn)


class _Wait:
    """The wait for all that is in the queues of one shard; what comes later does not count."""

    def __init__(self, broker: Broker, name: str, queue: str) -> None:
        self._broker = broker
        self._name = name
        self._left = [
            # in this order: what leaves one goes to the next
            (topology.FUNCTIONS, topology.functions_subject(queue), "has earlier frames ahead of its functions"),
            (topology.RETRY, topology.retry_subject(FUNCTIONS_STAGE, queue), "has earlier events that its functions try again"),
            (topology.DELIVER, topology.deliver_subject(queue), "has earlier frames in its queue"),
            (topology.RETRY, topology.retry_subject("loader", queue), "has earlier rows set aside, because a table fails"),
        ]
        self._last: int | None = None

    async def look(self) -> None:
        """Returns when all is gone; raises ShardsChange if it is not, and NotConnected."""
        while self._left:
            stream, subject, what = self._left[0]
            with asking(f"the stream {stream} does not tell what waits"):
                if self._last is None:
                    try:
                        self._last = (await self._broker.js.get_last_msg(stream, subject)).seq or 0
                    except NotFoundError:
                        self._last = 0
                if self._last and await self._first(stream, subject) <= self._last:
                    raise ShardsChange(f"{_BEFORE}{self._name}, which {what}")
            self._left.pop(0)
            self._last = None

    async def _first(self, stream: str, subject: str) -> int:
        try:
            message = await self._broker.js.get_msg(stream, 1, subject=subject, next=True)
        except NotFoundError:
            return (self._last or 0) + 1
        return message.seq or 0
