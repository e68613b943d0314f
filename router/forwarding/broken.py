"""Dead letters of events that break their site's tracking plan: one for each connection that lacks the event.

Each connection has its own letter, because each has the event or lacks it by its own history: one that caught up later may have been judged
by another revision of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.plans.judged import Violation
from router.rules.arrival import Arrival
from shared.events.dead import DeadLetter, origin_of
from shared.events.outcome import DeadReason

SHOWN = 5
"""Violations that a letter's detail names."""


def letters_of(arrival: Arrival, dead: Sequence[int], *, site: str, connection: str, lane: str) -> list[DeadLetter]:
    """Returns the letters of the events at `dead`, with the bytes as the client sent them.

    Raises:
        Permanent: the frame is damaged inside.
    """
    verdicts = arrival.gated.verdicts if arrival.gated is not None else {}
    heads, bodies, requests = arrival.heads, arrival.bodies, arrival.requests
    return [
        DeadLetter(
            stage="router",
            site=site,
            connection=connection,
            reason=DeadReason.TRACKING_PLAN,
            detail=_detail(verdicts[index].violations),
            body=bodies[index],
            at=arrival.at_seconds,
            origin=origin_of(lane, arrival.seq, index),
            message_id=head.message_id,
            type=head.type,
            event=head.event,
            user_id=head.user_id,
            anonymous_id=head.anonymous_id,
            request=requests[head.request],
        )
        for index, head in ((index, heads[index]) for index in dead)
    ]


def _detail(violations: Sequence[Violation]) -> str:
    more = len(violations) - SHOWN
    return "; ".join(map(str, violations[:SHOWN])) + (f"; and {more} more" if more > 0 else "")
