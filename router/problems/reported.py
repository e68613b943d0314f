"""Tells of the violations of a frame before the frame goes on: counts them, and puts them into EVENTS as events of their reserved site.

The site's reading does it, once for a frame. If the router is killed between telling and noting the frame's place, its successor reads the
frame again and tells the same under the same ids, which the window of the reserved site recognises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass

from router.forwarding.send import FAULT_SECONDS, QueueWriter
from router.problems.violations import frame_of
from router.rules.arrival import Arrival
from router.rules.compiled import SiteRules
from router.rules.match import gated_of
from shared.backoff import Backoff
from shared.errors import QueueFull, Transient
from shared.events.frame import encode_frame
from shared.jetstream import topology
from shared.project.problems import VIOLATIONS_SITE
from shared.telemetry.metrics import Telemetry

FULL_SECONDS = 5.0
"""How long violations wait for room in EVENTS: it gets room only when routers come further."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Patience:
    """Whether the violations of a site wait for room in EVENTS; not again after they waited in vain, until there is room."""

    waits: bool = True


async def report(sender: QueueWriter, telemetry: Telemetry, rules: SiteRules, arrival: Arrival, patience: Patience) -> None:
    """Returns when the violations of a frame are durable, if a connection wants them; at once if there are none.

    Args:
        sender: of the site's frames; its `ids` make those of violations.
        patience: of the site, from frame to frame.

    Raises:
        Permanent: the frame is damaged inside.
    """
    if rules.gate is None or rules.gate.plan is None:
        return
    verdicts = gated_of(rules.gate, rules.forgotten, arrival).verdicts
    if not verdicts:
        return
    counts = Counter((each.rule, each.action) for verdict in verdicts.values() for each in verdict.violations)
    for (rule, action), amount in counts.items():
        telemetry.count("router_plan_violations_total", amount, site=rules.site, rule=rule, action=action)
    telemetry.count("router_plan_broken_total", len(verdicts), site=rules.site)
    if not rules.reports:
        return
    frame = frame_of(
        plan=rules.gate.plan,
        site=rules.site,
        place=f"{sender.ids}.{arrival.seq}",
        at_seconds=arrival.at_seconds,
        project_revision=rules.revision,
        heads=arrival.heads,
        verdicts=verdicts,
    )
    payload, pause, until = encode_frame(frame), Backoff(*FAULT_SECONDS), time.monotonic() + FULL_SECONDS
    while True:
        try:
            await sender.publisher.publish(
                topology.events_subject(VIOLATIONS_SITE), payload, msg_id=f"violations.{sender.ids}.{arrival.seq}"
            )
            patience.waits = True
            return
        except QueueFull as exc:
            if not patience.waits or time.monotonic() >= until:
                telemetry.count("router_plan_violations_lost_total", sum(counts.values()), site=rules.site)
                if patience.waits:
                    log.error("violations are lost: EVENTS has no room", extra={"site": rules.site, "error": str(exc)})
                patience.waits = False
                return
        except Transient as exc:
            log.warning("violations cannot be stored yet", extra={"site": rules.site, "error": str(exc)})
        await asyncio.sleep(pause.next())
