"""Judges dead letters of tracking plans again: by the present plan of their site, and by the present rules of their connection.

The letter's event never met the connection's own rules, so a replay asks them now. An event that they leave out stays a letter.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.control.letters.judged import Refusal
from router.rules.arrival import Arrival
from router.rules.compiled import SiteRules
from router.rules.match import match
from shared.errors import Permanent
from shared.events.dead import DeadLetter
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.events.outcome import DeadReason


def is_planned(letter: DeadLetter) -> bool:
    """Whether a tracking plan made the letter."""
    return letter.reason == DeadReason.TRACKING_PLAN and letter.stage == "router"


def judge_planned(letter: DeadLetter, rules: SiteRules | None) -> tuple[Head, bytes] | Refusal:
    """Returns head and body of a letter as its connection gets it now, or why it does not."""
    mine = rules.connections.get(letter.connection or "") if rules is not None else None
    if mine is None:
        return Refusal(letter.reason, "its connection is disabled or left the project")
    head = Head(
        message_id=letter.message_id or "",
        type=letter.type or "",
        event=letter.event,
        user_id=letter.user_id,
        anonymous_id=letter.anonymous_id,
    )
    request = letter.request or RequestContext(received_at=int(letter.at * 1e6), protocol="replay", key="")
    try:
        arrival = Arrival(1, letter.at, encode_frame(pack(letter.site, [request], [head], [letter.body])), with_heads=True)
        matched = match(replace(mine, spread=None), arrival)  # any shard delivers it
        if matched.dead:
            found = arrival.gated.verdicts[0] if arrival.gated is not None else None
            return Refusal(letter.reason, "; ".join(map(str, found.violations)) if found is not None else "")
        if matched.indexes is not None and not matched.indexes:
            reason = next(iter(matched.drops))
            return Refusal(str(reason), f"the rules of {mine.name} leave it out: {reason.meaning}")
        return head, arrival.bodies[0]
    except Permanent as exc:
        return Refusal(letter.reason, str(exc))
