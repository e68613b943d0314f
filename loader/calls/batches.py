"""Groups events into calls: each of one target, within a service's limits, each user's events in their order. Pure.

A service's file turns an event into a `Piece`, makes a call of pieces, and gives its limits; this module does the rest. Events
for different targets may pass each other, but never events of one user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from loader.calls.fields import anonymous_id, user_id
from loader.contract.events import Call, Calls
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop

encode = msgspec.json.Encoder(decimal_format="number").encode
"""Writes JSON; times as RFC 3339, numbers with all their digits."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A service's limits for a call."""

    events: int = 1
    bytes: int = 1_000_000
    """Of the body."""
    event_bytes: int = 1_000_000
    """The most bytes of one event; a larger one is a dead letter."""
    around: int = 512
    """The most bytes of a body beside its events."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An event's part of a call. `target`: the kind of call; only pieces of one target share a call."""

    target: str
    body: bytes
    once: str = ""
    """No two pieces of a call have the same one, unless it is empty: some services refuse a batch that names a record twice."""
    weight: int = 1
    """Its share of `Batch.events`."""


@dataclass(slots=True)
class _Group:
    target: str
    pieces: list[Piece] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    weight: int = 0
    size: int = 0
    once: set[str] = field(default_factory=set)

    def takes(self, piece: Piece, batch: Batch) -> bool:
        if not self.pieces:
            return True
        size = self.size + len(piece.body) + 1 + batch.around
        return self.weight + piece.weight <= batch.events and size <= batch.bytes and piece.once not in self.once

    def add(self, piece: Piece, index: int) -> None:
        self.pieces.append(piece)
        self.events.append(index)
        self.weight += piece.weight
        self.size += len(piece.body) + 1
        if piece.once:
            self.once.add(piece.once)


Make = Callable[[JSON], Piece | Drop | Dead]
"""Returns the piece of an event, or why it goes into no call."""

Wrap = Callable[[str, Sequence[Piece], Sequence[int]], Call]
"""Returns the call of a target with these pieces; the last is `Call.events`."""


def batched(events: Sequence[JSON], make: Make, wrap: Wrap, batch: Batch) -> Calls:
    """Returns the calls of some events.

    Args:
        events: in their order.
        make: makes the piece of each event.
        wrap: makes a call of pieces.
        batch: the limits.
    """
    ended: dict[int, Drop | Dead] = {}
    groups: list[_Group] = []
    filling: dict[str, int] = {}
    latest: dict[str, int] = {}
    for index, event in enumerate(events):
        piece = make(event)
        if not isinstance(piece, Piece):
            ended[index] = piece
            continue
        if len(piece.body) > batch.event_bytes:
            words = f"it has {len(piece.body)} bytes as the destination wants it, which takes {batch.event_bytes}"
            ended[index] = Dead(DeadReason.TOO_LARGE, words)
            continue
        user = user_id(event) or anonymous_id(event)
        place = filling.get(piece.target, -1)
        if place < (latest.get(user, 0) if user else 0) or not groups[place].takes(piece, batch):
            place = filling[piece.target] = len(groups)
            groups.append(_Group(piece.target))
        groups[place].add(piece, index)
        if user:
            latest[user] = place
    return Calls([wrap(group.target, group.pieces, group.events) for group in groups], ended)


def post(url: str, headers: Mapping[str, str], body: bytes, events: Sequence[int]) -> Call:
    """Returns a call by POST."""
    return Call(method="POST", url=url, headers=headers, body=body, events=events)


def get(url: str, headers: Mapping[str, str]) -> Call:
    """Returns a call that carries no event, for trials."""
    return Call(method="GET", url=url, headers=headers, body=b"", events=(0,))


def array(pieces: Sequence[Piece]) -> bytes:
    """Returns pieces as a JSON array."""
    return b"[" + b",".join(piece.body for piece in pieces) + b"]"
