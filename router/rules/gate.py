"""The gate of a site: the rules that an event of the site meets before any connection's. Decided once for all connections.

It asks the site's `where`. A body that a condition needs and that cannot be read fails: the filter is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from router.rules.arrival import Arrival
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
    known: Known = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Gated:
    """What a gate says to the events of a frame, by index. `filtered`: the site's `where` fails; `unread` of them could not be read."""

    filtered: frozenset[int] = frozenset()
    unread: int = 0


def pass_gate(gate: Gate, arrival: Arrival, indexes: Sequence[int]) -> Gated:
    """Judges the events at `indexes`.

    Raises:
        Permanent: the frame is damaged inside.
    """
    if gate.where is None:
        return Gated()
    passing, unread = ask(gate.where, gate.known, arrival, indexes)
    return Gated(filtered=frozenset(indexes).difference(passing), unread=unread)


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
