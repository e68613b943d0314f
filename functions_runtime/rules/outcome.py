"""What became of one frame: dead letters, events for another try, and the frame that goes on.

A function may decide otherwise when its events come again. So all of it stands in one value, which can be noted before any part is
published; a successor publishes the same parts under the same ids.

Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from functions_runtime.rules.hydrating import UNASKED
from functions_runtime.rules.packing import Finished, Letter, Prepared, Retry
from shared.events.dead import DeadLetter, encode_dead, origin_of
from shared.events.frame import Frame, RequestContext, encode_frame, pack, select
from shared.events.headers import Place

STAGE = "functions"


class Later(msgspec.Struct, frozen=True, array_like=True):
    """A message of RETRY: events of a frame that one function wants to see again.

    `failures`: how often they failed now. `delay`: seconds until they are due.
    """

    msg_id: str
    payload: bytes
    events: int
    failures: int
    delay: float


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of the frame at `place`. `headers` and `payload`: of the frame that goes on. `letters`: as a message of DEAD."""

    place: Place
    headers: dict[str, str]
    payload: bytes
    letters: bytes = b""
    letters_id: str = ""
    later: list[Later] = []

    @property
    def held_bytes(self) -> int:
        """What it holds, about."""
        return len(self.payload) + len(self.letters) + sum(len(later.payload) for later in self.later)

    @property
    def is_one_message(self) -> bool:
        """Whether the frame that goes on is all of it."""
        return not self.letters and not self.later


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


def encode_outcome(outcome: Outcome) -> bytes:
    """Returns an outcome as a value of a bucket."""
    return _encode(outcome)


def decode_outcome(value: bytes) -> Outcome:
    """Reads what `encode_outcome` gave.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decode(value)


def outcome_of(
    prepared: Prepared,
    finished: Finished,
    *,
    queue: str,
    connection: str,
    place: Place,
    headers: Mapping[str, str],
    failures: int,
    delay: Callable[[str], float | None],
    at: float,
) -> Outcome:
    """Makes the messages of a frame that has been through its functions.

    Args:
        failures: how often its events had failed before.
        delay: returns in how many seconds a function's events are tried again; None: not at all.
        at: epoch seconds, for dead letters.
    """
    origin = f"{queue}.{place.lane}.{place.seq}.{place.rewind}"
    letters = [_letter(prepared, letter, connection=connection, place=place, at=at) for letter in finished.letters]
    return Outcome(
        place=place,
        headers=dict(headers),
        payload=encode_frame(finished.frame),
        letters=encode_dead(letters) if letters else b"",
        letters_id=f"functions.{origin}.{digest_of([each.index for each in finished.letters])}" if letters else "",
        later=_later(prepared, finished.retries, origin=f"again.{origin}", failures=failures + 1, delay=delay),
    )


def digest_of(indexes: Sequence[int]) -> str:
    """Returns a short name for places in a frame, for ids of messages."""
    return hashlib.sha256(msgspec.json.encode(indexes)).hexdigest()[:16]


def _later(
    prepared: Prepared, retries: Sequence[Retry], *, origin: str, failures: int, delay: Callable[[str], float | None]
) -> list[Later]:
    groups: dict[str, list[int]] = {}
    for retry in retries:
        groups.setdefault(retry.function, []).append(retry.index)
    found: list[Later] = []
    for function, indexes in groups.items():
        seconds = delay(function)
        if seconds is not None:
            seconds = max(seconds, *(prepared.waits[index].after if index in prepared.waits else 0.0 for index in indexes))
            count = max(1, failures - 1) if function.startswith(UNASKED) else failures
            payload = encode_frame(select(_with_full(prepared, indexes), indexes))
            msg_id = f"{origin}.{digest_of(indexes)}.{function}.{count}"
            found.append(Later(msg_id, payload, events=len(indexes), failures=count, delay=seconds))
    return found


def _letter(prepared: Prepared, letter: Letter, *, connection: str, place: Place, at: float) -> DeadLetter:
    frame, index = prepared.frame, letter.index
    head = prepared.heads[index]
    return DeadLetter(
        stage=STAGE,
        site=frame.site,
        connection=connection,
        reason=letter.reason,
        detail=letter.detail,
        body=prepared.bodies[index],
        at=at,
        origin=origin_of(place.lane, place.seq, index),
        first_origin=frame.origins[index] if frame.origins else None,
        message_id=head.message_id,
        type=head.type,
        event=head.event,
        user_id=head.user_id,
        anonymous_id=head.anonymous_id,
        request=_complete(frame.requests[head.request]) if prepared.full[index] else frame.requests[head.request],
    )


def _complete(request: RequestContext) -> RequestContext:
    return RequestContext(request.received_at, request.protocol, request.key, request.kind, complete=True)


def _with_full(prepared: Prepared, indexes: Sequence[int]) -> Frame:
    """Returns the frame with its events as they enter the chain: an event that a rule changed is a full event.

    Args:
        indexes: of the events that are taken out of it. Rules have passed them, or pass them when they come again.
    """
    frame = prepared.frame
    requests = [*frame.requests, *map(_complete, frame.requests)]
    heads = [
        head
        if not full
        else type(head)(
            head.message_id, head.type, head.event, head.user_id, head.anonymous_id, head.request + len(frame.requests)
        )
        for head, full in zip(prepared.heads, prepared.full, strict=True)
    ]
    made = pack(frame.site, requests, heads, prepared.bodies)
    made.origins = frame.origins
    made.trusted_hints = frame.trusted_hints or all(prepared.full[index] for index in indexes)
    return made
