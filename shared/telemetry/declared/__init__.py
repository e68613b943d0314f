"""The metrics of all services: what each counts, in which unit, under which labels. `docs/metrics.md` is made from here.

A file holds the metrics of one part. Their names are in `shared/telemetry/names.py` too, in the same order.
"""

from __future__ import annotations

from shared.telemetry.declared.of_accounts import OF_ACCOUNTS
from shared.telemetry.declared.of_archive import OF_ARCHIVE
from shared.telemetry.declared.of_edge import OF_EDGE
from shared.telemetry.declared.of_feeds import OF_FEEDS
from shared.telemetry.declared.of_functions import OF_FUNCTIONS
from shared.telemetry.declared.of_loader import OF_LOADER, OF_PLUG_INS
from shared.telemetry.declared.of_router import OF_ROUTER
from shared.telemetry.declared.of_services import OF_ALERTS, OF_SERVICES
from shared.telemetry.declared.of_streams import OF_ROOM, OF_STREAMS
from shared.telemetry.declared.of_syncs import OF_SYNCS
from shared.telemetry.declared.of_telemetry import OF_TELEMETRY
from shared.telemetry.metric import Metric

METRICS: tuple[Metric, ...] = (
    *OF_EDGE,
    *OF_ROUTER,
    *OF_LOADER,
    *OF_SYNCS,
    *OF_FUNCTIONS,
    *OF_FEEDS,
    *OF_ARCHIVE,
    *OF_PLUG_INS,
    *OF_ACCOUNTS,
    *OF_SERVICES,
    *OF_STREAMS,
    *OF_ROOM,
    *OF_ALERTS,
    *OF_TELEMETRY,
)
