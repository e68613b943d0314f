"""Headers of the messages that carry frames between services; their names stand only here.

A frame's place is its lane and its sequence in it. A lane numbers one source of frames: the live stream of one incarnation of
EVENTS, one replay, one retry. Within a connection's queue the sequences of a lane never go back, except for repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LANE = "Penstock-Lane"
SEQUENCE = "Penstock-Seq"
EVENTS = "Penstock-Events"
TABLE = "Penstock-Table"

_TRACE = ("traceparent", "tracestate")  # W3C Trace Context


class Place(NamedTuple):
    """Where a frame of a connection's queue comes from, and how many events it holds."""

    lane: str
    seq: int
    events: int


def write_place(place: Place) -> dict[str, str]:
    """Returns the headers of a place."""
    return {LANE: place.lane, SEQUENCE: str(place.seq), EVENTS: str(place.events)}


def read_place(headers: Mapping[str, str]) -> Place | None:
    """Returns the place a message's headers name; None when they name none."""
    try:
        return Place(headers[LANE], int(headers[SEQUENCE]), int(headers.get(EVENTS, "0")))
    except (KeyError, ValueError):
        return None


def trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers that carry a trace; empty for a frame that is not traced."""
    return {name: headers[name] for name in _TRACE if name in headers} if _TRACE[0] in headers else {}


def live_lane(incarnation: str) -> str:
    """The lane of frames routed as they come; `incarnation` tells one EVENTS stream from its successor."""
    return f"live-{incarnation}"


def replay_lane(replay: str) -> str:
    """The lane of one replay."""
    return f"replay-{replay}"
