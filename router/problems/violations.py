"""Violations of tracking plans as events in Segment's shape, grouped. Pure.

A frame's violations become one message: equal ones are one event with a count, and at most `MOST_GROUPS` events are made. So a flood of
violations costs no more messages than the site has frames, and counts stay exact. The ids of the events are made of the frame's place, so
a router that repeats a frame repeats its violations under the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from router.plans.compiled import Plan
from router.plans.judged import Verdict, Violation
from shared.events.event import encode_event
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.project.problems import VIOLATIONS_SITE
from shared.warnings.events import OF_SITE, PROTOCOL

EVENT = "Plan Violation"
MOST_GROUPS = 50
"""Events of one frame; all further violations are one with the rule `others`."""
MOST_IDS = 20
"""Message ids that one event names."""
OTHERS = "others"
NAME_CHARACTERS = 200

_Key = tuple[str, str, Violation]


def frame_of(
    *,
    plan: Plan,
    site: str,
    place: str,
    at_seconds: float,
    project_revision: int,
    heads: list[Head],
    verdicts: Mapping[int, Verdict],
) -> Frame:
    """Returns a frame with an event for each kind of violation.

    Args:
        place: of the frame that holds the events; ids are made of it.
        at_seconds: when EVENTS stored that frame (epoch).
    """
    groups: dict[_Key, list[int]] = {}
    others = 0
    for index, verdict in verdicts.items():
        head = heads[index]
        for violation in verdict.violations:
            key = (head.type, (head.event or "")[:NAME_CHARACTERS], violation)
            if key in groups:
                groups[key].append(index)
            elif len(groups) < MOST_GROUPS - 1:
                groups[key] = [index]
            else:
                others += 1
    request = RequestContext(received_at=int(at_seconds * 1e6), protocol=PROTOCOL, key="", kind="server")
    about: dict[str, Any] = {
        "site": site,
        "plan": plan.name,
        "plan_revision": plan.revision,
        "project_revision": project_revision,
        "at": datetime.fromtimestamp(at_seconds, UTC),
    }
    rows = [
        {
            **about,
            "event_type": kind,
            "event_name": name or None,
            "rule": violation.rule,
            "field": violation.field or None,
            "expected": violation.expected or None,
            "got": violation.got or None,
            "action": violation.action,
            "count": len(indexes),
            "message_id": heads[indexes[0]].message_id,
            "message_ids": [heads[index].message_id for index in dict.fromkeys(indexes)][:MOST_IDS],
        }
        for (kind, name, violation), indexes in groups.items()
    ]
    if others:
        rows.append({**about, "rule": OTHERS, "count": others})
    made = [_event(row, f"{place}.{number}") for number, row in enumerate(rows)]
    return pack(VIOLATIONS_SITE, [request], [head for head, _ in made], [body for _, body in made])


def _event(properties: Mapping[str, Any], id_: str) -> tuple[Head, bytes]:
    person = OF_SITE + str(properties["site"])
    event = {
        "type": "track",
        "event": EVENT,
        "messageId": id_,
        "anonymousId": person,
        "timestamp": properties["at"],
        "properties": {key: value for key, value in properties.items() if value is not None},
    }
    return Head(message_id=id_, type="track", event=EVENT, anonymous_id=person), encode_event(event)
