"""Writes the warnings of a process to the stream WARNINGS: at most one message a period, however many events they are of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from shared.errors import PenstockError, Permanent
from shared.events.frame import encode_frame
from shared.events.headers import EVENTS
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.project.model import Project
from shared.tasks import timeout
from shared.telemetry.metrics import Telemetry
from shared.warnings.declared import WARNED
from shared.warnings.events import frame_of
from shared.warnings.tally import Counted, Tally

LOOK_SECONDS = 2.0
LAST_SECONDS = 2.0
"""How long a process that ends tries to tell its last warnings."""

log = logging.getLogger(__name__)


class WarningsWriter:
    """The warnings of one process.

    Args:
        service: name of the service.
        instance: unique to the process.
        project: returns the project in force.
        period_seconds: least time between two messages.
    """

    def __init__(
        self,
        broker: Broker,
        telemetry: Telemetry,
        *,
        service: str,
        instance: str,
        project: Callable[[], Project],
        period_seconds: float,
    ) -> None:
        self._broker = broker
        self._telemetry = telemetry
        self._service = service
        # a process id can come again
        self._instance = f"{instance}-{time.time_ns():x}"
        self._project = project
        self._period_seconds = period_seconds
        self._tally = Tally()
        self._number = 0
        self._unsent: tuple[str, bytes, int] | None = None
        """A message that the broker may have, or not: sent again as it is."""
        self._sent_at = float("-inf")

    async def run(self) -> None:
        """Looks and writes for ever; when it is cancelled, it writes the rest."""
        try:
            while True:
                await asyncio.sleep(min(LOOK_SECONDS, self._period_seconds))
                self.look()
                if time.monotonic() - self._sent_at >= self._period_seconds:
                    await self.write()
        finally:
            if self._broker.nc.is_connected:
                self.look()
                with contextlib.suppress(TimeoutError):
                    async with timeout(LAST_SECONDS):
                        await self.write()

    def look(self) -> None:
        """Adds what was counted since the last look."""
        project = self._project()
        sites = {f"connection {name}": each.site for name, each in project.connections.items()}
        sites.update({f"feed {name}": str(each.get("site")) for name, each in project.feeds.items()})
        now = time.time()
        for warned in WARNED:
            counters = self._telemetry.read(warned.counter)
            if counters:
                self._tally.look(warned, [Counted(*each) for each in counters], sites, now)

    async def write(self) -> None:
        """Writes one message, if there is something to tell; what fails is written with the next call."""
        if self._unsent is None and self._tally:
            warnings = self._tally.take()
            self._number += 1
            number = str(self._number)
            frame = frame_of(warnings, service=self._service, instance=self._instance, number=number, now=time.time())
            self._unsent = (f"{self._instance}.{number}", encode_frame(frame), len(warnings))
        if self._unsent is None:
            return
        msg_id, payload, warnings_in_it = self._unsent
        try:
            await self._broker.publisher.publish(
                topology.warnings_subject(self._service), payload, msg_id=msg_id, headers={EVENTS: str(warnings_in_it)}
            )
        except Permanent as exc:  # the next ones may fit
            log.error("warnings are lost", extra={"error": str(exc)})
        except PenstockError as exc:  # it never ends the service; the counts stay
            log.debug("warnings cannot be written now", extra={"error": str(exc)})
            return
        self._unsent = None
        self._sent_at = time.monotonic()
