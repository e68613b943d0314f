"""The gate of a site: the rules that an event of the site meets before any connection's. Decided once for all connections.

It asks the site's `where`, and then its tracking plan, which may also take values out of an event. A body that a condition needs and that
cannot be read fails: the filter is closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from router.plans.compiled import Plan
from router.plans.judged import Verdict, judge, unreadable
from router.plans.strip import strip
from router.rules.arrival import Arrival
from router.rules.view import View
from router.rules.where import Predicate
from shared.events.frame import Head

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
BY_NAME = frozenset({"type", "event"})
MOST_KNOWN = 4096

Known = dict[tuple[str, str | None], bool | None]
"""Verdicts by type and event name, if a predicate asks the head for nothing else."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The rules of one site."""

    where: Predicate | None = None
    plan: Plan | None = None
    view: View | None = field(default=None, compare=False, repr=False)
    """What the plan looks at; None: whole events."""
    known: Known = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Gated:
    """What a gate says to the events of a frame, by index.

    `filtered`: the site's `where` fails; `unread` of them could not be read. `dropped`, `dead`: what the plan does with them. `verdicts`: of all
    events that break the plan.
    """

    filtered: frozenset[int] = frozenset()
    unread: int = 0
    dropped: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)


def pass_gate(gate: Gate, arrival: Arrival, indexes: Sequence[int]) -> Gated:
    """Judges the events at `indexes`.

    Raises:
        Permanent: the frame is damaged inside.
    """
    filtered, unread = frozenset[int](), 0
    if gate.where is not None:
        passing, unread = ask(gate.where, gate.known, arrival, indexes)
        filtered, indexes = frozenset(indexes).difference(passing), passing
    if gate.plan is None or not indexes:
        return Gated(filtered=filtered, unread=unread)
    verdicts = _check(gate.plan, gate.view, arrival, indexes)
    ends = {
        action: frozenset(index for index, each in verdicts.items() if each.action == action)
        for action in ("drop", "dead_letter")
    }
    return Gated(filtered=filtered, unread=unread, dropped=ends["drop"], dead=ends["dead_letter"], verdicts=verdicts)


def _check(plan: Plan, view: View | None, arrival: Arrival, indexes: Sequence[int]) -> dict[int, Verdict]:
    """Judges events by a plan, and takes out of them what it strips."""
    found: dict[int, Verdict] = {}
    heads, look = arrival.heads, arrival.looking(view)
    for index in indexes:
        try:
            verdict = judge(plan, heads[index], look(index), len(arrival.bodies[index]))
            if verdict is None:
                continue
            if verdict.without:
                fallback = arrival.facts[heads[index].request].fallback_context
                arrival.rewrite(index, strip(arrival.bodies[index], verdict.without, fallback))
        except (*UNREADABLE, ValueError):
            verdict = unreadable()
        found[index] = verdict
    return found


def ask(predicate: Predicate, known: Known, arrival: Arrival, indexes: Sequence[int]) -> tuple[Sequence[int], int]:
    """Returns the events that meet conditions, and how many could not be read; reads only the bodies that can still decide.

    Raises:
        Permanent: the frame is damaged inside.
    """
    heads = arrival.heads
    if predicate.head_fields <= BY_NAME:
        verdicts = _verdicts_by_name(known, predicate, heads, indexes)
    else:
        on_head = predicate.on_head
        verdicts = [on_head(heads[index]) for index in indexes]
    given = set(verdicts)
    if given == {True}:
        return indexes, 0
    if None not in given:
        return [index for index, verdict in zip(indexes, verdicts, strict=True) if verdict], 0
    passing: list[int] = []
    unread = 0
    on_event, look = predicate.on_event, arrival.looking(predicate.view)
    for index, verdict in zip(indexes, verdicts, strict=True):
        if verdict is None:
            try:
                if on_event(heads[index], look(index)):
                    passing.append(index)
            except UNREADABLE:
                unread += 1
        elif verdict:
            passing.append(index)
    return passing, unread


def _verdicts_by_name(known: Known, predicate: Predicate, heads: list[Head], indexes: Sequence[int]) -> list[bool | None]:
    """Returns verdicts by name: events have few names, so this saves asking five hundred times."""
    names = [(heads[index].type, heads[index].event) for index in indexes]
    try:
        return [known[name] for name in names]
    except KeyError:
        if len(known) > MOST_KNOWN:
            known.clear()
        for index, name in zip(indexes, names, strict=True):
            if name not in known:
                known[name] = predicate.on_head(heads[index])
        return [known[name] for name in names]
