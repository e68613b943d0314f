"""A warning as an event in Segment's shape, and back. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.errors import UNREADABLE
from shared.events.event import encode_event, read_time
from shared.events.frame import Frame, Head, RequestContext, decode_frame, pack
from shared.project.problems import WARNINGS_SITE
from shared.warnings.declared import BY_REASON
from shared.warnings.tally import Warning_

EVENT = "Ingestion Warning"
PROTOCOL = "problems"
OF_SITE = "site:"


def frame_of(warnings: Sequence[Warning_], *, service: str, instance: str, number: str, now: float) -> Frame:
    """Returns a frame with an event for each warning.

    Args:
        instance: the process that tells them.
        number: of the message, unique to the process.
        now: epoch seconds.
    """
    request = RequestContext(received_at=int(now * 1e6), protocol=PROTOCOL, key="", kind="server")
    heads: list[Head] = []
    bodies: list[bytes] = []
    for index, each in enumerate(warnings):
        declared = BY_REASON[each.reason]
        properties: dict[str, Any] = {
            "site": each.site,
            "connection": each.connection,
            "service": service,
            "instance": instance,
            "reason": each.reason,
            "meaning": declared.meaning,
            "unit": each.unit,
            "count": each.count,
            "first_seen": datetime.fromtimestamp(each.first_at, UTC),
            "last_seen": datetime.fromtimestamp(each.last_at, UTC),
            "sample": each.sample,
            "what_to_do": declared.advice,
        }
        id_ = f"{instance}.{number}.{index}"
        event = {
            "type": "track",
            "event": EVENT,
            "messageId": id_,
            "anonymousId": OF_SITE + each.site,
            "timestamp": properties["last_seen"],
            "properties": {key: value for key, value in properties.items() if value is not None},
        }
        heads.append(Head(message_id=id_, type="track", event=EVENT, anonymous_id=OF_SITE + each.site))
        bodies.append(encode_event(event))
    return pack(WARNINGS_SITE, [request], heads, bodies)


def site_of(head: Head) -> str:
    """Returns the site that a warning is about."""
    return (head.anonymous_id or "").removeprefix(OF_SITE)


def read_warnings(payload: bytes) -> Iterator[tuple[str, Warning_]]:
    """Yields the warnings of a message of WARNINGS with their ids; those of a later version that cannot be read are left out.

    Raises:
        Permanent: not a frame.
    """
    frame = decode_frame(payload)
    for head, body in zip(frame.heads, frame.bodies(), strict=True):
        with contextlib.suppress(*UNREADABLE):
            told = msgspec.json.decode(body, type=_Event).properties
            first, last = read_time(told.first_seen), read_time(told.last_seen)
            if first is not None and last is not None:
                yield (
                    head.message_id,
                    Warning_(
                        site=told.site,
                        connection=told.connection,
                        reason=told.reason,
                        unit=told.unit,
                        count=told.count,
                        first_at=first.timestamp(),
                        last_at=last.timestamp(),
                        sample=told.sample,
                    ),
                )


class _Told(msgspec.Struct, frozen=True):
    site: str
    reason: str
    unit: str
    count: int
    first_seen: str
    last_seen: str
    connection: str | None = None
    sample: str | None = None


class _Event(msgspec.Struct, frozen=True):
    properties: _Told
