"""Ends a load that was under way when its connection moved, in the destination that it came from, if that keeps no ledger.

Where there is no ledger, a load that was cut off may be in the former destination, whole, in part or not at all, and nothing there
tells. But its plan names it: the same frames with the same boundaries take their own place. So before a loader opens the
present destination, it loads this one load once more into the former, by the definition that the connection had then. Afterwards the load is
committed for certain, and is counted and acknowledged as any other. A loader that is killed meanwhile leaves what it found.

If the former destination cannot take the load for `PATIENCE_SECONDS`, or no revision that the broker keeps tells where it is, the
load goes to the present destination, and the log says so: its events may then be in both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from loader.contract.events import EventDestination
from loader.delivery.destinations import Destinations, open_session
from loader.delivery.flow import Definition, Flow
from loader.delivery.moving.former import Former
from loader.queue.account import Accounts
from loader.queue.aside import Aside, Failing
from loader.queue.collect import Held
from loader.queue.retries import Retries
from loader.registry import takes_tables
from loader.watch.limit import Limit, TooManyDeadError
from shared.errors import Fenced, NotConnected, PenstockError, Transient
from shared.events.headers import read_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.queue_reader import QueueReader
from shared.service import ServiceContext
from shared.streams.ended import Ended, Pending
from shared.threads import ThreadGate

FIRST_SECONDS = 10.0
"""How long the broker may take for the next frame that is certainly there."""

log = logging.getLogger(__name__)


class Finisher:
    """Ends the load of one connection, for as long as this process holds it.

    Args:
        accounts: of the present destination.
    """

    def __init__(
        self,
        context: ServiceContext,
        name: str,
        queue: str,
        accounts: Accounts,
        former: Former,
        destinations: Destinations,
        gate: ThreadGate,
        limit: Limit,
    ) -> None:
        self._context = context
        self._name = name
        self._queue = queue
        self._accounts = accounts
        self._former = former
        self._destinations = destinations
        self._gate = gate
        self._limit = limit

    async def finish(self, epoch: int) -> None:
        """Ends the load that was under way in the former destination, if there is one; returns early if the service drains.

        Raises:
            Fenced: another loader has the connection.
            NotConnected: the broker does not answer, or the former destination does not take the load yet; try again.
            TooManyDeadError: the limit of dead letters is reached.
        """
        await self._accounts.read(not_known)
        ended = self._accounts.moved_from
        pending = ended.pending if ended is not None else None
        if ended is None or pending is None or not pending.tables or self._former.has_answered(pending):
            return
        definition = await self._definition(ended)
        capabilities = takes_tables(str(definition.destination.get("type"))) if definition is not None else None
        if definition is None or capabilities is None or capabilities.transactional:
            return  # `Former.has` says what becomes of it
        try:
            await self._finish(ended, pending, definition, epoch)
        except (Fenced, TooManyDeadError):
            raise
        except PenstockError as exc:
            self._former.bear(ended, pending, exc)

    async def _definition(self, ended: Ended) -> Definition | None:
        snapshot = await self._former.snapshot(ended, self._queue)
        if snapshot is None:
            return None
        project = snapshot.project
        connection = project.connections[self._name]
        return Definition(
            connection, project.every_site[connection.site], project.destinations[connection.destination], self._queue
        )

    async def _finish(self, ended: Ended, pending: Pending, definition: Definition, epoch: int) -> None:
        context, failing = self._context, Failing()
        accounts = Accounts(
            broker=context.broker,
            queue=self._queue,
            connection=self._name,
            telemetry=context.telemetry,
            destination=ended.destination,
            address=ended.address,
        )
        async with self._destinations.use(ended.destination, definition.destination) as destination:
            if isinstance(destination, EventDestination):
                return
            async with open_session(destination, self._name, epoch, definition.destination) as session:
                flow = Flow(
                    context=context,
                    name=self._name,
                    definition=definition,
                    epoch=epoch,
                    session=session,
                    capabilities=destination.capabilities,
                    failing=failing,
                    accounts=accounts,
                    former=self._former,
                    limit=self._limit,
                )
                queue, asides = readers(context.broker, self._queue, self._name, epoch)
                retries = Retries(reader=asides, failing=failing, epoch=epoch, unreadable=flow.bury_unreadable)
                async with queue, asides:
                    await queue.claim()
                    if await flow.prepare(retries):
                        await self._load(flow=flow, pending=pending, queue=queue, retries=retries, accounts=accounts)
                    if not context.draining.is_set():
                        await accounts.note(accounts.stored)
        log.info(
            "the load that was under way is ended where it began",
            extra={"connection": self._name, "destination": ended.destination, "last": pending.last},
        )

    async def _load(self, flow: Flow, pending: Pending, queue: QueueReader, retries: Retries, accounts: Accounts) -> None:
        due: Sequence[Held] | Aside | None
        if pending.source.startswith("aside."):
            due = retries.find(pending.through)
        else:
            due = await self._frames(flow, pending, queue)
        if self._context.draining.is_set():
            return
        if not due:  # a loader acknowledges only what is loaded
            await accounts.done(pending, time.time())
            return
        await flow.load_only(due, queue, retries, self._gate)
        if accounts.counted.get(pending.source, 0) < pending.through and not self._context.draining.is_set():
            raise Transient("it does not take the rows of the load")

    async def _frames(self, flow: Flow, pending: Pending, queue: QueueReader) -> list[Held]:
        """Returns the frames of the load; none is acknowledged, so they and all others come to the next reader again."""
        found: list[Held] = []
        more = await queue.count() > 0
        while more and not self._context.draining.is_set():
            message = await queue.next(FIRST_SECONDS)
            if message is None:
                raise NotConnected("the frames of the last load cannot be read")
            place = read_place(message.headers)
            if place is not None and place.lane == pending.lane and place.seq <= pending.last and await flow.wanted(place):
                found.append(Held(message, place))
            more = message.waiting > 0 and not (found and found[-1].place.seq == pending.last)
        if found and found[-1].place.seq != pending.last and not self._context.draining.is_set():
            raise Transient("the queue has only a part of the last load")
        return found


def readers(broker: Broker, queue: str, connection: str, epoch: int) -> tuple[QueueReader, QueueReader]:
    """Returns the readers of a connection's frames, and of its rows that were set aside."""
    consumer = f"loader-{connection}"
    frames = QueueReader(broker, topology.DELIVER, topology.deliver_subject(queue), consumer, epoch=epoch)
    asides = QueueReader(broker, topology.RETRY, topology.retry_subject("loader", queue), consumer, epoch=epoch, most_held=-1)
    return frames, asides


async def not_known(_ended: Ended, _pending: Pending) -> bool:
    """For a look at the account alone: takes no pending load for committed."""
    return False
