"""Decides which events of a frame a connection gets, and why it does not get the others. Pure.

An event is asked, in this order, whether its user belongs to this shard of the connection, whether it was seen before (decided for the whole
site, see `router/window/dedupe.py`), whether its person is forgotten, what the site's gate says (`router/rules/gate.py`), whether its consent and its integrations object allow the
connection, whether it meets `where`, and whether sampling keeps its user. The first no counts, so no answer depends on what is cheap to
ask. A connection without rules about bodies opens none.

- Consent: an event that says nothing of it passes; else it must grant the categories of the connection (`shared/rules/consent.py`).
- Integrations: an event is excluded by `false` for the connection, its destination or the destination's type, and by
  `Warehouses: {all: false}`. `All: false` excludes nothing, as with Segment's warehouses.

Filters fail closed: if a rule needs a body that cannot be read, the event is left out and counted in `errors` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules
from router.rules.gate import UNREADABLE, Gate, Gated, ask, pass_gate
from router.rules.sample import is_kept
from shared.events.event import JSON, RequestFacts
from shared.events.outcome import DropReason
from shared.forget.ids import Forgotten


class Matched(NamedTuple):
    """A connection's part of a frame: `indexes` ascending, None for all; the number left out by reason; the number of these for
    which a filter failed. `dead`: events that the site's tracking plan makes dead letters of this connection."""

    indexes: list[int] | None
    drops: Mapping[DropReason, int]
    errors: int
    dead: Sequence[int] = ()


_NO_DROPS: Mapping[DropReason, int] = {}
_ALL = Matched(None, _NO_DROPS, 0)


def match(rules: ConnectionRules, arrival: Arrival) -> Matched:
    """Decides on every event of a frame.

    Raises:
        Permanent: the frame is damaged inside.
    """
    if not arrival.repeated and not rules.needs_heads:
        return _ALL
    total = len(arrival)
    drops: dict[DropReason, int] = {}
    own: Sequence[int] | None = None
    if rules.spread is not None:
        own = rules.spread.own(arrival)
        _count(drops, DropReason.OTHER_SHARD, total - len(own))
    indexes = admitted(rules.forgotten, arrival, drops, own)
    errors = 0
    dead: Sequence[int] = ()
    if rules.gate is not None and indexes:
        gated = gated_of(rules.gate, rules.forgotten, arrival)
        if gated.filtered or gated.dropped or gated.dead:
            filtered, dropped, died = gated.filtered, gated.dropped, gated.dead
            if own is not None:
                mine = frozenset(own)
                filtered, dropped, died = filtered & mine, dropped & mine, died & mine
            dead = sorted(died) if died else ()
            _count(drops, DropReason.SITE_FILTERED, len(filtered))
            _count(drops, DropReason.TRACKING_PLAN, len(dropped))
            out = gated.filtered | gated.dropped | gated.dead
            indexes = [index for index in indexes if index not in out]
            errors += gated.unread
    if rules.needs_bodies and indexes:
        indexes, unread = _ask_permission(rules, arrival, indexes, drops)
        errors += unread
    if rules.predicate is not None and indexes:
        passing, unread = ask(rules.predicate, rules.known, arrival, indexes)
        _count(drops, DropReason.FILTERED, len(indexes) - len(passing))
        errors += unread
        indexes = passing
    if rules.sample < 1 and indexes:
        heads = arrival.heads
        kept = [index for index in indexes if is_kept(heads[index], rules.sample)]
        _count(drops, DropReason.SAMPLED, len(indexes) - len(kept))
        indexes = kept
    return Matched(None if len(indexes) == total else list(indexes), drops, errors, dead)


def admitted(
    forgotten: Forgotten, arrival: Arrival, drops: dict[DropReason, int], own: Sequence[int] | None = None
) -> Sequence[int]:
    """Returns the events without repeats and without forgotten people; counts the others in `drops`.

    Args:
        own: the events that are asked; None: all.

    Raises:
        Permanent: the frame is damaged inside.
    """
    indexes: Sequence[int] = range(len(arrival)) if own is None else own
    if arrival.repeated:
        repeated = set(arrival.repeated)
        kept = [index for index in indexes if index not in repeated]
        _count(drops, DropReason.DUPLICATE, len(indexes) - len(kept))
        indexes = kept
    if forgotten and indexes and (gone := arrival.forgotten(forgotten)):
        kept = [index for index in indexes if index not in gone]
        _count(drops, DropReason.FORGOTTEN, len(indexes) - len(kept))
        indexes = kept
    return indexes


def gated_of(gate: Gate, forgotten: Forgotten, arrival: Arrival) -> Gated:
    """Returns what a site's gate says to the events of a frame; it is asked once, for all connections.

    Raises:
        Permanent: the frame is damaged inside.
    """
    if arrival.gated is None:
        arrival.gated = pass_gate(gate, arrival, admitted(forgotten, arrival, {}))
    return arrival.gated


def _ask_permission(
    rules: ConnectionRules, arrival: Arrival, indexes: Sequence[int], drops: dict[DropReason, int]
) -> tuple[list[int], int]:
    """Returns the events whose consent and integrations object allow the connection, and how many could not be read."""
    passing: list[int] = []
    errors = 0
    heads, bodies, facts = arrival.heads, arrival.bodies, arrival.facts
    for index in indexes:
        reason: DropReason | None = None
        if _may_exclude(rules, bodies[index], facts[heads[index].request]):
            try:
                reason = _exclusion(rules, arrival.event(index))
            except UNREADABLE:
                reason = DropReason.FILTERED
                errors += 1
        if reason is None:
            passing.append(index)
        else:
            _count(drops, reason, 1)
    return passing, errors


def _may_exclude(rules: ConnectionRules, body: bytes, facts: RequestFacts) -> bool:
    """Whether the JSON must be read: most bodies do not hold the words, and a search in the bytes shows that."""
    if b"\\u" in body:  # a key may be written in escapes
        return True
    if rules.may_lack_consent(body, facts.fallback_context):
        return True
    if not rules.integrations:
        return False
    place = body.find(b'"integrations"')
    return facts.integrations is not None or (place >= 0 and body.find(b"false", place) >= 0)


def _exclusion(rules: ConnectionRules, event: JSON) -> DropReason | None:
    if rules.lacks_consent(event):
        return DropReason.CONSENT
    if rules.integrations:
        wanted = event.get("integrations")
        if type(wanted) is dict:
            warehouses = wanted.get("Warehouses")
            if any(wanted.get(name) is False for name in rules.integrations) or (
                type(warehouses) is dict and warehouses.get("all") is False
            ):
                return DropReason.INTEGRATIONS
    return None


def _count(drops: dict[DropReason, int], reason: DropReason, amount: int) -> None:
    if amount:
        drops[reason] = drops.get(reason, 0) + amount
