"""Judges an event as the edge does, and packs it as an arrival."""

from __future__ import annotations

import re
import time
import uuid

from ingest.contract import Admission, Given, Parsed
from ingest.deliveries.payload import add_events
from ingest.protocols import snowplow
from ingest.protocols import webhook as deliveries
from ingest.protocols.snowplow.payload import of_tracker
from ingest.registry import protocol_of
from ingest.trackers.schemas import schemas_of
from ingest.webhooks.hook import hook_of
from penstock.control.explain.steps import Judged
from router.rules.arrival import Arrival
from shared.events.frame import RequestContext, encode_frame, pack
from shared.project.model import Key, Project, Site
from shared.project.webhooks import Webhook

PROTOCOL = "segment"
SEQ = 1
FORM_TYPE = "application/x-www-form-urlencoded"
_FORM = re.compile(rb"[\w.~*+%\[\]-]+=[^\s&=]*(?:&[\w.~*+%\[\]-]+=[^\s&=]*)*")
"""A file has no content type; a form has neither blanks nor lines."""


def judge(body: bytes, name: str, site: Site, key: Key | None) -> tuple[Judged, Arrival | None]:
    """Returns the edge's verdict, and what the router gets of an accepted event.

    Args:
        body: the event as a client sends it.
        name: of the site.
        key: the key it is sent with, for its kind; None: a browser's.
    """
    kind = key.kind if key is not None else "browser"
    admission = Admission(
        site=name,
        key=key.id if key else "",
        kind=kind,
        limits=site.limits,
        require_id=site.require_id,
        ip=site.ip,
        snowplow=site.snowplow,
        schemas=schemas_of(Project(sites={name: site})).get(name),
    )
    parsed = Parsed(admission)
    event = of_tracker(body)
    protocol = PROTOCOL if event is None else snowplow.NAME
    visitor = "" if event is None else str(uuid.uuid4())
    protocol_of(protocol).judge_again(parsed, body if event is None else event, visitor, lambda: str(uuid.uuid4()))
    return _verdict(parsed, protocol)


def judge_delivery(body: bytes, name: str, webhook: Webhook, site: Site) -> tuple[Judged, Arrival | None]:
    """Returns the edge's verdict on a delivery to a webhook, of an array on its first item, and what the router gets.

    The sender is not verified, and a name, an id or a user in headers or the query is not known.

    Args:
        body: as the sender delivers it; `a=1&b=2` is taken for a form.
        name: of the webhook.
    """
    parsed = Parsed(Admission(site=webhook.site, key=name, kind="server", limits=site.limits, ip=site.ip))
    given = Given(deliveries.kind_of("POST", body, FORM_TYPE if _FORM.fullmatch(body.strip()) else ""))
    add_events(parsed=parsed, body=body, reading=hook_of(name, webhook).reading, given=given, new_id=lambda: str(uuid.uuid4()))
    return _verdict(parsed, deliveries.NAME)


def _verdict(parsed: Parsed, protocol: str) -> tuple[Judged, Arrival | None]:
    if parsed.rejects and parsed.rejects[0].position == 0:
        refused = parsed.rejects[0]
        return Judged(accepted=False, reason=refused.reason, detail=refused.detail), None
    admission = parsed.admission
    head = parsed.heads[0]
    now = time.time()
    request = RequestContext(round(now * 1_000_000), protocol, admission.key, admission.kind)
    payload = encode_frame(pack(admission.site, [request], [head], [bytes(parsed.bodies[0])]))
    judged = Judged(accepted=True, message_id=head.message_id, type=head.type, event=head.event, mended=parsed.repaired > 0)
    return judged, Arrival(SEQ, now, payload, with_heads=True)
