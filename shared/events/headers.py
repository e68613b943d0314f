"""Headers of the messages that carry frames between services; their names stand only here.

A frame's place is its lane and its sequence in it. A lane numbers one source of frames: the live stream of one site in one
incarnation of EVENTS, one replay, one retry. Within a connection's queue the sequences of a lane never go back, except for repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LANE = "Penstock-Lane"
SEQUENCE = "Penstock-Seq"
EVENTS = "Penstock-Events"
TOTAL = "Penstock-Total"
TABLE = "Penstock-Table"
BITS = "Penstock-Bits"
"""Which events of its frame a message of RETRY holds, as hexadecimal bits, the first event the lowest."""
FRAMES = "Penstock-Frames"
"""Where a message of RETRY holds events of several frames of its lane: each frame's sequence and bits, as `812:ff,813:1`."""
USERS = "Penstock-Users"
"""Whose events a message of RETRY holds, where the later ones of these users wait behind it."""
FAILURES = "Penstock-Failures"
"""How often a message of RETRY was tried."""
DUE = "Penstock-Due"
"""When it is tried again (epoch seconds)."""
SINCE = "Penstock-Since"
"""When it failed first (epoch seconds)."""
ORDER = "Penstock-Order"
"""The message of RETRY that it stands for: what waits for a user goes by this number."""
INSTEAD = "Penstock-Instead"
"""The message of RETRY that it takes the place of, and that is still there."""
EPOCH = "Penstock-Epoch"
RUN = "Penstock-Run"
REWIND = "Penstock-Rewind"

_LIVE = "live-"
_REPLAY = "replay-"
_TRACE = ("traceparent", "tracestate")  # W3C Trace Context


class Place(NamedTuple):
    """Where a frame of a connection's queue comes from, and how many events it holds.

    `total`: the events sent in the lane so far, this frame's included; 0 where the sender does not count. The newest frame of a queue
    and its oldest tell by it how many events wait between them. `rewind`: how often the lane was read again from an earlier sequence
    (`shared/streams/rewind.py`); frames of a lower number have been superseded.
    """

    lane: str
    seq: int
    events: int
    total: int = 0
    rewind: int = 0


def write_place(place: Place) -> dict[str, str]:
    """Returns the headers of a place."""
    headers = {LANE: place.lane, SEQUENCE: str(place.seq), EVENTS: str(place.events)}
    if place.total:
        headers[TOTAL] = str(place.total)
    if place.rewind:
        headers[REWIND] = str(place.rewind)
    return headers


def read_place(headers: Mapping[str, str]) -> Place | None:
    """Returns the place a message's headers name; None when they name none."""
    try:
        numbers = (int(headers.get(name, "0")) for name in (EVENTS, TOTAL, REWIND))
        return Place(headers[LANE], int(headers[SEQUENCE]), *numbers)
    except (KeyError, ValueError):
        return None


def trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers that carry a trace; empty for a frame that is not traced."""
    return {name: headers[name] for name in _TRACE if name in headers} if _TRACE[0] in headers else {}


def live_lane(incarnation: str, site: str, first: int = 0) -> str:
    """The lane of frames routed as they come; `incarnation` tells one EVENTS stream from its successor.

    Each site has its own: routers of two sites do not keep to one order, and a connection may be moved from one to the other.

    Args:
        first: the sequence at which the connection began, so that its name in a ledger tells which frames it stands for: those from
            there to its mark; 0 where that is not known.
    """
    return f"{_LIVE}{incarnation}-{site}@{first}" if first else f"{_LIVE}{incarnation}-{site}"


def split_lane(lane: str) -> tuple[str, int]:
    """Returns what all lives of a connection have in common, and the sequence at which this one began (1 if not known)."""
    source, _, first = lane.partition("@")
    return source, int(first) if first.isdecimal() else 1


def is_live(lane: str) -> bool:
    """Says whether the frames of a lane were routed as they came, and are counted by the router."""
    return lane.startswith(_LIVE)


def replay_lane(replay: str) -> str:
    """The lane of one replay."""
    return _REPLAY + replay


def id_of_replay(lane: str) -> str | None:
    """Returns the id of the replay that a lane is of; None for other lanes."""
    return lane.removeprefix(_REPLAY) if lane.startswith(_REPLAY) else None
