"""A dead letter as an event in Segment's shape. Pure.

The event has the person of the letter's event, so that a person's dead letters are found by the same columns. Its properties are
the columns of the table `dead_letters`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.events.dead import DETAIL_CHARACTERS, ORIGINAL_BYTES, DeadLetter, Ended, id_of
from shared.events.event import encode_event
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.events.outcome import DeadReason
from shared.forget.ids import ids_in
from shared.project.problems import DEAD_SITE, is_reserved
from shared.syncs.naming import is_of_sync, sync_of

EVENT = "Dead Letter"
FRAME_BYTES = 256 * 1024
"""Bodies of one frame, about: the text of bytes may be several times larger as JSON, and a broker takes a megabyte."""
TEXT_CHARACTERS = 1_024
"""The longest name, id or other text of an event beside the original and the detail."""
PROTOCOL = "problems"
_IDS = (("userId", "user_id"), ("anonymousId", "anonymous_id"))
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_REASONS = {str(reason): reason for reason in DeadReason}


def frames_of(
    letters: Sequence[DeadLetter],
    ended: Sequence[Ended],
    *,
    store: str,
    seq: int,
    now: float,
    expires_at: float | None = None,
) -> Iterator[Frame]:
    """Yields the frames of one message of DEAD, without the letters of reserved sites.

    Args:
        store: incarnation of DEAD.
        seq: of the message, in it.
        now: epoch seconds.
        expires_at: when DEAD forgets the letters (epoch seconds); None: never.
    """
    events = [
        letter_event(letter, letter_id=id_of(letter, seq, index), store=store, expires_at=expires_at)
        for index, letter in enumerate(letters)
        if not is_reserved(letter.site)
    ]
    events += [
        letter_event(each.letter, letter_id=each.letter.id or "", store=store, ended=each)
        for each in ended
        if not is_reserved(each.letter.site)
    ]
    yield from frames(DEAD_SITE, events, now)


def frames(site: str, events: Sequence[tuple[Head, bytes]], now: float) -> Iterator[Frame]:
    """Yields events of a reserved site as frames that a broker takes."""
    request = RequestContext(received_at=int(now * 1e6), protocol=PROTOCOL, key="", kind="server")
    start = size = 0
    for index, (_, body) in enumerate(events):
        if index > start and size + len(body) > FRAME_BYTES:
            yield _pack(site, request, events[start:index])
            start, size = index, 0
        size += len(body)
    if start < len(events):
        yield _pack(site, request, events[start:])


def _pack(site: str, request: RequestContext, events: Sequence[tuple[Head, bytes]]) -> Frame:
    return pack(site, [request], [head for head, _ in events], [body for _, body in events])


def letter_event(
    letter: DeadLetter, *, letter_id: str, store: str, ended: Ended | None = None, expires_at: float | None = None
) -> tuple[Head, bytes]:
    """Returns head and body of a letter's event.

    Args:
        letter_id: as `penstock dead` names it.
        store: incarnation of DEAD: ids begin again in a new one.
        ended: how it left DEAD; None: it is there.
        expires_at: when DEAD forgets it; None: never, or it left already.
    """
    state, ended_at = ("open", None) if ended is None else (ended.state, ended.at)
    body_bytes = len(letter.body) if ended is None else ended.body_bytes
    reason = _REASONS.get(str(letter.reason))
    of_sync = is_of_sync(letter.connection)
    properties: dict[str, Any] = {
        "letter": letter_id,
        "store": store,
        "state": state,
        "ended_at": _time(ended_at),
        "expires_at": _time(expires_at),
        "site": letter.site or None,
        "connection": None if of_sync else letter.connection,
        "sync": sync_of(letter.connection or "") if of_sync else None,
        "stage": letter.stage,
        "reason": str(letter.reason),
        "meaning": reason.meaning if reason else None,
        "at": _time(letter.at),
        "message": letter.detail[:DETAIL_CHARACTERS],
        "message_id": _bounded(letter.message_id),
        "event_type": _bounded(letter.type),
        "event_name": _bounded(letter.event),
        "table_name": letter.table,
        "key": (letter.request.key if letter.request else None) or None,
        **_original(letter.body, body_bytes),
        "what_to_do": reason.advice if reason else None,
        "replay": None if of_sync or state != "open" else f"penstock dead replay {letter_id}",
    }
    id_ = f"{store}.{letter_id}.{int(letter.at * 1e6):x}" + ("" if state == "open" else f".{state}")
    user, anonymous = _person(letter)
    anonymous = anonymous or (None if user else f"site:{letter.site}" if letter.site else "penstock")
    event = {
        "type": "track",
        "event": EVENT,
        "messageId": id_,
        "userId": user,
        "anonymousId": anonymous,
        "timestamp": _time(ended_at or letter.at),
        "properties": {key: value for key, value in properties.items() if value is not None},
    }
    body = encode_event({key: value for key, value in event.items() if value is not None})
    return Head(message_id=id_, type="track", event=EVENT, user_id=user, anonymous_id=anonymous), body


def _person(letter: DeadLetter) -> tuple[str | None, str | None]:
    """Returns the ids of a letter's event; the edge read none of an event that it refused."""
    if letter.user_id or letter.anonymous_id:
        return _bounded(letter.user_id), _bounded(letter.anonymous_id)
    try:
        event = _decode(letter.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        named = ids_in(letter.body)
        return _bounded(named.get("userid")), _bounded(named.get("anonymousid"))
    user, anonymous = (next((event[name] for name in names if isinstance(event.get(name), str)), None) for names in _IDS)
    return _bounded(user) or None, _bounded(anonymous) or None


def _bounded(text: str | None) -> str | None:
    return text[:TEXT_CHARACTERS] if text else text


def _original(body: bytes, size: int) -> dict[str, Any]:
    """Returns the first bytes of an event as text, as base64 if they are none; its size; whether that is all."""
    cut = body[:ORIGINAL_BYTES]
    found: dict[str, Any] = {"original_bytes": size, "original_cut": size > len(cut)}
    for shorter in range(4):  # the cut may be inside a character
        try:
            return {"original": cut[: len(cut) - shorter].decode(), **found}
        except UnicodeDecodeError:
            if len(cut) == size:
                break
    return {"original_base64": base64.b64encode(cut).decode(), **found}


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
