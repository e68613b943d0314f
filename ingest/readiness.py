"""Whether the edge accepts events, and why not: the parts of `/ready` for the broker, EVENTS and the journal.

A balancer asks `/ready` to choose an edge for requests. So while the journal takes events, an absent broker is a warning. A full
stream or journal is a problem: the edge answers 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ingest.intake.outlet import Outlet
from ingest.journal.spool import Spool
from ingest.limits.refusals import Refusals
from shared.errors import NotConnected
from shared.jetstream import topology
from shared.service import ServiceContext
from shared.streams.dead_log import LostLetters
from shared.streams.fill import WARN_RATIO, advice, read_fill
from shared.tasks import timeout

PERIOD_SECONDS = 1.0
ROOM_BYTES = 1024 * 1024
"""The largest frame: with this much room a stream takes the next one."""
FULL_BYTES = 64 * 1024
"""With less room than this a stream is full, although a small frame may still fit."""
LOOK_SECONDS = 1.0

_MIB = 1024 * 1024

log = logging.getLogger(__name__)


class Readiness:
    """Keeps the health of an edge true."""

    def __init__(
        self, context: ServiceContext, outlet: Outlet, spool: Spool | None, lost: LostLetters, refusals: Refusals
    ) -> None:
        self._context = context
        self._outlet = outlet
        self._spool = spool
        self._lost = lost
        self._refusals = refusals
        self._short: str | None = None
        """The fill of EVENTS, if it has no room although it has refused nothing from this process."""
        context.health.bear(self.bearable)
        context.health.look_before_report(self.refresh)

    async def keep(self) -> None:
        """Looks at the streams and the journal, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_SECONDS)

    async def look(self) -> None:
        """Looks at the streams, if the broker answers, and at a journal that failed."""
        if self._spool is not None:
            await self._spool.look_again()
        if self._context.broker.connected.is_set():
            with contextlib.suppress(NotConnected, TimeoutError):
                async with timeout(LOOK_SECONDS):
                    await self._look_for_room()
        self.refresh()

    def bearable(self, part: str) -> str | None:
        """Returns why the edge accepts events although a part does not work."""
        spool = self._spool
        if part not in ("broker", "streams") or spool is None or spool.full or spool.failure:
            return None
        return f"events go to the local journal, {_used(spool)}"

    def refresh(self) -> None:
        """Names the full streams."""
        health, full = self._context.health, self._outlet.full
        why = full.get(topology.EVENTS, self._short)
        part = f"stream {topology.EVENTS}"
        if why is not None:
            what_to_do = advice(topology.EVENTS, self._context.settings.events_when_short)
            health.bad(part, f"it is full, requests are answered with 503: {why}; {what_to_do}")
        elif part in health.problems:
            health.good(part)
        if topology.DEAD in full:
            part, why = f"stream {topology.DEAD}", full[topology.DEAD]
            health.warn(part, f"it is full, refused events are counted and not kept: {why}; {advice(topology.DEAD)}")
        self._lost.refresh()
        refused = self._refusals.recent()
        if refused:
            health.warn("clients", refused)
        else:
            health.good("clients")
        if self._spool is not None:
            self._say_journal(self._spool)

    def _say_journal(self, spool: Spool) -> None:
        health, ratio = self._context.health, spool.stored_bytes / max(1, spool.max_bytes)
        self._context.telemetry.gauge("ingest_spool_bytes", spool.stored_bytes)
        self._context.telemetry.gauge("ingest_spool_fill_ratio", round(ratio, 4))
        if spool.full:
            health.bad(
                "journal",
                f"it is full, requests are answered with 503, {_used(spool)}; bring the broker back, "
                "or raise PENSTOCK_INGEST_SPOOL_MAX_BYTES",
            )
        elif spool.failure:
            away = "requests are answered with 503 while the broker is away"
            health.warn("journal", f"{spool.failure}; {away}; check the disk under PENSTOCK_INGEST_SPOOL_DIR")
        elif ratio >= WARN_RATIO:
            if "nearly full" not in health.warnings.get("journal", ""):
                log.warning("the journal is nearly full", extra={"bytes": spool.stored_bytes, "limit": spool.max_bytes})
            health.warn(
                "journal", f"it is nearly full, {_used(spool)}; requests are answered with 503 when it is; bring the broker back"
            )
        elif spool.backlog and self._outlet.refusal:
            health.warn("journal", f"events go to it, {_used(spool)}, because the broker takes none: {self._outlet.refusal}")
        else:
            health.good("journal")

    async def _look_for_room(self) -> None:
        """Looks whether EVENTS has room. Requests would show it, but a balancer sends none to an edge that is not ready, and a
        new process has seen none.
        """
        for stream in {topology.EVENTS, *self._outlet.full}:
            fill = await read_fill(self._context.broker, stream)
            room = fill.limit - fill.held
            if room > ROOM_BYTES:
                self._outlet.full.pop(stream, None)
            if stream == topology.EVENTS:
                self._short = str(fill) if fill.limit and room < FULL_BYTES else None


def _used(spool: Spool) -> str:
    return f"{spool.stored_bytes / _MIB:.1f} of {spool.max_bytes / _MIB:.1f} MiB are used"
