"""Which events of a connection its destinations have: the present one, and the former one if the connection was moved or removed.

If a loader is killed between COMMIT and acknowledgement, only the ledger knows of its load. Its successor opens a session there
under a higher epoch, so not even a loader that is frozen in that load can commit it afterwards, and reads the marks. The frames
come again, because they were not acknowledged, but the successor does not load them into the present destination.

A destination without a ledger has no such answer. There `loader/delivery/moving/finish.py` ends the load before the present destination is opened.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from loader.contract.events import EventDestination
from loader.delivery.destinations import Destinations
from loader.queue.account import Accounts
from loader.queue.aside import Aside, aside_lane, frame_of
from loader.queue.memory import Marks, Memory, address_of
from loader.queue.plans import Plans
from loader.queue.progress import Progress
from shared.errors import ConfigError, NotConnected, PenstockError
from shared.project.snapshot import ConfigSnapshot, project_history
from shared.service import ServiceContext
from shared.streams.ended import Ended, Pending

PATIENCE_SECONDS = 60.0
"""How long a silent destination is asked again; then its load counts as not committed."""

log = logging.getLogger(__name__)


class Former:
    """Asks the former destination of one connection, for as long as this process holds it."""

    def __init__(self, context: ServiceContext, connection: str, destinations: Destinations) -> None:
        self._context = context
        self._connection = connection
        self._destinations = destinations
        self._since: float | None = None
        self._answers: dict[tuple[str, int], bool] = {}
        """Answers by lane and last sequence. Asked once: if the former destination is the present one under other options, it
        ends the present session."""

    async def has(self, ended: Ended, pending: Pending, epoch: int) -> bool:
        """Whether a load is committed; False also if its destination keeps no ledger, or no revision has its options.

        Raises:
            NotConnected: it does not answer; ask again.
        """
        if not self.has_answered(pending):
            try:
                self._answers[pending.lane, pending.last] = await self._ask(ended, pending, epoch)
            except PenstockError as exc:
                self.bear(ended, pending, exc)
        return self._answers[pending.lane, pending.last]

    def has_answered(self, pending: Pending) -> bool:
        """Whether it is decided if a load is committed."""
        return (pending.lane, pending.last) in self._answers

    def bear(self, ended: Ended, pending: Pending, error: PenstockError) -> None:
        """Bears an error of the former destination; when patience is at its end, the load counts as not committed.

        Raises:
            NotConnected: try again; while the broker is away, for as long as that takes.
        """
        now = time.monotonic()
        if not self._context.broker.nc.is_connected:
            self._since = None
        elif self._since is None:
            self._since = now
        if self._since is None or now - self._since < PATIENCE_SECONDS:
            raise NotConnected(
                f'whether the destination "{ended.destination}", where events went before, has the last load is not known yet: {error}'
            ) from error
        self._give_up(ended, pending, str(error))
        self._answers[pending.lane, pending.last] = False

    async def _ask(self, ended: Ended, pending: Pending, epoch: int) -> bool:
        memory = Memory(self._context.broker, self._connection, ended.destination, {})
        await memory.read()
        if memory.was_loaded(pending.lane, pending.last, pending.tables):
            return True
        document = await self._document(ended)
        if document is None:
            self._give_up(ended, pending, "no revision of the project that the broker keeps has its options")
            return False
        async with self._destinations.use(ended.destination, document) as destination:
            if isinstance(destination, EventDestination):
                return False
            if not destination.capabilities.transactional:
                plans = Plans(self._context.broker, self._connection)
                await plans.read()
                return plans.loaded().get(pending.lane, 0) >= pending.last
            session = await destination.open_session(self._connection, epoch)
            try:
                return has_load(await session.marks(), pending)
            finally:
                await session.close()

    def _give_up(self, ended: Ended, pending: Pending, why: str) -> None:
        log.error(
            "whether a load was committed cannot be found out; it is taken as not committed",
            extra={"connection": self._connection, "destination": ended.destination, "last": pending.last, "error": why},
        )

    async def _document(self, ended: Ended) -> dict[str, Any] | None:
        """Returns the options of the former destination, from the revisions that the broker keeps."""
        for snapshot in await self._snapshots():
            document = snapshot.project.destinations.get(ended.destination)
            if document is not None and address_of(document) == ended.address:
                return document
        return None

    async def snapshot(self, ended: Ended, queue: str) -> ConfigSnapshot | None:
        """Returns the newest revision in which the connection went to the former destination; None: the broker keeps none.

        Args:
            queue: the name of the connection's queue, which no other connection of its name has.

        Raises:
            NotConnected: the broker does not answer.
        """
        for snapshot in await self._snapshots():
            connection = snapshot.project.connections.get(self._connection)
            if connection is None or connection.destination != ended.destination or snapshot.queue_of(self._connection) != queue:
                continue
            if address_of(snapshot.project.destinations[ended.destination]) == ended.address:
                return snapshot
        return None

    async def _snapshots(self) -> list[ConfigSnapshot]:
        current = self._context.config.current
        snapshots: list[ConfigSnapshot] = [current]
        for revision, stored in reversed(await project_history(self._context.broker)):
            with contextlib.suppress(ConfigError):
                snapshots.append(stored.snapshot(revision))
        return snapshots


def has_load(marks: Marks, pending: Pending) -> bool:
    """Whether a ledger has a load. All tables of a load are committed together; rows that were aside are loaded for each table. Pure."""
    aside = frame_of(pending.lane) is not None
    tables = {table.casefold() for table in pending.tables}
    return any(
        seq >= pending.last and lane == pending.lane and (not aside or table.casefold() in tables)
        for (table, lane), seq in marks.items()
    )


def is_known(pending: Pending, known: Progress | Plans, memory: Memory, key: Callable[[str], str]) -> bool:
    """Whether a load is committed, without asking a destination: by the ledger or the plans, and the notes of former holders."""
    tables = [key(table) for table in pending.tables]
    if isinstance(known, Progress):
        here = all(known.mark(table, pending.lane) >= pending.last for table in tables)
        return here or memory.was_loaded(pending.lane, pending.last, pending.tables)  # the connection has been moved since
    if pending.source.startswith("aside."):
        lane = pending.lane.removeprefix(aside_lane("", pending.last))
        return known.asides().issuperset((table, lane, pending.last) for table in tables)
    return known.loaded().get(pending.lane, 0) >= pending.last


def further(through: Mapping[str, int], accounts: Accounts) -> dict[str, int]:
    """Returns up to where lanes are loaded into a destination without a ledger, here or elsewhere: counted events have ended."""
    found = dict(through)
    for lane, seq in accounts.counted_lanes.items():
        found[lane] = max(seq, found.get(lane, 0))
    return found


async def leave_out(
    accounts: Accounts, asides: Iterable[Aside], memory: Memory, rewound: Container[str], progress: Progress
) -> None:
    """Notes the frames that a former destination has, so that they are not loaded into the present one.

    Args:
        asides: rows set aside.
        rewound: lanes that are read again.

    Raises:
        Fenced, NotConnected, Transient: they may not be noted; do not load.
    """
    former = accounts.moved_from
    if former is not None:
        await memory.note_elsewhere(accounts.counted_lanes, rewound, former.destination, progress.lanes)
    pending = former.pending if former is not None else None
    for aside in asides:
        cut_off = pending is not None and (pending.lane, pending.tables) == (aside.lane, [aside.table])
        counts = aside.seq <= accounts.counted.get(f"aside.{aside.table}", 0)
        if (cut_off and counts) or memory.was_loaded_elsewhere(aside.lane, aside.place.seq, aside.table):
            progress.note(aside.table, aside.lane, aside.place.seq)
