"""A loader's request to the router after its destination went back: frames of a lane again, from a sequence on.

One value of the bucket `state` per connection. A rewind has a number, and so has every frame sent under it. The loader leaves out
frames with lower numbers that are still in its queue, because they come again, in order. So however often a rewind is asked for
or begun, each frame is loaded once.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

PATTERN = "rewind.*"
_AGAIN = ".again-"


class Rewind(msgspec.Struct, frozen=True, kw_only=True):
    """Frames `first` to `last` of a lane are wanted again; frames beyond `last` were never loaded.

    Up to `level` the destination has all rows but those in `holes`: by table, ranges of sequences in which rows were set aside,
    and loaded in the state that is gone. `lost`: how many sequences before `first` EVENTS no longer has. `done`: all is loaded
    again. `at`: when it was asked for (epoch seconds).
    """

    number: int
    first: int
    last: int
    level: int = 0
    holes: dict[str, list[tuple[int, int]]] = {}
    lost: int = 0
    done: bool = False
    at: float = 0.0


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Frames `first` to `last` are wanted again, of a replay's lane or of an EVENTS stream that is gone. They come in a new replay."""

    lane: str
    first: int
    last: int
    done: bool = False


class Rewinds(msgspec.Struct, frozen=True, kw_only=True):
    """The newest rewind of each lane. `queue`: of the connection's incarnation; of another one they mean nothing.

    `replays`: by the id of the replay in which they come. `missing`: frames that cannot come again by themselves, in words with
    the next step, and the time (epoch seconds) when that was found.
    """

    queue: str
    lanes: dict[str, Rewind] = {}
    replays: dict[str, Again] = {}
    missing: dict[str, float] = {}


def rewind_key(connection: str) -> str:
    """The key of a connection in the bucket `state`."""
    return f"rewind.{connection}"


def connection_of(key: str) -> str:
    """Returns the connection of a key."""
    return key.partition(".")[2]


def decode_rewinds(value: bytes | None) -> Rewinds:
    """Reads a value."""
    return msgspec.json.decode(value, type=Rewinds) if value else Rewinds(queue="")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The router's answer, by lane. `begun`: number of the present rewind and the first sequence that comes again, which the
    router has stored by then; `sent`: number of the rewind whose frames are all in the queue."""

    begun: dict[str, tuple[int, int]] = {}
    sent: dict[str, int] = {}


def answer_key(connection: str, shard: str = "") -> str:
    """The key of a connection's answer in the bucket `state`; each router of a site with several has one (`shard_of_lane`)."""
    return f"rewound.{connection}.{shard}" if shard else f"rewound.{connection}"


def decode_answer(value: bytes | None) -> Answer:
    """Reads a value."""
    return msgspec.json.decode(value, type=Answer) if value else Answer()


def resent_key(connection: str) -> str:
    """Returns the key in the bucket `state` under which the router reports on replays that were wanted again."""
    return f"resent.{connection}"


def decode_resent(value: bytes | None) -> dict[str, bool]:
    """Reads its value: by id whether all of it is in the queue; False: not all of it can come."""
    return msgspec.json.decode(value, type=dict[str, bool]) if value else {}


def again_id(replay: str, connection: str, known: Iterable[str]) -> str:
    """Returns a new id under which a part of a replay comes again.

    Args:
        replay: its id, or one under which a part of it came again.
    """
    base, _, number = replay.rpartition(_AGAIN)
    start = (base if base and number.isdecimal() else f"{replay}.{connection}") + _AGAIN
    numbers = [int(each.removeprefix(start)) for each in known if each.startswith(start) and each.removeprefix(start).isdecimal()]
    return f"{start}{max(numbers, default=0) + 1}"
