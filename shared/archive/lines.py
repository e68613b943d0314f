"""Frames as lines of JSON, one event a line, and back. Pure.

A line holds the client's JSON under `body`, as it was received, and the server's facts under `request`. Line breaks between the
tokens of a body become blanks, because a line has none; nothing else of a body changes. A frame that cannot be read is one line
with its bytes under `frame` (base64).

A frame that is read back has the events, order and sequence of the original, so a loader's ledger recognises it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from shared.errors import Permanent
from shared.events.frame import Frame, Head, RequestContext, decode_frame, encode_frame, pack
from shared.forget.ids import Forgotten

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class Line(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """One event: `seq` of its frame in EVENTS, `index` in the frame, `at` when EVENTS stored the frame."""

    seq: int
    at: datetime
    index: int = 0
    message_id: str = ""
    type: str = ""
    event: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    origin: str = ""
    trusted_hints: bool = False
    request: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    frame: bytes | None = None


class Request(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A request's facts, as `RequestContext` has them."""

    received_at: datetime
    protocol: str
    key: str
    kind: str = "browser"
    ip: str | None = None
    user_agent: str | None = None
    sent_at: str | None = None
    skew: int | None = None
    defaults: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] | None = None
    agent: dict[str, str] | None = None
    geo: dict[str, Any] | None = None
    bot: bool = False
    complete: bool = False


class Stored(NamedTuple):
    """A frame at its place in EVENTS; `at_seconds`: when it was stored (epoch)."""

    seq: int
    at_seconds: float
    payload: bytes


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)
_request_decoder = msgspec.json.Decoder(Request)
_json = msgspec.json.Decoder(msgspec.Raw)


def moment(seconds: float) -> datetime:
    """Returns a time (epoch) to the microsecond, in UTC."""
    return _EPOCH + timedelta(microseconds=round(seconds * 1e6))


def write(stored: Stored, forgotten: Forgotten | None = None) -> tuple[bytes, int]:
    """Returns the lines of a frame, and the number of its events.

    Args:
        forgotten: ids whose events are left out.
    """
    at = moment(stored.at_seconds)
    try:
        frame = decode_frame(stored.payload)
        bodies = frame.bodies()
        for body in bodies:
            _json.decode(body)
    except (Permanent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if forgotten and forgotten.is_in(stored.payload):
            return b"", 0
        return _encoder.encode_lines([Line(stored.seq, at, frame=stored.payload)]), 0
    requests = [msgspec.Raw(_encoder.encode(_request(each))) for each in frame.requests]
    origins = frame.origins or [""] * len(bodies)
    gone: set[int] = set(forgotten.find(frame.heads, lambda: bodies)) if forgotten else set()
    lines = [
        Line(
            seq=stored.seq, at=at, index=index, message_id=head.message_id, type=head.type, event=head.event, user_id=head.user_id,
            anonymous_id=head.anonymous_id, origin=origin, trusted_hints=frame.trusted_hints, request=requests[head.request],
            body=msgspec.Raw(_one_line(body)),
        )
        for index, (head, body, origin) in enumerate(zip(frame.heads, bodies, origins, strict=True))
        if index not in gone
    ]  # fmt: skip
    return _encoder.encode_lines(lines), len(lines)


def read(site: str, lines: Iterable[bytes]) -> Iterator[Stored]:
    """Yields the frames of lines in order.

    Raises:
        Permanent: a line is none of an archive.
    """
    held: list[Line] = []
    for text in lines:
        line = parse(text)
        if held and line.seq != held[0].seq:
            yield frame_of(site, held)
            held = []
        held.append(line)
    if held:
        yield frame_of(site, held)


def parse(text: bytes) -> Line:
    """Returns a line.

    Raises:
        Permanent: it is none of an archive.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Permanent(f"not a line of an archive: {exc}") from exc


def encode(lines: Iterable[Line]) -> bytes:
    """Returns the text of lines."""
    return _encoder.encode_lines(list(lines))


def frame_of(site: str, lines: list[Line]) -> Stored:
    """Returns the frame of its lines."""
    seq, at_seconds = lines[0].seq, (lines[0].at - _EPOCH) / timedelta(seconds=1)
    if lines[0].frame is not None:
        return Stored(seq, at_seconds, lines[0].frame)
    numbers: dict[bytes, int] = {}
    requests: list[RequestContext] = []
    heads: list[Head] = []
    for line in lines:
        text = _bytes(line.request)
        number = numbers.get(text)
        if number is None:
            number = numbers[text] = len(requests)
            requests.append(_context(text))
        heads.append(
            Head(
                message_id=line.message_id, type=line.type, event=line.event, user_id=line.user_id, anonymous_id=line.anonymous_id,
                request=number,
            )
        )  # fmt: skip
    frame: Frame = pack(site, requests, heads, [_bytes(line.body) for line in lines])
    frame.trusted_hints = lines[0].trusted_hints
    if any(line.origin for line in lines):
        frame.origins = [line.origin for line in lines]
    return Stored(seq, at_seconds, encode_frame(frame))


def _bytes(raw: msgspec.Raw | msgspec.UnsetType) -> bytes:
    return b"" if isinstance(raw, msgspec.UnsetType) else bytes(raw)


def _one_line(text: bytes) -> bytes:
    return text.translate(_BREAKS) if b"\n" in text or b"\r" in text else text


def _request(context: RequestContext) -> Request:
    facts = msgspec.structs.asdict(context)
    facts["received_at"] = _EPOCH + timedelta(microseconds=context.received_at)
    facts["defaults"] = msgspec.Raw(_one_line(context.defaults)) if context.defaults else msgspec.UNSET
    return Request(**facts)


def _context(text: bytes) -> RequestContext:
    try:
        request = _request_decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Permanent(f"not a request of an archive: {exc}") from exc
    facts = msgspec.structs.asdict(request)
    facts["received_at"] = round((request.received_at - _EPOCH) / timedelta(microseconds=1))
    facts["defaults"] = _bytes(request.defaults) or None
    return RequestContext(**facts)
