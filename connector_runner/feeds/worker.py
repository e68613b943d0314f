"""Runs one feed: reads its records, hands them to the outlet, commits what is durable, and opens the feed again after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from connector_runner.feeds.contract import Chunk, Environment, Feed
from connector_runner.feeds.definition import Definition
from connector_runner.feeds.outlet import Outlet, Parcel
from connector_runner.feeds.registry import parse_feed
from connector_runner.feeds.rules.shape import Shaper
from shared.backoff import Backoff
from shared.errors import ConfigError, NotConnected, PenstockError, SetupError
from shared.jetstream import topology
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.service import ServiceContext
from shared.tasks import first_of, task_group, timeout

READ_SECONDS = 0.5
"""The longest wait of one `read`: as long as a feed takes to notice that it must end."""
LINGER_SECONDS = 0.05
"""How long a record waits for others in its frame."""
LAG_SECONDS = 5.0
SETTLE_SECONDS = 10.0
SETUP_SECONDS = 30.0
"""The pause after a failure that a person must mend."""
LONGEST_PAUSE_SECONDS = 30.0
CLOSE_SECONDS = 10.0
MOST_PARTITIONS = 200
"""Partitions whose lag is shown one by one; that of the rest is one number."""

log = logging.getLogger(__name__)


class FeedWorker:
    """The worker of one feed, under its lease."""

    def __init__(self, context: ServiceContext, name: str, definition: Definition) -> None:
        self._context = context
        self._name = name
        self._definition = definition
        self._part = f"feed {name}"
        self._pause = _Pause()

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
                    needs_person = isinstance(exc, SetupError | ConfigError)
                    pause = SETUP_SECONDS if needs_person else backoff.next()
                    self._context.telemetry.count("feeds_errors_total", feed=self._name)
                    self._context.health.bad(self._part, f"{exc}; opens it again in {pause:.0f} s")
                    log.warning("feed failed", extra={"feed": self._name, "error": str(exc), "pause_seconds": pause})
                    with contextlib.suppress(TimeoutError):
                        async with timeout(pause):
                            await ending.wait()
        finally:
            self._context.telemetry.forget("feeds_lag_records", "feeds_lag_seconds", "feeds_last_record_seconds", feed=self._name)

    def change(self, definition: Definition) -> bool:  # noqa: ARG002  # whatever changed, it begins again
        """A feed begins again when its definition changes."""
        return False

    async def _follow(self, ending: asyncio.Event, backoff: Backoff) -> None:
        context, name = self._context, self._name
        self._pause = _Pause()
        plugin, rules, options = parse_feed(name, self._definition.document)
        environment = Environment(
            state=Bucket(context.broker, topology.STATE_BUCKET),
            settle=self._pause.settle,
            unknown_error=lambda error: self._unknown(str(self._definition.document["type"]), error),
        )
        feed = await plugin.open_feed(name, options, environment)
        try:
            context.health.good(self._part)
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
            wait = READ_SECONDS if parcel.empty else max(0.0, parcel.since + LINGER_SECONDS - loop.time())
            chunks: Sequence[Chunk] = () if held else await feed.read(wait)
            for chunk in chunks:
                index = 0
                while True:  # a chunk without records has a position too
                    index = outlet.fill(parcel, chunk, index)
                    if parcel.full:
                        await start()
                    if index >= len(chunk.records):
                        break
            if chunks:
                backoff.reset()
                self._context.telemetry.gauge("feeds_last_record_seconds", self._context.clock.now(), feed=self._name)
            if not parcel.empty and (held or loop.time() >= parcel.since + LINGER_SECONDS):
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
        if why is None:
            self._context.health.good(self._part)
        elif self._context.health.problems.get(self._part) != why:
            self._context.health.bad(self._part, why)
            log.warning("feed waits", extra={"feed": self._name, "why": why})

    def _unknown(self, kind: str, error: BaseException) -> None:
        self._context.telemetry.count("driver_errors_unknown_total", plugin=kind)
        log.warning("error of a driver that its plug-in does not know", extra={"plugin": kind, "error": repr(error)})


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
