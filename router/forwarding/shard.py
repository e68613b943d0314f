"""One shard's view of its site's layout: which frames are its own, when it must stop for a change, and when a connection may go on
behind one.

The order of a user's events across a change of the number of shards. A shard that routes from a split on sends a connection's frames
from there only after every shard of the split before has put all its frames of that connection into the queue. Until then the
connection is behind, with the reason in its mark; other connections of the site do not wait for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from router.forwarding.state import SiteState, StateKeeper
from router.layouts import Layouts
from router.window.dedupe import Window
from shared.errors import NotConnected, Permanent, Transient
from shared.events.shards import Layout, Range, Shard, cut, ids_of
from shared.jetstream.broker import Broker
from shared.jetstream.reader import Message

LOOK_SECONDS = 0.2

_Beginning = tuple[str, int]
"""The incarnation of EVENTS and the sequence at which a split begins. Places in the list of splits come again."""


class ShardView:
    """The view of one shard of a site.

    Args:
        layouts: as this process knows them.
    """

    def __init__(self, broker: Broker, layouts: Layouts, site: str, shard: Shard) -> None:
        self._broker = broker
        self._layouts = layouts
        self.site = site
        self.shard = shard
        self._passed: set[tuple[str, _Beginning]] = set()
        self._all_passed: set[_Beginning] = set()

    @property
    def layout(self) -> Layout | None:
        """The site's layout; None: it always had one shard."""
        return self._layouts.of(self.site)

    @property
    def leads(self) -> bool:
        """Whether this shard does the site's work that is not of users."""
        layout = self.layout
        return self.shard.number == 0 and (layout is None or layout.present == self.shard.of)

    async def changed(self) -> None:
        """Waits for a change of any layout."""
        await self._layouts.changed()

    def check(self, incarnation: str) -> None:
        """Returns if the layout is one of this EVENTS stream.

        Raises:
            Transient: it is of another one; soon it will be.
        """
        layout = self.layout
        if layout is not None and layout.incarnation != incarnation:
            raise Transient(f"site {self.site}: its shards are not noted for the new EVENTS yet")

    def stops(self, paused: int) -> int:
        """Returns the number of the change for which the shard must read nothing now; 0: it may read.

        Args:
            paused: the change for which it stopped last. While an older layout is seen it must wait for that one.
        """
        layout = self.layout
        if layout is None:
            return paused
        if layout.change < paused:
            return paused
        return layout.change if layout.wish and layout.present == self.shard.of else 0

    def next_range(self, seq: int) -> Range | None:
        """Returns what the shard routes next; None: nothing, until its site has its number of shards again."""
        layout = self.layout
        return Range(seq, None, 0.0, begins=False) if layout is None else layout.next_range(self.shard, seq)

    def has_past(self, seq: int) -> bool:
        """Whether the shard routes any frame up to a sequence."""
        own = self.next_range(1)
        return own is None or own.first <= seq

    def until(self) -> int:
        """Returns the sequence before which its frames end; 0: they do not."""
        layout = self.layout
        return 0 if layout is None else layout.until(self.shard)

    def is_routed(self, seq: int) -> bool:
        """Whether the shard routes a sequence."""
        layout = self.layout
        return layout is None or layout.splits[layout.index(seq)].of == self.shard.of

    def cut(self, message: Message) -> Message | None:
        """Returns the part of a frame that is this shard's; None: nothing of it."""
        if not self.is_routed(message.seq):
            return None
        payload = cut(message.subject, message.payload, self.shard)
        if payload is None or payload is message.payload:
            return message if payload is not None else None
        return Message(
            subject=message.subject, payload=payload, headers=message.headers, seq=message.seq,
            at_seconds=message.at_seconds, waiting=message.waiting,
        )  # fmt: skip

    def remember(self, window: Window | None, message: Message) -> None:
        """Fills the window with the ids of this shard's users. Another shard may have routed them."""
        if window is not None:
            with suppress(Permanent):
                window.seen(ids_of(message.subject, message.payload, self.shard), message.at_seconds)

    # -- the order across a change

    async def holds_back(self, connection: str, seq: int) -> str:
        """Returns why frames of a connection from a sequence on must wait, in words; empty: they need not.

        Raises:
            NotConnected: the broker does not answer.
        """
        layout = self.layout
        place = 0 if layout is None else layout.index(seq)
        if layout is None or not place:
            return ""
        begins, former = layout.splits[place].since, layout.splits[place - 1].of
        beginning = layout.incarnation, begins
        if beginning in self._all_passed or (connection, beginning) in self._passed:
            return ""
        clear = True
        for number in range(former):
            shard = Shard(number, former)
            state = await StateKeeper(self._broker, self.site, shard).load()
            why = _lacks(shard=shard, state=state, incarnation=layout.incarnation, connection=connection, begins=begins)
            if why:
                return why
            clear &= state is not None and not any(mark.seq < begins for mark in state.behind.values())
        self._passed.add((connection, beginning))
        if clear:
            self._all_passed.add(beginning)
        return ""

    async def wait_until_clear(self, connection: str, seq: int) -> str:
        """Waits a moment, if frames must; returns why they must still wait."""
        try:
            why = await self.holds_back(connection, seq)
        except NotConnected as exc:
            why = str(exc)
        if why:
            await asyncio.sleep(LOOK_SECONDS)
        return why

    def may_hold_back(self, seq: int) -> bool:
        """Whether a connection that begins at a sequence must look at the shards before."""
        layout = self.layout
        place = 0 if layout is None else layout.index(seq)
        return layout is not None and bool(place) and (layout.incarnation, layout.splits[place].since) not in self._all_passed


def _lacks(*, shard: Shard, state: SiteState | None, incarnation: str, connection: str, begins: int) -> str:
    if state is None or state.incarnation != incarnation:
        return f"it waits for {shard}, which no router has begun yet"
    if state.position < begins - 1:
        return f"it waits for {shard}, which routes frames before {begins} still, from {state.position + 1} on"
    mark = state.behind.get(connection)
    if mark is not None and mark.seq < begins:
        return f"it waits for {shard}, which has {mark.owed} events of before frame {begins} to send it first"
    return ""
