"""Opens sessions of one worker again and again, for as long as it holds its lease: waits after a failure, and leaves a ledger that another
stack writes.

Every fault has the same remedy: drop what is in memory, open a new session, and begin from the queue and the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from loader.queue.epochs import raise_above, read_offset
from shared.backoff import Backoff
from shared.errors import Fenced, NotConnected, PenstockError, SetupError, Transient, UnknownDriverError
from shared.jetstream import lease as leases
from shared.service import ServiceContext
from shared.tasks import timeout

RETRY_SECONDS = (0.5, 15.0)
SETUP_RETRY_SECONDS = (5.0, 60.0)
"""First and longest wait, after errors that time may cure, and after errors that need a person."""
FENCED_SECONDS = 1.0

log = logging.getLogger(__name__)


class Persistence:
    """The sessions of one connection or sync.

    Args:
        context: of the service.
        what: `connection` or `sync`, for health and log.
        name: of it.
        ledger: its name in the destination's ledger.
        lease: the name of its lease.
        destination: its entry in the project file.
        claims: whether to take over a ledger that another stack wrote.
        failed: called with the error of each session.
    """

    def __init__(
        self,
        context: ServiceContext,
        *,
        what: str,
        name: str,
        ledger: str,
        lease: str,
        destination: Mapping[str, Any],
        claims: bool,
        failed: Callable[[PenstockError], Awaitable[None]],
    ) -> None:
        self._context = context
        self._part = f"{what} {name}"
        self._called = {what: name}
        self._ledger = ledger
        self._lease = lease
        self._destination = destination
        self._claims = claims
        self._failed = failed
        self._offset = 0
        """The difference between the ledger's epochs and the lease's."""
        self._transient = Backoff(*RETRY_SECONDS)
        self._setup = Backoff(*SETUP_RETRY_SECONDS)

    def works(self) -> None:
        """Notes that a load was successful: the next wait is short."""
        self._transient.reset()
        self._setup.reset()

    async def run(self, epoch: int, session: Callable[[int], Awaitable[None]]) -> None:
        """Opens sessions until the service drains, or a newer holder exists.

        Args:
            epoch: of the lease.
            session: works until it fails or the service drains; gets the epoch for the ledger.
        """
        await self._read_offset()
        while not self._context.draining.is_set():
            try:
                await session(epoch + self._offset)
            except Fenced as exc:
                if not await self._is_ahead(exc, epoch):
                    log.warning("fenced by a newer holder", extra={**self._called, "error": str(exc)})
                    return
                if not self._claims:
                    await self._wait_after(self._copied(exc.newest, epoch))
                    continue
                with contextlib.suppress(Transient):
                    self._offset = await raise_above(self._context.broker, self._ledger, epoch, exc.newest)
                    log.warning("the ledger is taken over", extra={**self._called, "epoch": exc.newest})
            except PenstockError as exc:
                await self._wait_after(exc)
            except Exception as exc:  # our own defect must not end the process and with it every other connection
                log.exception("unexpected error in a load", extra=self._called)
                await self._wait_after(Transient(f"unexpected {type(exc).__name__}: {exc}"))

    async def _is_ahead(self, fenced: Fenced, epoch: int) -> bool:
        """Whether the ledger is another stack's: it has a higher epoch, although this process holds the lease in this stack."""
        if fenced.newest <= epoch + self._offset:
            return False
        try:
            return await leases.holder(self._context.broker, self._lease) == self._context.instance
        except NotConnected:
            return False

    async def _read_offset(self) -> None:
        while True:
            try:
                self._offset = await read_offset(self._context.broker, self._ledger)
                return
            except Transient:
                await asyncio.sleep(FENCED_SECONDS)

    async def _wait_after(self, error: PenstockError) -> None:
        transient = isinstance(error, Transient)
        if isinstance(error, UnknownDriverError):
            self._context.telemetry.count("driver_errors_unknown_total", plugin=str(self._destination.get("type")))
        delay = (self._transient if transient else self._setup).next()
        self._context.health.bad(self._part, str(error))
        level = logging.WARNING if transient else logging.ERROR
        log.log(
            level,
            "load failed, what it holds waits",
            extra={**self._called, "error": str(error), "again_in": delay},
        )
        await self._failed(error)
        with contextlib.suppress(TimeoutError):
            async with timeout(delay):
                await self._context.draining.wait()

    def _copied(self, newest: int, epoch: int) -> SetupError:
        return SetupError(
            f"the ledger was written under epoch {newest}, this stack is at {epoch}: the destination is a copy of another stack's, or "
            f"another stack loads it too. If none does, start the loader once with PENSTOCK_LOADER_CLAIM={self._ledger}"
        )
