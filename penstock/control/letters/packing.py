"""Packs dead letters into frames again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from penstock.control.letters.judged import Refusal
from shared.errors import Permanent
from shared.events.dead import DeadLetter
from shared.events.frame import Frame, Head, RequestContext, decode_frame, pack
from shared.events.outcome import DeadReason

Judge = Callable[[DeadLetter], tuple[Head, bytes] | Refusal]


def number_frames(letters: Sequence[DeadLetter]) -> list[int]:
    """Returns the number of each letter's frame, from 1 on.

    A frame holds consecutive letters of one site, either all as clients sent them or all as full events. A letter that is a frame is
    alone.
    """
    numbers: list[int] = []
    number, before = 0, None
    for letter in letters:
        kind = None if letter.reason == DeadReason.FRAME_UNREADABLE else (letter.site, _is_complete(letter))
        if kind is None or kind != before:
            number += 1
        before = kind
        numbers.append(number)
    return numbers


def pack_letters(letters: Sequence[DeadLetter], *, judge: Judge | None, origins: bool) -> Frame | None:
    """Returns the frame of letters that have one number; None if nothing is left of it.

    Args:
        judge: for letters that are no events yet; it leaves out the letters that it refuses.
        origins: whether the frame has the first origins of its events, by which events that die again are recognised.
    """
    requests: list[RequestContext] = []
    heads: list[Head] = []
    bodies: list[bytes] = []
    first: list[str] = []
    for letter in letters:
        if (whole := whole_frame(letter)) is not None:
            return whole
        found = judge(letter) if judge is not None else (_head(letter), letter.body)
        if isinstance(found, Refusal):
            continue
        request = letter.request or RequestContext(received_at=int(letter.at * 1e6), protocol="replay", key="")
        if not requests or requests[-1] != request:
            requests.append(request)
        head, body = found
        heads.append(msgspec.structs.replace(head, request=len(requests) - 1))
        bodies.append(body)
        if origins:
            first.append(letter.first_origin or letter.origin)
    if not heads:
        return None
    frame = pack(letters[0].site, requests, heads, bodies)
    frame.origins = first
    # full events passed their connection's rules and functions, so there they pass for that
    frame.trusted_hints = origins and requests[0].complete
    return frame


def whole_frame(letter: DeadLetter) -> Frame | None:
    """Returns the whole frame of a letter that has no single event, if this version can read it."""
    if letter.reason != DeadReason.FRAME_UNREADABLE:
        return None
    try:
        frame = decode_frame(letter.body)
        frame.bodies()
    except Permanent:
        return None
    return frame


def _is_complete(letter: DeadLetter) -> bool:
    return letter.request is not None and letter.request.complete


def _head(letter: DeadLetter) -> Head:
    id_, type_ = letter.message_id or "", letter.type or ""
    return Head(message_id=id_, type=type_, event=letter.event, user_id=letter.user_id, anonymous_id=letter.anonymous_id)
