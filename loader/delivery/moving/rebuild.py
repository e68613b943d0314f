"""A run's request to load everything of a connection again (`shared/streams/runs.py`), answered between two sessions.

The loader forgets what its ledger says of the live lane. Then the destination looks as one that went back to its beginning, and what
is missing comes again by a rewind, as always: each frame once, and in order with frames that come meanwhile. A destination without
this part of the ledger was wiped with it, and nothing needs to be forgotten.

Where rows are appended, a ledger that is there means rows that are there: to load them again would double them. Then nothing is done,
and the answer says how to wipe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from loader.contract.warehouse import Session
from loader.queue.aside import frame_of
from shared.errors import Conflict, Transient
from shared.events.headers import is_live
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.service import ServiceContext
from shared.streams.rewind import Rewind
from shared.streams.runs import REQUESTS, Request, decode_request, read_request, write_request

log = logging.getLogger(__name__)

WIPE = (
    "the ledger of the destination has all events, perhaps because a wipe was found and mended before, and where rows are appended "
    "none is loaded twice; to load them again, drop the tables with _penstock_loads among them, or the whole schema or file"
)


class RebuildAskedError(Transient):
    """A run asks for a rebuild: the next session answers it."""


async def watch_requests(context: ServiceContext, connection: str, queue: str) -> None:
    """Waits for a request, until the service drains.

    Raises:
        RebuildAskedError
    """
    watching = asyncio.ensure_future(_wait_for_request(context.broker, connection, queue))
    draining = asyncio.ensure_future(context.draining.wait())
    try:
        await asyncio.wait({watching, draining}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
    finally:
        for task in (watching, draining):
            task.cancel()
        await asyncio.gather(watching, draining, return_exceptions=True)


async def _wait_for_request(broker: Broker, connection: str, queue: str) -> None:
    async for entry in Bucket(broker, topology.STATE_BUCKET).watch(REQUESTS + connection):
        if entry.value:
            request = decode_request(entry.value)
            if request.state == "asked" and request.queue == queue:
                raise RebuildAskedError(f"run {request.run} asks for all events again")


class Rebuild:
    """The answer of one session to a request."""

    def __init__(self, broker: Broker, connection: str, queue: str, *, merges: bool) -> None:
        self._broker = broker
        self._connection = connection
        self._queue = queue
        self._merges = merges
        self._found: tuple[Request, int] | None = None
        self._why = ""

    async def begin(self, session: Session) -> None:
        """Makes the destination look empty, if a run asks for that; before the look back.

        Raises:
            NotConnected, Transient, SetupError
        """
        found = await read_request(self._broker, self._connection)
        if found is None or found[0].state != "asked" or found[0].queue != self._queue:
            return
        self._found = found
        marks = [mark for mark in await session.marks() if is_live((frame_of(mark[1]) or (mark[1],))[0])]
        if not marks:
            return
        if not self._merges:
            self._why = WIPE
            return
        log.warning("the ledger is forgotten, all events are loaded again", extra={"connection": self._connection})
        await session.forget(marks)

    async def answer(self, rewinds: dict[str, Rewind], replays: Iterable[str]) -> None:
        """Tells the run by which rewinds and replays the events come; behind the look back.

        Raises:
            NotConnected, Transient
        """
        if self._found is None:
            return
        request, revision = self._found
        lanes = {lane: rewind.number for lane, rewind in rewinds.items() if is_live(lane)}
        coming = list(replays)
        why = self._why if not (lanes or coming) else ""
        answer = Request(run=request.run, queue=request.queue, state="begun", lanes=lanes, replays=coming, why=why)
        try:
            await write_request(self._broker, self._connection, answer, revision)
        except Conflict as exc:
            raise Transient(f"connection {self._connection}: another run asks for a rebuild") from exc
