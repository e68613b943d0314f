"""Runs one feed: reads its records, hands them to the outlet, commits what is durable, and opens the feed again after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence

from connector_runner.feeds.contract import Chunk, Environment, Feed
from connector_runner.feeds.definition import DYING, Definition
from connector_runner.feeds.outlet import Outlet, Parcel
from connector_runner.feeds.registry import mask_of, parse_feed
from connector_runner.feeds.rules.shape import Shaper
from shared.backoff import Backoff
from shared.errors import ConfigError, NotConnected, PenstockError, SetupError
from shared.jetstream import topology
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.secrets.reading import reveal
from shared.service import ServiceContext
from shared.tasks import first_of, task_group, timeout
from shared.telemetry.names import GaugeName

READ_SECONDS = 0.5
"""The longest wait of one `read`: as long as a feed takes to notice that it must end."""
LAG_SECONDS = 5.0
LOST_SECONDS = 10.0
"""Between two lines of the log about lost records."""
SETTLE_SECONDS = 10.0
MENDED_SECONDS = 5.0
"""A feed that opens may fail with the first record; until one is durable, its last failure stays told for so long."""
SETUP_SECONDS = 30.0
"""The pause after a failure that a person must mend."""
LONGEST_PAUSE_SECONDS = 30.0
CLOSE_SECONDS = 10.0
FEWEST_DEAD = 20
"""So many dead letters of the newest records are needed before it is said that records die."""
NEWEST_RECORDS = 1_000
MOST_PARTITIONS = 200
"""Partitions whose lag is shown one by one; that of the rest is one number."""

GAUGES: tuple[GaugeName, ...] = ("feeds_failing", "feeds_lag_records", "feeds_lag_seconds", "feeds_last_record_seconds")

log = logging.getLogger(__name__)


class FeedWorker:
    """The worker of one feed, under its lease."""

    def __init__(self, context: ServiceContext, name: str, definition: Definition) -> None:
        self._context = context
        self._name = name
        self._definition = definition
        self._part = f"feed {name}"
        self._pause = _Pause()
        self._newest = _Newest()
        self._lost_said_at = -math.inf
        self._mended_at = math.inf
        """When a feed that was opened and does not fail counts as well, though no record came."""

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:  # noqa: ARG002  # losing the lease cancels it
        """Follows the feed until it must end; says in `/ready` why it does not go on."""
        backoff = Backoff(1.0, LONGEST_PAUSE_SECONDS)
        try:
            while not ending.is_set():
                try:
                    await self._follow(ending, backoff)
                except (PenstockError, asyncio.CancelledError) as error:
                    task = asyncio.current_task()
                    if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                        raise
                    # some drivers end as cancelled when their own tasks are
                    exc = (
                        error if isinstance(error, PenstockError) else NotConnected("the driver gave up in the middle of a call")
                    )
                    mask_of(self._definition.document).error(exc)
                    needs_person = isinstance(exc, SetupError | ConfigError)
                    pause = SETUP_SECONDS if needs_person else backoff.next()
                    self._context.telemetry.count("feeds_errors_total", feed=self._name)
                    self._context.telemetry.gauge("feeds_failing", 1, feed=self._name)
                    self._context.health.bad(self._part, f"{exc}; opens it again in {pause:.0f} s")
                    log.warning("feed failed", extra={"feed": self._name, "error": str(exc), "pause_seconds": pause})
                    with contextlib.suppress(TimeoutError):
                        async with timeout(pause):
                            await ending.wait()
                except Exception as error:
                    mask_of(self._definition.document).error(error)
                    raise
        finally:
            self._context.telemetry.forget(*GAUGES, feed=self._name)

    def change(self, definition: Definition) -> bool:  # noqa: ARG002  # whatever changed, it begins again
        """A feed begins again when its definition changes."""
        return False

    async def _follow(self, ending: asyncio.Event, backoff: Backoff) -> None:
        context, name = self._context, self._name
        self._pause = _Pause()
        # read each time it opens, so a changed secret needs no restart
        document = await asyncio.to_thread(reveal, self._definition.document)
        plugin, rules, options = parse_feed(name, document)
        environment = Environment(
            state=Bucket(context.broker, topology.STATE_BUCKET),
            settle=self._pause.settle,
            lost=self._lost,
            unknown_error=lambda error: self._unknown(str(self._definition.document["type"]), error),
        )
        feed = await plugin.open_feed(name, options, environment)
        try:
            self._mended_at = asyncio.get_running_loop().time() + MENDED_SECONDS
            log.info("feed opened", extra={"feed": name})
            # room for the frame around the largest event
            largest = context.broker.nc.max_payload - 64 * 1024
            outlet = Outlet(
                context,
                feed=name,
                kind=str(self._definition.document["type"]),
                site=rules.site,
                shaper=Shaper(name, rules, self._definition.limits, largest),
                say=self._say,
            )
            try:
                async with task_group() as group:
                    watching = group.create_task(self._watch_lag(feed), name=f"feed-lag-{name}")
                    await self._carry(feed, outlet, ending, backoff=backoff, group=group)
                    watching.cancel()
            except BaseExceptionGroup as exc:
                first = first_of(exc)
                if isinstance(first, PenstockError):  # said now: closing may take its time
                    mask_of(self._definition.document).error(first)
                    context.health.bad(self._part, str(first))
                raise first from exc
        finally:
            with contextlib.suppress(TimeoutError):
                async with timeout(CLOSE_SECONDS):
                    await feed.close()

    async def _carry(
        self, feed: Feed, outlet: Outlet, ending: asyncio.Event, *, backoff: Backoff, group: asyncio.TaskGroup
    ) -> None:
        """Reads and sends by turns: while a parcel is under way, the next one is filled."""
        loop = asyncio.get_running_loop()
        parcel = Parcel()
        under_way: asyncio.Task[None] | None = None

        async def start() -> None:
            nonlocal parcel, under_way
            if under_way is not None:
                await under_way
            under_way = group.create_task(self._deliver(feed, outlet, parcel), name=f"feed-parcel-{self._name}")
            parcel = Parcel()

        while True:
            held = ending.is_set() or self._pause.asked.is_set()
            wait = READ_SECONDS if parcel.empty else max(0.0, parcel.since + feed.linger_seconds - loop.time())
            chunks: Sequence[Chunk] = () if held else await feed.read(wait)
            for chunk in chunks:
                index = 0
                while True:  # a chunk without records has a position too
                    index = outlet.fill(parcel, chunk, index)
                    if parcel.full:
                        await start()
                    if index >= len(chunk.records):
                        break
            if loop.time() >= self._mended_at:
                self._mended_at = math.inf
                self._say(None)
            if chunks:
                backoff.reset()
                self._context.telemetry.gauge("feeds_last_record_seconds", self._context.clock.now(), feed=self._name)
            if not parcel.empty and (held or loop.time() >= parcel.since + feed.linger_seconds):
                await start()
            if held:
                if under_way is not None:
                    await under_way
                    under_way = None
                if ending.is_set():
                    return
                await self._pause.hold()

    async def _deliver(self, feed: Feed, outlet: Outlet, parcel: Parcel) -> None:
        await outlet.send(parcel)
        self._newest.add(len(parcel.positions), len(parcel.dead))
        self._say(None)
        if parcel.chunks:
            await feed.commit(parcel.chunks)

    async def _watch_lag(self, feed: Feed) -> None:
        telemetry, name = self._context.telemetry, self._name
        while True:
            lags = await feed.lag()
            telemetry.forget("feeds_lag_records", "feeds_lag_seconds", feed=name)
            rest = 0
            for index, (partition, lag) in enumerate(sorted(lags.items())):
                if index >= MOST_PARTITIONS:
                    rest += lag.records or 0
                    continue
                if lag.records is not None:
                    telemetry.gauge("feeds_lag_records", lag.records, feed=name, partition=partition)
                if lag.seconds is not None:
                    telemetry.gauge("feeds_lag_seconds", lag.seconds, feed=name, partition=partition)
            if rest:
                telemetry.gauge("feeds_lag_records", rest, feed=name, partition="(others)")
            await asyncio.sleep(LAG_SECONDS)

    def _say(self, why: str | None) -> None:
        """Takes what the outlet says: why nothing goes out, or that it goes on."""
        health, telemetry = self._context.health, self._context.telemetry
        telemetry.gauge("feeds_failing", 0 if why is None else 1, feed=self._name)
        if why is not None:
            if health.problems.get(self._part) != why:
                health.bad(self._part, why)
                log.warning("feed waits", extra={"feed": self._name, "why": why})
        elif self._newest.die:
            list_them, replay = "penstock dead list --stage feeds", "penstock dead replay --stage feeds"
            words = (
                f"{self._newest.dead} of {self._newest.records}{DYING}; see why: {list_them}; correct the feed, then: {replay}"
            )
            health.warn(self._part, words)
        else:
            health.good(self._part)

    def _lost(self, records: int, reason: str) -> None:
        self._context.telemetry.count("feeds_records_lost_total", records, feed=self._name, reason=reason)
        now = asyncio.get_running_loop().time()
        if now >= self._lost_said_at + LOST_SECONDS:
            self._lost_said_at = now
            log.warning("records are lost", extra={"feed": self._name, "reason": reason})

    def _unknown(self, kind: str, error: BaseException) -> None:
        self._context.telemetry.count("driver_errors_unknown_total", plugin=kind)
        log.warning("error of a driver that its plug-in does not know", extra={"plugin": kind, "error": repr(error)})


class _Newest:
    """How many of the newest records became dead letters."""

    def __init__(self) -> None:
        self.records = self.dead = 0

    def add(self, records: int, dead: int) -> None:
        """Counts records."""
        self.records, self.dead = self.records + records, self.dead + dead
        if self.records > NEWEST_RECORDS:  # older ones count half
            self.records, self.dead = self.records // 2, self.dead // 2

    @property
    def die(self) -> bool:
        """Whether most of them did."""
        return self.dead >= FEWEST_DEAD and 2 * self.dead > self.records


class _Pause:
    """Stops a feed until all that was read is committed, for a plug-in whose partition goes to another reader."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._settled = asyncio.Event()
        self._over = asyncio.Event()

    async def settle(self) -> None:
        """Returns when all is committed, or after a time in which it cannot be."""
        self._settled.clear()
        self._over.clear()
        self.asked.set()
        try:
            with contextlib.suppress(TimeoutError):
                async with timeout(SETTLE_SECONDS):
                    await self._settled.wait()
        finally:
            self.asked.clear()
            self._over.set()

    async def hold(self) -> None:
        """Says that all is committed, and waits until the plug-in goes on."""
        self._settled.set()
        await self._over.wait()
