"""Gauges of a connection, refreshed from its queue by a clock, for as long as this process holds it.

They are not set on the path of events: a load that is tried again and again, or a destination that cannot be opened, must not
freeze them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from loader.queue.account import Accounts
from loader.watch.stuck import Stuck
from shared.errors import NotConnected, PenstockError
from shared.jetstream.broker import Broker
from shared.streams.waiting import look_aside, look_at_functions, look_at_oldest_aside, look_at_queue
from shared.telemetry.metrics import Telemetry

LOOK_SECONDS = 2.0

log = logging.getLogger(__name__)


class SetAside(Protocol):
    """The waiting events in RETRY, once a session has read them."""

    @property
    def events(self) -> int:
        """Number of waiting events."""
        ...

    @property
    def rows(self) -> int:
        """Waiting rows by table; for events that are sent one by one, the events."""
        ...


async def keep_gauges(
    broker: Broker,
    telemetry: Telemetry,
    connection: str,
    queue: str,
    accounts: Accounts,
    retries: Callable[[], SetAside | None],
    stuck: Stuck | None = None,
) -> None:
    """Sets the gauges for ever; removes them when cancelled.

    Args:
        retries: returns the rows that wait for failing tables, once a session has read them.
        stuck: gets the time since which the oldest event waits.
    """
    try:
        while True:
            try:
                with contextlib.suppress(NotConnected):
                    await set_gauges(
                        broker=broker,
                        telemetry=telemetry,
                        connection=connection,
                        queue=queue,
                        accounts=accounts,
                        retries=retries(),
                        stuck=stuck,
                    )
                with contextlib.suppress(PenstockError):  # the next load says so too
                    await accounts.flush()
            except Exception:  # no task waits for this one: it would end unseen, and the gauges with it
                log.exception("unexpected error while gauges are set", extra={"connection": connection})
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        telemetry.forget(connection=connection)
        if stuck is not None:
            stuck.forget()


async def set_gauges(
    broker: Broker,
    telemetry: Telemetry,
    connection: str,
    queue: str,
    accounts: Accounts,
    retries: SetAside | None,
    stuck: Stuck | None = None,
) -> None:
    """Looks at waiting events, and shows their number and age.

    Raises:
        NotConnected: the broker does not answer.
    """
    taken = accounts.counts.replayed
    functions = await look_at_functions(broker, queue)
    waiting = await look_at_queue(broker, queue)
    if stuck is not None:
        stuck.look(waiting.queued_at, accounts.last_load_at)
    if retries is None:
        aside = await look_aside(broker, queue)
        set_aside, oldest_aside, aside_rows = aside.events, aside.oldest_at, sum(aside.rows.values())
    else:
        set_aside, oldest_aside, aside_rows = retries.events, await look_at_oldest_aside(broker, queue), retries.rows
    telemetry.gauge("loader_waiting_frames", waiting.frames, connection=connection)
    oldest = [at for at in (waiting.oldest_at, oldest_aside) if at is not None]
    telemetry.gauge("loader_oldest_seconds", max(0.0, time.time() - min(oldest)) if oldest else 0.0, connection=connection)
    telemetry.gauge("account_waiting_events", waiting.events - accounts.begun, connection=connection, place="queue")
    telemetry.gauge("account_waiting_events", functions.events, connection=connection, place="functions")
    telemetry.gauge("account_waiting_events", set_aside - accounts.early, connection=connection, place="aside")
    telemetry.gauge("account_replayed_events", taken + waiting.replayed + functions.frames.replayed, connection=connection)
    telemetry.gauge("account_made_events", accounts.counts.made + functions.again.events, connection=connection)
    telemetry.gauge("loader_aside_rows", aside_rows, connection=connection)
    accounts.export()
