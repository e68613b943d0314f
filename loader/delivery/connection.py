"""Brings one connection's events from its queue into its destination, for as long as this process holds its lease.

    queue ──> hold until due ──> shape (a thread) ──> one chunk waits ──> deliver ──> acknowledge

Shaping the next chunk and delivering the last one overlap; never more than two chunks are in memory. Every fault has the same
remedy: drop all frames in memory, keep or take the lease again, open a new session, and begin from the queue and the ledger. So
there is one path of recovery, and every start takes it.

`loader/delivery/flow.py` runs a session, `loader/delivery/deliver.py` makes the steps of a delivery, and
`loader/queue/collect.py` decides when a load is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

from loader.contract.events import EventDestination
from loader.contract.warehouse import Destination
from loader.delivery.destinations import Destinations, open_session
from loader.delivery.flow import Definition, Flow
from loader.delivery.leftovers import Sweeper
from loader.delivery.moving.finish import Finisher, not_known, readers
from loader.delivery.moving.former import Former
from loader.delivery.moving.rebuild import RebuildAskedError, watch_requests
from loader.delivery.sending.flow import EventFlow
from loader.delivery.sending.later import Later
from loader.queue.account import Accounts
from loader.queue.aside import Failing
from loader.queue.collect import bounds_of
from loader.queue.gauges import keep_gauges
from loader.queue.memory import address_of
from loader.queue.persistence import Persistence
from loader.queue.retries import Retries
from loader.queue.troubles import Troubles
from loader.watch.balance import PREFIX as SHARES
from loader.watch.limit import Limit, TooManyDeadError
from loader.watch.stop import OPENING, Stops, hash_of
from loader.watch.stuck import STUCK_SECONDS, Stuck
from shared.errors import UNREADABLE, PenstockError
from shared.events.shares import Shares
from shared.jetstream import lease as leases
from shared.jetstream.queue_reader import QueueReader
from shared.service import ServiceContext
from shared.tasks import together
from shared.threads import ThreadGate

log = logging.getLogger(__name__)


class ConnectionLoader:
    """The worker of one connection."""

    def __init__(
        self,
        context: ServiceContext,
        name: str,
        definition: Definition,
        destinations: Destinations,
        gate: ThreadGate,
        *,
        sweeper: Sweeper,
        claims: bool = False,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._context = context
        self._name = name
        self._definition = definition
        self._destinations = destinations
        self._gate = gate
        self._persistence = Persistence(
            context,
            what="connection",
            name=name,
            ledger=name,
            lease=f"loader.{name}",
            destination=definition.destination,
            claims=claims,
            failed=self._note_failure,
        )
        self._failing = Failing()
        self._troubles = Troubles(name, self._failing, context.telemetry, context.health)
        self._sweeper = sweeper
        self._accounts = Accounts(
            broker=context.broker, queue=definition.queue or name, connection=name, telemetry=context.telemetry,
            destination=definition.connection.destination, address=address_of(definition.destination),
        )  # fmt: skip
        connection = definition.connection
        period = 0.0 if connection.mode == "stream" else bounds_of(connection, definition.site, 1).period_seconds
        self._period_seconds = period
        self._stuck = Stuck(
            health=context.health,
            connection=name,
            destination=connection.destination,
            after_seconds=stuck_seconds,
            period_seconds=period,
        )
        self._former = Former(context, name, destinations)
        self._limit = Limit(definition.connection.dead_limit)
        self._stops = Stops(
            context=context, connection=name, queue=definition.queue or name, definition=hash_of(definition), limit=self._limit
        )
        self._finisher = Finisher(
            context=context,
            name=name,
            queue=definition.queue,
            accounts=self._accounts,
            former=self._former,
            destinations=destinations,
            gate=gate,
            limit=self._limit,
        )
        self._retries: Retries | Later | None = None
        self.holds = False
        """Whether this process loads it."""
        self._leaving = asyncio.Event()

    def give_up(self) -> None:
        """Leaves a shard to another loader, as if its lease were lost."""
        self._leaving.set()

    def change(self, definition: Definition) -> bool:  # noqa: ARG002  # of `Worker`
        """See `Worker.change`: another definition is another start."""
        return False

    async def work(self, lease: leases.Lease, ending: asyncio.Event) -> None:  # noqa: ARG002  # it ends when the service drains
        is_shard, context = self._definition.connection.shards > 1, self._context
        if is_shard and await Shares(context.broker, SHARES, context.instance).is_for_another(self._name):
            return
        context.health.bad(f"connection {self._name}", OPENING)
        self._stops.begin()
        self._leaving.clear()
        self.holds = True
        try:
            await (self._until_given_up(lease) if is_shard else self._while_held(lease))
        finally:
            self.holds = False
            self._troubles.forget()

    async def _until_given_up(self, lease: leases.Lease) -> None:
        working, leaving = asyncio.ensure_future(self._while_held(lease)), asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _while_held(self, lease: leases.Lease) -> None:
        sweeping = asyncio.create_task(self._sweeper.keep_swept(self._name, lease.epoch))
        # for the gauges, while its destination cannot be opened; a session reports it if the accounts cannot be read
        with contextlib.suppress(PenstockError, *UNREADABLE):
            await self._accounts.read(not_known)
        context = self._context
        context.telemetry.gauge("loader_period_seconds", self._period_seconds, connection=self._name)
        gauges = asyncio.create_task(
            keep_gauges(
                broker=context.broker,
                telemetry=context.telemetry,
                connection=self._name,
                queue=self._definition.queue,
                accounts=self._accounts,
                retries=lambda: self._retries,
                stuck=self._stuck,
            )
        )
        try:
            await self._begin(lease.epoch)
        finally:
            for task in (gauges, sweeping):
                task.cancel()
            await asyncio.gather(gauges, sweeping, return_exceptions=True)

    async def _begin(self, epoch: int) -> None:
        await self._persistence.run(epoch, self._try)

    async def _try(self, epoch: int) -> None:
        try:
            await self._session(epoch)
        except TooManyDeadError as exc:
            self._stops.stop(exc)
        except RebuildAskedError as exc:
            log.info("a new session begins", extra={"connection": self._name, "why": str(exc)})

    async def _note_failure(self, _: PenstockError) -> None:
        self._context.telemetry.count("loader_loads_total", connection=self._name, result="failed")

    async def _session(self, epoch: int) -> None:
        await self._stops.hold()
        if self._context.draining.is_set():
            return
        await self._finisher.finish(epoch)
        if self._context.draining.is_set():
            return
        connection, document = self._definition.connection, self._definition.destination
        async with self._destinations.use(connection.destination, document) as destination:
            queue, asides = readers(self._context.broker, self._definition.queue, self._name, epoch)
            if isinstance(destination, EventDestination):
                await self._send(destination, epoch, queue, asides)
            else:
                await self._load(destination, epoch, queue, asides)

    async def _send(self, destination: EventDestination, epoch: int, queue: QueueReader, asides: QueueReader) -> None:
        """Sends events one by one."""
        flow = EventFlow(
            context=self._context,
            name=self._name,
            definition=self._definition,
            epoch=epoch,
            destination=destination,
            accounts=self._accounts,
            former=self._former,
            works=self._persistence.works,
            limit=self._limit,
        )
        async with queue, asides:
            await queue.claim()  # as in `_load`
            await flow.run(queue, asides, self._keep)

    def _keep(self, retries: Later) -> None:
        self._retries = retries

    async def _load(self, destination: Destination, epoch: int, queue: QueueReader, asides: QueueReader) -> None:
        """Loads tables."""
        async with open_session(destination, self._name, epoch, self._definition.destination) as session:
            flow = Flow(
                context=self._context,
                name=self._name,
                definition=self._definition,
                epoch=epoch,
                session=session,
                capabilities=destination.capabilities,
                failing=self._failing,
                accounts=self._accounts,
                former=self._former,
                limit=self._limit,
            )
            retries = Retries(
                reader=asides, failing=self._failing, epoch=epoch, unreadable=flow.bury_unreadable, show=self._troubles.show
            )
            async with queue, asides:
                # before RETRY is read: from now on a former holder cannot acknowledge frames in the queue whose rows it puts into RETRY
                await queue.claim()
                await flow.prepare(retries)
                self._retries = retries
                self._tell(flow)
                rebuilds = destination.capabilities.transactional  # `penstock rebuild` is for these; no other flow answers it
                watching = [watch_requests(self._context, self._name, self._definition.queue)] if rebuilds else []
                await together(
                    flow.shape_all(queue, self._gate),
                    flow.retry_all(retries, self._gate),
                    flow.deliver_all(partial(self._loaded, flow)),
                    flow.follow_rewinds(queue, partial(self._tell, flow)),
                    self._wake_at_drain(queue, asides),
                    *watching,
                )

    async def _wake_at_drain(self, *readers: QueueReader) -> None:
        await self._context.draining.wait()
        for reader in readers:
            reader.wake()

    def _loaded(self, flow: Flow) -> None:
        self._persistence.works()
        self._tell(flow)

    def _tell(self, flow: Flow) -> None:
        if flow.trouble:
            self._context.health.bad(f"connection {self._name}", flow.trouble)
        else:
            self._context.health.good(f"connection {self._name}")
