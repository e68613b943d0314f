"""Shaping: frames into batches of columns, on a thread where that takes long, and around events on which our own code fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set
from functools import partial
from types import MappingProxyType

from loader.contract.warehouse import Capabilities, LoadPlan
from loader.delivery.chunk import Shaped, readable
from loader.delivery.deliver import Work
from loader.delivery.isolate import Frames, Refused, is_of_events, shape_offenders
from loader.queue.aside import Aside
from loader.queue.collect import CHUNK_BODY_BYTES, Held
from loader.queue.progress import Progress
from loader.rows.shape import NOTHING, Shaper
from shared.errors import Permanent
from shared.events.frame import decode_frame
from shared.forget.ids import Forgotten
from shared.project.model import Connection
from shared.telemetry.metrics import Telemetry
from shared.threads import ThreadGate

INLINE_EVENTS = 200
"""Up to here shaping takes less time than a thread costs latency."""
INLINE_BYTES = 512 * 1024
"""The same in bytes, packed: functions may have made many events of few."""

NOBODY: Refused = MappingProxyType({})

log = logging.getLogger(__name__)


class Shaping:
    """The shapers of one session: one for frames of the queue, one for rows set aside, because their tasks run at once."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        capabilities: Capabilities,
        telemetry: Telemetry,
        ended: Callable[[str, int], int],
        forgotten: Forgotten,
    ) -> None:
        """Makes them; `ended` returns as bits the events of a frame, by lane and sequence, that are at their end already; events of
        `forgotten` ids get no rows."""
        self._name = name
        self._ended = ended
        self._telemetry = telemetry
        self._tables: set[str] = set()
        self._shaper, self._aside_shaper = (
            Shaper(
                connection_name=name,
                connection=connection,
                capabilities=capabilities,
                site_name=connection.site,
                tables=self._tables,
                forgotten=forgotten,
            )
            for _ in range(2)
        )
        self.rules = self._shaper.rules
        self.progress = Progress(self.rules.namer.key, {})
        """How far each lane is loaded into each table; the session replaces it when it has read the ledger."""

    def know(self, tables: Set[str]) -> None:
        """Counts tables that are loaded already towards `max_tables`."""
        self._tables |= tables - self._shaper.built_in

    async def shape(self, chunk: list[Held], gate: ThreadGate) -> Shaped:
        """Returns the batch of a chunk, or of its first frames if their events unpack to more than was to be expected."""
        try:
            few = sum(held.place.events for held in chunk) <= INLINE_EVENTS
            if few and sum(held.size for held in chunk) <= INLINE_BYTES:
                return self._shape(chunk)
            return await gate.run(self._shape, chunk)
        except Exception as exc:  # noqa: BLE001 - logged and counted in `_offenders`
            refused = await self._offenders(self._shaper, readable(chunk), gate, exc)
            return await gate.run(self._shape, chunk, refused)

    async def shape_aside(self, aside: Aside, payload: bytes, gate: ThreadGate) -> Work:
        """Returns the work of rows that were set aside.

        Raises:
            Permanent: the frame cannot be read.
        """
        try:
            return self._shape_aside(aside, payload)
        except Permanent:
            raise
        except Exception as exc:  # noqa: BLE001 - logged and counted in `_offenders`
            frames = {0: (aside.place.seq, decode_frame(payload))}
            refused = await self._offenders(self._aside_shaper, frames, gate, exc)
            return self._shape_aside(aside, payload, refused.get(0, NOTHING))

    async def _offenders(self, shaper: Shaper, frames: Frames, gate: ThreadGate, error: Exception) -> Refused:
        """Returns the events on which our own code fails, so that the others can be shaped without them."""
        log.error("our own code failed in shaping", exc_info=error, extra={"connection": self._name})
        self._telemetry.count("loader_internal_errors_total", connection=self._name)
        shaper.clear()
        if not is_of_events(error):
            raise error
        return await shape_offenders(shaper, frames, gate, f"{type(error).__name__}: {error}")

    def _shape(self, chunk: list[Held], refused: Refused = NOBODY) -> Shaped:
        unreadable: list[tuple[Held, str]] = []
        frames = 0
        for held in chunk:
            frames += 1
            try:
                left_out = refused.get(held.message.seq, NOTHING)
                through = partial(self.progress.through, held.place)
                ended = self._ended(held.place.lane, held.place.seq)
                self._shaper.add(decode_frame(held.message.payload), held.place.seq, through, left_out, ended=ended)
            except Permanent as exc:
                unreadable.append((held, str(exc)))
            if self._shaper.full or self._shaper.body_bytes > CHUNK_BODY_BYTES:
                break
        return Shaped(self._shaper.take(), frames, unreadable)

    def _shape_aside(self, aside: Aside, payload: bytes, refused: Mapping[int, str] = NOTHING) -> Work:
        key = self.rules.namer.key
        place, lane, own = aside.place, aside.lane, key(aside.table)
        frame = decode_frame(payload)
        frame.origins = frame.origins or aside.origins  # an event that dies now must be known when its frame comes again

        def loaded(table: str) -> int:
            return self.progress.mark(table, lane)

        self._aside_shaper.add(frame, place.seq, lambda table: loaded(table) if key(table) == own else place.seq, refused)
        batch = self._aside_shaper.take()
        if not batch.tables and loaded(own) < place.seq:
            # the connection's layout has changed and the events have no row in that table: they go to the tables of the new one
            self._aside_shaper.add(frame, place.seq, loaded, refused)
            batch = self._aside_shaper.take()
        return Work(LoadPlan(self._name, lane, place.seq, place.seq), batch, aside=True)
