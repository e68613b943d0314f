"""The loop of keepers of EVENTS, of DEAD and of accounts: one router at a time looks, again and again.

An error ends no keeper, because it would end the router too. An absent broker is reported elsewhere; any other error is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shared.errors import Transient
from shared.jetstream.lease import Lease

ERROR_SECONDS = 5.0
"""The pause after an unexpected error, so that the log stays readable."""

log = logging.getLogger(__name__)


async def look_while_held(lease: Lease, what: str, seconds: float, look: Callable[[], Awaitable[object]]) -> None:
    """Looks until the lease is lost.

    Args:
        what: the subject of the looks, for the log.
        seconds: between two looks.
    """
    while not lease.lost.is_set():
        pause = seconds
        try:
            await look()
        except Transient as exc:
            log.debug("cannot be kept now", extra={"what": what, "error": str(exc)})
        except Exception:
            log.exception("unexpected error of a keeper", extra={"what": what})
            pause = ERROR_SECONDS
        await asyncio.sleep(pause)
