"""Puts one frame into a connection's queue, or before its functions, or an unreadable one into the dead letters, however long it takes.

The id of a message is made of the frame's origin, its connection and the revision of the project, so the broker stores a frame
once that a new router sends again. The loader recognises it by its sequence within the lane, also after the broker has forgotten
the id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from shared.backoff import Backoff
from shared.errors import Permanent, QueueFull, Transient
from shared.events.dead import DeadLetter, bury
from shared.events.headers import Place, write_place
from shared.events.outcome import DeadReason
from shared.events.shards import WHOLE, Shard
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.publisher import Publisher
from shared.streams.waiting import count_frames
from shared.telemetry.metrics import Telemetry
from shared.telemetry.tracing.spans import current_headers

STAGE = "router"
FULL_SECONDS = (0.05, 1.0)
"""First and longest pause while a queue is full: short, because the loader waits for us as soon as there is room."""
FAULT_SECONDS = (0.25, 5.0)

log = logging.getLogger(__name__)


class QueueWriter:
    """Sends the frames of one lane of one site.

    Args:
        broker: connected.
        lane: the lane of all frames that it sends.
        source: makes message ids unique: the id of a replay, or the incarnation of EVENTS.
        shard: of the site; several may send a part of one frame each.
    """

    def __init__(self, broker: Broker, site: str, lane: str, source: str, shard: Shard = WHOLE) -> None:
        self._broker = broker
        self._publisher = broker.publisher
        self.site = site
        self.lane = lane
        self._source = source
        self.shard = shard
        self.ids = f"{source}.{shard.lane}" if shard.lane else source
        """The beginning of ids of messages that are made of one frame."""
        self._past_functions: set[str] = set()
        """Queues of which nothing waits for functions, so that no frame overtakes another on the straight way."""

    @property
    def publisher(self) -> Publisher:
        """What it publishes with."""
        return self._publisher

    @property
    def incarnation(self) -> str:
        """The incarnation of the EVENTS stream that it reads."""
        return self._source

    async def try_send(
        self,
        queue: str,
        revision: int,
        place: Place,
        payload: bytes,
        trace: Mapping[str, str] | None = None,
        *,
        through_functions: bool = False,
    ) -> None:
        """Publishes once, with the original frame's trace, and returns when the frame is durable.

        A frame that needs no functions waits while earlier ones of its queue are in them: behind it the loader would take those for
        repeats.

        Args:
            through_functions: the frame goes to the connection's functions, else straight to its destination's loader.

        Raises:
            QueueFull, NotConnected, Transient: it may not be stored; send the same again.
            Permanent: the broker can never take it.
        """
        if through_functions:
            self._past_functions.discard(queue)
            subject = topology.functions_subject(queue)
        else:
            await self._let_functions_end(queue)
            subject = topology.deliver_subject(queue)
        await self._publisher.publish(
            subject,
            payload,
            msg_id=f"{self.ids}.{place.seq}.{queue}.{revision}.{place.rewind}",
            headers={**write_place(place), **(trace or {})},
        )

    async def _let_functions_end(self, queue: str) -> None:
        """Asks once, after a start or a frame that went there, whether frames of a queue are in functions; raises QueueFull if so."""
        if queue in self._past_functions:
            return
        frames = await count_frames(self._broker, topology.FUNCTIONS, topology.functions_subject(queue))
        if frames:
            raise QueueFull(f"{frames} earlier frames of {queue} are in its functions still")
        self._past_functions.add(queue)

    async def bury_events(self, *, telemetry: Telemetry, seq: int, connection: str, letters: Sequence[DeadLetter]) -> None:
        """Puts events of a frame that break the site's tracking plan into a connection's dead letters, once, and counts them.

        Raises:
            QueueFull, NotConnected, Transient: they may not be stored; send the same again.
        """
        await bury(
            publisher=self._publisher,
            stage=STAGE,
            name=connection,
            letters=letters,
            msg_id=f"{self.ids}.{seq}.{STAGE}.{connection}.plan",
            trace=current_headers(),
        )
        telemetry.count("router_events_dead_total", len(letters), site=self.site, reason=DeadReason.TRACKING_PLAN)

    async def bury_frame(
        self, telemetry: Telemetry, seq: int, at_seconds: float, payload: bytes, why: str, connection: str | None = None
    ) -> None:
        """Puts a frame into the dead letters whole and counts it; returns when it is durable, however long that takes."""
        letter = DeadLetter(
            stage=STAGE,
            site=self.site,
            reason=DeadReason.FRAME_UNREADABLE,
            detail=why,
            body=payload,
            at=at_seconds,
            origin=f"{self.lane}:{seq}",
            connection=connection,
        )
        name = connection or self.site
        pause = Backoff(*FAULT_SECONDS)
        while True:
            try:
                await bury(
                    publisher=self._publisher,
                    stage=STAGE,
                    name=name,
                    letters=[letter],
                    msg_id=f"{self.ids}.{seq}.{STAGE}.{name}",
                    trace=current_headers(),
                )
                break
            except Permanent as exc:
                log.error("unreadable frame is too large for a dead letter", extra={"seq": seq, "error": str(exc)})
                break
            except Transient as exc:
                log.warning("dead letter cannot be stored yet", extra={"seq": seq, "error": str(exc)})
                await asyncio.sleep(pause.next())
        telemetry.count("router_events_dead_total", site=self.site, reason=DeadReason.FRAME_UNREADABLE)
        log.error("frame is in the dead letters", extra={"site": self.site, "seq": seq, "error": why, "connection": connection})
