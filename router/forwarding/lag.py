"""Keeps the gauges of a site's waiting frames true, also while no frame comes or moves."""

from __future__ import annotations

import asyncio
import contextlib
import time

from router.forwarding.front import Front
from router.forwarding.shard import ShardView
from shared.errors import NotConnected
from shared.jetstream.broker import Broker
from shared.streams.waiting import look_ahead
from shared.telemetry.metrics import Telemetry

LAG_SECONDS = 2.0


async def watch_lag(*, broker: Broker, telemetry: Telemetry, site: str, front: Front, view: ShardView | None = None) -> None:
    """Shows for ever how many frames and events wait behind the front, and how old the first is; not of a shard whose frames ended."""
    while True:
        if view is not None and (until := view.until()) and front.seq + 1 >= until:
            telemetry.forget("router_lag_frames", "account_unrouted_events", "router_oldest_seconds", site=site)
            await view.changed()
            continue
        with contextlib.suppress(NotConnected):
            lag = await look_ahead(broker, site, front.seq)
            telemetry.gauge("router_lag_frames", lag.frames, site=site)
            telemetry.gauge("account_unrouted_events", lag.events, site=site)
            oldest = 0.0 if lag.oldest_at is None else max(0.0, time.time() - lag.oldest_at)
            telemetry.gauge("router_oldest_seconds", oldest, site=site)
        await asyncio.sleep(LAG_SECONDS)
