"""What crosses the pipes between the host and a sandbox: frames of a length, a kind, a JSON header and bytes.

    length (4 bytes, little endian, of all that follows) | kind (1) | length of the header (4) | header | bytes

The guest's side is `functions_runtime/js/wire.js`. Every frame of a guest bears the nonce that the host gave it at the start, so
bytes that code of users writes are told from those of the guest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

LOAD, BATCH, ANSWER = 1, 2, 3
"""Kinds of frames to the guest."""
LOADED, RESULTS, CALL, STARTED, ALIVE = 1, 2, 3, 4, 5
"""Kinds of frames from it."""

SAME, OUTPUTS, DROPPED, DEAD = 0, 1, 2, 3
"""What became of an event: it goes on as it came, as these events, not at all, or it is a dead letter."""

MOST_BYTES = 64 * 1024 * 1024
"""Of one frame of a guest; more is not believed."""

_START = struct.Struct("<IBI")
_encode = msgspec.json.Encoder().encode


class Malformed(Exception):  # the sandbox's end, handled where it is awaited
    """A guest wrote what no guest writes."""


class Loaded(msgspec.Struct, frozen=True):
    """The chain is ready, or `problems` says why not: by function, what and where."""

    nonce: str
    problems: list[tuple[str, dict[str, Any]]]
    policies: list[dict[str, Any]]


class Batch(msgspec.Struct, frozen=True):
    """Events for the guest. The columns hold one value an event, in the order in which events run.

    `sizes`: in bytes; below zero for a body that is not ASCII. The frame's bytes are first all bodies in ASCII, then, from `wide` on, the
    others. `indexes`: what the guest calls the events; None: their places. `of`: which of the requests; None: always the first. `retries`: None: none of them was
    tried before.
    `exact`: places of the events that may hold numbers that a double does not.
    """

    id: int
    careful: bool
    requests: Sequence[Mapping[str, Any]]
    retries: list[int] | None
    sizes: list[int]
    wide: int
    indexes: Sequence[int] | None
    of: list[int] | None
    users: list[int]
    exact: list[int]


class Made(msgspec.Struct, array_like=True, frozen=True):
    """What became of one event, by its index in the batch.

    `outputs`: how many events go on, where there are some; else the function that dropped it, or the reason of the dead letter. `errors`: what functions threw, by their names. `retry`: message, function, and whether nothing goes on now.
    """

    index: int
    kind: int
    outputs: int | str
    detail: str
    function: str
    errors: list[tuple[str, str]]
    retry: tuple[str, str, bool] | None


class Results(msgspec.Struct, frozen=True):
    """Events of a batch that are at their end; `logs`: index, level, text.

    A number in place of a `Made` is the index of an event that became one, of the last function, with nothing else to say; below
    zero it is `~index` of one that goes on as it came. The frame's bytes are the events that go on, with a line feed between two:
    JSON as the guest writes it holds none.
    """

    nonce: str
    batch: int
    results: list[int | Made]
    logs: list[tuple[int, str, str]]


class Asked(msgspec.Struct, frozen=True):
    """A call of an event: its `n`th, answered under `number`."""

    nonce: str
    batch: int
    event: int
    n: int
    number: int
    op: str
    args: list[Any]


class Started(msgspec.Struct, frozen=True):
    """A careful guest begins an event."""

    nonce: str
    batch: int
    index: int


class Alive(msgspec.Struct, frozen=True):
    """A guest's loop turns, whatever its events wait for."""

    nonce: str
    batch: int


Said = Loaded | Results | Asked | Started | Alive

_DECODERS: dict[int, msgspec.json.Decoder[Said]] = {
    LOADED: msgspec.json.Decoder(Loaded),
    RESULTS: msgspec.json.Decoder(Results),
    CALL: msgspec.json.Decoder(Asked),
    STARTED: msgspec.json.Decoder(Started),
    ALIVE: msgspec.json.Decoder(Alive),
}


def frame(kind: int, header: object, bodies: Iterable[bytes] = ()) -> bytes:
    """Returns a frame for the guest."""
    head, rest = _encode(header), b"".join(bodies)
    return b"".join((_START.pack(5 + len(head) + len(rest), kind, len(head)), head, rest))


LENGTH_BYTES = 4


def length_of(start: bytes) -> int:
    """Returns how many bytes of a frame follow its length.

    Raises:
        Malformed: no frame is so long, or so short.
    """
    length = int.from_bytes(start, "little")
    if not 5 <= length <= MOST_BYTES:
        raise Malformed(f"a frame of {length} bytes")
    return length


def read(rest: bytes) -> tuple[Said, bytes]:
    """Returns what a frame of a guest says, and the bytes behind its header.

    Raises:
        Malformed: it is none.
    """
    decoder = _DECODERS.get(rest[0])
    size = int.from_bytes(rest[1:5], "little")
    if decoder is None or size > len(rest) - 5:
        raise Malformed(f"a frame of kind {rest[0]} with a header of {size} bytes")
    try:
        return decoder.decode(memoryview(rest)[5 : 5 + size]), rest[5 + size :]
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Malformed(f"a frame of kind {rest[0]}: {exc}") from exc
