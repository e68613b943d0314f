"""Headers of the messages that carry frames between services; only this module has their names.

A frame's place is its lane and its sequence in it. A lane is one numbered series of frames: the live stream of one site in one
incarnation of EVENTS, one replay, one retry. Within a connection's queue the sequences of a lane never go back, except for
repeats.
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
"""If a message of RETRY holds events of several frames of its lane: each frame's sequence and bits, as `812:ff,813:1`."""
USERS = "Penstock-Users"
"""The users of the events in a message of RETRY, if these users' later events wait behind it."""
FAILURES = "Penstock-Failures"
"""Number of times a message of RETRY was tried."""
DUE = "Penstock-Due"
"""Time of its next try (epoch seconds)."""
SINCE = "Penstock-Since"
"""Time of its first failure (epoch seconds)."""
ORDER = "Penstock-Order"
"""The message of RETRY that it stands for: a user's waiting events refer to this number."""
INSTEAD = "Penstock-Instead"
"""The message of RETRY that it replaces, and that still exists."""
EPOCH = "Penstock-Epoch"
RUN = "Penstock-Run"
REWIND = "Penstock-Rewind"

_LIVE = "live-"
_SHARD = "/"
_REPLAY = "replay-"
_AGAIN = "again-"
_TRACE = ("traceparent", "tracestate")  # W3C Trace Context


class Place(NamedTuple):
    """The origin of a frame in a connection's queue, and the number of its events.

    `total`: the events sent in the lane so far, with this frame's; 0 if the sender does not count. The difference between the
    newest and the oldest frame of a queue is the number of events that wait between them. `rewind`: how often the lane was read
    again from an earlier sequence (`shared/streams/rewind.py`); frames of a lower number have been superseded.
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


def live_lane(incarnation: str, site: str, first: int = 0, *, shard: str = "") -> str:
    """Returns the lane of frames routed as they come; `incarnation` tells one EVENTS stream from its successor.

    Each site has its own lane: two routers keep no common order, and a connection may move from one site to another.

    Args:
        first: the sequence at which the connection began; 0 if unknown. The lane's name in a ledger thus tells which frames
            it stands for: from `first` to its mark.
        shard: of a site that several routers share, as `4.1`: each of them has a lane of its own.
    """
    lane = f"{_LIVE}{incarnation}-{site}{_SHARD}{shard}" if shard else f"{_LIVE}{incarnation}-{site}"
    return f"{lane}@{first}" if first else lane


def split_lane(lane: str) -> tuple[str, int]:
    """Returns the part of a lane's name that all lives of a connection share, and the sequence at which this life began (1 if
    unknown)."""
    source, _, first = lane.partition("@")
    return source, int(first) if first.isdecimal() else 1


def stream_of(lane: str) -> tuple[str, str] | None:
    """Returns the incarnation of EVENTS and the site of a live lane; None for other lanes."""
    if not is_live(lane):
        return None
    incarnation, _, site = split_lane(lane)[0].removeprefix(_LIVE).partition("-")
    return incarnation, site.partition(_SHARD)[0]


def shard_of_lane(lane: str) -> str:
    """Returns the shard of a live lane, as `4.1`; empty for other lanes, and for that of a site with one router."""
    return split_lane(lane)[0].partition(_SHARD)[2] if is_live(lane) else ""


def again_lane(queue: str) -> str:
    """The lane of events of a queue that its functions wanted to see again."""
    return _AGAIN + queue


def ends(lane: str) -> bool:
    """Says whether a lane comes to an end, as that of a replay does; the others go on for as long as their connection lives."""
    return not lane.startswith((_LIVE, _AGAIN))


def is_live(lane: str) -> bool:
    """Whether the frames of a lane were routed as they came; the router counts these."""
    return lane.startswith(_LIVE)


def replay_lane(replay: str) -> str:
    """Returns the lane of one replay."""
    return _REPLAY + replay


def id_of_replay(lane: str) -> str | None:
    """Returns the id of a replay's lane; None for other lanes."""
    return lane.removeprefix(_REPLAY) if lane.startswith(_REPLAY) else None
