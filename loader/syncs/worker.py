"""Brings the rows of one sync from its queue into its destination, for as long as this process holds its lease.

`loader/syncs/flow.py` runs a session. Every fault has the same remedy: a new session, which begins from the note, the queue and the
ledger. While the destination is away, rows wait in the queue; the note and `/ready` say why.
"""

from __future__ import annotations

import asyncio
import contextlib

from loader.contract.events import EventDestination
from loader.delivery.destinations import Destinations, open_session
from loader.queue.persistence import Persistence
from loader.syncs.definition import LEASES, Definition
from loader.syncs.flow import Flow
from loader.syncs.gather import MissingError, Place
from loader.syncs.note import Notes
from loader.syncs.suspect import MOST_SESSIONS, SuspectingSession
from loader.watch.stop import OPENING
from shared.errors import PenstockError, SetupError, UnknownDriverError
from shared.jetstream import lease as leases
from shared.jetstream import topology
from shared.jetstream.queue_reader import QueueReader
from shared.service import ServiceContext
from shared.syncs.naming import known_as
from shared.tasks import together
from shared.threads import ThreadGate


class SyncLoader:
    """The worker of one sync."""

    def __init__(
        self,
        context: ServiceContext,
        name: str,
        definition: Definition,
        destinations: Destinations,
        gate: ThreadGate,
        *,
        claims: bool = False,
    ) -> None:
        self._context = context
        self._name = name
        self._definition = definition
        self._destinations = destinations
        self._gate = gate
        self._part = f"sync {name}"
        self._notes: Notes | None = None
        self._missing: Place | None = None
        """Where frames were missing from the queue in the session before."""
        self._strange = 0
        """How many sessions in a row ended with an error that the plug-in does not know."""
        self._persistence = Persistence(
            context,
            what="sync",
            name=name,
            ledger=known_as(name),
            lease=f"{LEASES}.{name}",
            destination=definition.document,
            claims=claims,
            failed=self._note_failure,
        )

    def change(self, definition: Definition) -> bool:  # noqa: ARG002  # of `Worker`
        """See `Worker.change`: another definition is another start."""
        return False

    async def work(self, lease: leases.Lease, ending: asyncio.Event) -> None:  # noqa: ARG002  # it ends when the service drains
        self._context.health.bad(self._part, OPENING)
        self._notes = None
        try:
            await self._persistence.run(lease.epoch, self._session)
        finally:
            self._context.telemetry.forget("loader_sync_last_load_seconds", sync=self._name)

    async def _note_failure(self, error: PenstockError) -> None:
        self._context.telemetry.count("loader_sync_failures_total", sync=self._name)
        self._missing = error.place if isinstance(error, MissingError) else None
        self._strange += isinstance(error, UnknownDriverError)
        with contextlib.suppress(PenstockError):  # `/ready` and the log say it too
            if self._notes is None:
                notes = self._new_notes()
                await notes.read()
                self._notes = notes
            await self._notes.waits(str(error))

    def _new_notes(self) -> Notes:
        return Notes(self._context.broker, self._name, self._definition.destination)

    async def _session(self, epoch: int) -> None:
        name, document = self._definition.destination, self._definition.document
        self._notes = None
        async with self._destinations.use(name, document) as destination:
            if isinstance(destination, EventDestination):
                raise SetupError(
                    f'destination "{name}" takes events one by one and has no tables; choose a warehouse or files for sync {self._name}'
                )
            queue = QueueReader(
                self._context.broker,
                topology.DELIVER,
                topology.deliver_subject(topology.sync_queue(self._name)),
                f"loader-sync-{self._name}",
                epoch=epoch,
            )
            async with open_session(destination, known_as(self._name), epoch, document) as session, queue:
                # from now on a former holder can acknowledge no frame; then its last note is the newest
                await queue.claim()
                notes = self._new_notes()
                await notes.read()
                self._notes = notes
                flow = Flow(
                    self._context,
                    self._name,
                    destination=name,
                    session=SuspectingSession(session) if self._strange >= MOST_SESSIONS else session,
                    capabilities=destination.capabilities,
                    notes=notes,
                    gate=self._gate,
                    again=self._missing,
                )
                await flow.prepare()
                if notes.progress.waits and await queue.count() == 0:
                    await notes.waits("")
                self._context.health.good(self._part)
                await together(flow.gather_all(queue), flow.deliver_all(queue, self._works), self._wake_at_drain(queue))

    async def _wake_at_drain(self, reader: QueueReader) -> None:
        await self._context.draining.wait()
        reader.wake()

    def _works(self) -> None:
        self._persistence.works()
        self._missing = None
        self._strange = 0
        self._context.health.good(self._part)
