"""Changes the number of shards of a site, as the project wants it. One router at a time does this, while any site has shards.

A change has three steps, each one write by compare-and-set, so that any router can go on with it.

1. The wish is noted. Each present shard stops reading and notes in its state that it has stopped for this change.
2. When all have, no frame of EVENTS that a shard has seen lies behind the stream's end. The new split begins there.
3. The former shards read up to there and end; the new ones begin there. A connection's frames wait in EVENTS until the former shards
   have sent it all theirs (`router/forwarding/shard.py`).

A wish that is taken back before step 2 leaves the shards as they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from router.forwarding.keeper import look_while_held
from router.forwarding.state import SiteState, StateKeeper
from router.layouts import Layouts
from shared.errors import UNREADABLE, Conflict, SetupError
from shared.events.shards import Layout, Shard, Split, decode_layout, layout_key, words_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import identify
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import hold
from shared.service import ServiceContext
from shared.streams.reports import SHARDS, read_reports

LEASE = "keeper.shards"
LOOK_SECONDS = 0.5
HURRY_SECONDS, HURRIES = 0.05, 40
"""While a site stands still."""

log = logging.getLogger(__name__)


async def keep_shards(context: ServiceContext, layouts: Layouts) -> None:
    """Keeps the layouts for ever, while this process holds the lease for it."""
    config = context.config
    await config.loaded.wait()
    while True:
        snapshot = config.current
        if not layouts.known and all(site.shards == 1 for site in snapshot.project.sites.values()):
            waits = [asyncio.create_task(config.changed(snapshot)), asyncio.create_task(layouts.changed())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            continue
        async with hold(context.broker, LEASE, context.instance) as lease:
            keeper = Keeper(context, layouts)
            try:
                await look_while_held(lease, "shards", LOOK_SECONDS, keeper.run_once)
            finally:
                keeper.tell({})


class Keeper:
    """The knowledge of the lease's holder."""

    def __init__(self, context: ServiceContext, layouts: Layouts) -> None:
        self._context = context
        self._layouts = layouts
        self._told: set[str] = set()

    async def run_once(self) -> None:
        """Does the next step of every site, and tells in `/ready` what the changes wait for.

        Raises:
            NotConnected, Transient: call it again.
        """
        for _ in range(HURRIES):
            said, stands = await self._look()
            self.tell(said)
            if not stands:
                return
            await asyncio.sleep(HURRY_SECONDS)

    async def _look(self) -> tuple[dict[str, str], bool]:
        """Returns what changes wait for, by site, and whether a site stands still."""
        said: dict[str, str] = {}
        stands = False
        for name, site in self._context.config.current.project.every_site.items():
            if site.shards > 1 or self._layouts.of(name) is not None:
                try:
                    layout = await carry_on(self._context.broker, name, site.shards)
                    why = await read_words(self._context.broker, name, layout) if layout is not None else ""
                except (SetupError, *UNREADABLE) as exc:  # its layout, or a state; the others go on
                    layout, why = None, str(exc)
                if why:
                    said[name] = why
                stands |= layout is not None and bool(layout.wish)
        return said, stands

    def tell(self, said: dict[str, str]) -> None:
        """Tells it in `/ready`."""
        for site in self._told - said.keys():
            self._context.health.good(f"shards of {site}")
        for site, why in said.items():
            self._context.health.warn(f"shards of {site}", why)
        self._told = set(said)


async def _unaware(broker: Broker) -> list[str]:
    """Returns the routers that live and know no shards, by instance."""
    return [
        each.instance for each in await read_reports(broker, time.time()) if each.service == "router" and SHARDS not in each.knows
    ]


async def carry_on(broker: Broker, site: str, wanted: int) -> Layout | None:
    """Does the next step of a site; returns its layout, None if it has none.

    Raises:
        NotConnected, Transient: the broker does not answer.
        SetupError: its layout cannot be read, or a router of an earlier release knows no shards.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    entry = await bucket.get(layout_key(site))
    before = decode_layout(entry.value, site) if entry is not None else None
    if before is None and wanted == 1:
        return None
    events = await identify(broker, topology.EVENTS)
    layout = before or Layout(incarnation=events.incarnation)
    if layout.incarnation != events.incarnation:
        numbers = sorted({*layout.ever, *(split.of for split in layout.splits)})
        after = replace(
            layout,
            incarnation=events.incarnation,
            splits=[Split(1, layout.present)],
            wish=0,
            change=layout.change + 1,
            ever=numbers,
        )
    elif wanted == layout.present:
        after = replace(layout, wish=0)
    elif wanted != layout.wish:
        if layout.present == 1 and (earlier := await _unaware(broker)):
            raise SetupError(
                f"site {site} waits with its {wanted} shards: {', '.join(earlier)} runs an earlier release, which knows no shards and "
                "would route the whole site beside them; upgrade it"
            )
        after = replace(layout, wish=wanted, change=layout.change + 1)
    else:
        states = [await StateKeeper(broker, site, Shard(number, layout.present)).load() for number in range(layout.present)]
        after = layout
        if all(has_stopped(state, layout) for state in states):
            # the end of EVENTS as it is after all have stopped: no shard, living or dead, has seen a later frame
            end = (await identify(broker, topology.EVENTS)).last_seq + 1
            after = split_at(layout, end, [state for state in states if state is not None])
    if after == before:
        return after
    try:
        await bucket.put(layout_key(site), msgspec.json.encode(after), revision=entry.revision if entry is not None else 0)
    except Conflict:  # another router did a step
        return layout
    extra = {"site": site, "shards": after.present, "wish": after.wish, "since": after.splits[-1].since}
    log.info("the shards of a site change", extra=extra)
    return after


def has_stopped(state: SiteState | None, layout: Layout) -> bool:
    """Whether a shard has stopped for the present change. Pure."""
    return state is not None and state.incarnation == layout.incarnation and state.paused == layout.change


def split_at(layout: Layout, end: int, states: Sequence[SiteState]) -> Layout:
    """Returns the layout with its wish fulfilled from a sequence on. Pure.

    Args:
        states: of the present shards, which have stopped.
    """
    splits = [split for split in layout.splits if split.since < end]
    if not splits or splits[-1].of != layout.wish:
        at_seconds = max((state.at_seconds for state in states), default=0.0)
        splits.append(Split(end if splits else 1, layout.wish, at_seconds))
    numbers = sorted({*layout.ever, *(split.of for split in layout.splits)} - {split.of for split in splits})
    return replace(layout, splits=splits, wish=0, ever=numbers)


async def read_words(broker: Broker, site: str, layout: Layout) -> str:
    """Returns what a change waits for, in words; empty: there is none.

    Raises:
        NotConnected: the broker does not answer.
    """
    done: dict[Shard, bool] = {}
    if layout.wish:
        for number in range(layout.present):
            shard = Shard(number, layout.present)
            done[shard] = has_stopped(await StateKeeper(broker, site, shard).load(), layout)
    elif len(layout.splits) > 1:
        last = layout.splits[-1].since
        for number in range(layout.splits[-2].of):
            shard = Shard(number, layout.splits[-2].of)
            done[shard] = is_drained(await StateKeeper(broker, site, shard).load(), layout, last)
    return words_of(site, layout, done)


def is_drained(state: SiteState | None, layout: Layout, end: int) -> bool:
    """Whether a shard has put all its frames from before a sequence into the queues. Pure."""
    if state is None or state.incarnation != layout.incarnation:
        return False
    return state.position >= end - 1 and not any(mark.seq < end for mark in state.behind.values())
