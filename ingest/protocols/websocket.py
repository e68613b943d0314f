"""Events over a WebSocket at `/v1/ws`: batches of events, each acknowledged by its id once it is durable.

Text messages are JSON, binary ones MessagePack of the same shape; the server answers a message in its form. Connect with the key in
the query (`?writeKey=`), as a subprotocol (`Sec-WebSocket-Protocol: penstock.v1, key.<base64url of the key>`, the way for
browsers that should not put keys into addresses), in a header, or send it in the first message.

    server  {"hello": 1, "credit": 64}
    client  {"key": "shop-web"}                                          only where the handshake carried none
    client  {"id": 7, "batch": [{"type": "track", …}, …], "sentAt": "2026-03-01T12:00:00.000Z"}
    client  {"id": 8, "event": {"type": "page", …}}
    server  {"ack": 7, "accepted": 2, "rejected": [{"index": 1, "reason": "missing_id", "detail": "…"}], "credit": 64}
    server  {"ack": 8, "accepted": 1, "rejected": [], "credit": 64}
    client  {"ping": 1}            server  {"pong": 1}
    server  {"error": "unavailable", "message": "…", "id": 9, "retry_after": 2}

Events are those of `/v1/batch`, and are judged in the same way: a bad one is in `rejected` and in the dead letters, never a reason
to close. `context`, `integrations` and `sentAt` of a message hold for its events. `id` is any number or text of the client's choice.

Flow control: `credit` is how many messages may be unacknowledged at once. A message beyond it is answered with the error
`credit_exceeded` and not taken; a client that goes on so is closed with 1008. With `unavailable`, `overloaded` and `rate_limited`
the message was not taken either: send it again after `retry_after` seconds.

Resume: after a reconnection send every message again that has no ack, with the same `messageId`s; what had arrived collapses.
The server pings; a client that does not answer is disconnected. It closes with 1001 when it restarts, after the acks of all it
took; with 1008 when no key opens a site; with 1009 when a message is larger than the site's request limit.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from ingest import carriers
from ingest.contract import (
    Accepted,
    Credential,
    Desk,
    HttpRequest,
    Parsed,
    Refusal,
    Reject,
    SocketMessage,
    SocketProblem,
)
from ingest.envelope import defaults_of, open_leniently, text_of
from ingest.judge import Scan, judge
from ingest.mend import MAX_LENIENT_BYTES, Fault
from shared.outcome import DeadReason

NAME = "websocket"
PATH = "/v1/ws"
SUBPROTOCOLS = ("penstock.v1",)
VERSION = 1

_KEY_PREFIX = "key."
_ABSENT = msgspec.Raw()

MAX_VALUE_BYTES = 1024
"""Of an `id` or the value of a ping: they are sent back, and seven megabytes of MessagePack can be half a gigabyte of objects."""


class _Message(msgspec.Struct, gc=False):
    id: msgspec.Raw = _ABSENT
    key: str | None = None
    ping: msgspec.Raw = _ABSENT
    batch: list[msgspec.Raw] | None = None
    event: msgspec.Raw = _ABSENT
    sentAt: msgspec.Raw = _ABSENT  # noqa: N815  # the wire's name
    context: msgspec.Raw = _ABSENT
    integrations: msgspec.Raw = _ABSENT


_read_json = msgspec.json.Decoder().decode
_decode_json = msgspec.json.Decoder(_Message).decode
_decode_pack = msgspec.msgpack.Decoder(_Message).decode
_read_pack = msgspec.msgpack.Decoder().decode
_to_json = msgspec.json.Encoder().encode
_to_pack = msgspec.msgpack.Encoder().encode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys of the handshake."""
    found = carriers.from_request(request)
    offered = request.headers.get("sec-websocket-protocol", "")
    for name in (part.strip() for part in offered.split(",")):
        if name.startswith(_KEY_PREFIX):
            text = name.removeprefix(_KEY_PREFIX)
            try:
                key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, ValueError):
                key = text
            found.insert(0, Credential("header", key))
    return found


def read(data: str | bytes, desk: Desk, known: Sequence[Credential]) -> SocketMessage | SocketProblem:
    """Reads one message.

    Args:
        known: what opened the site so far: keys of the handshake, or of an earlier message.
    """
    binary = isinstance(data, bytes)
    message = _decode_binary(data) if isinstance(data, bytes) else _decode_text(data.encode("utf-8", "replace"))
    if isinstance(message, SocketProblem):
        return message
    id_, ping = _value(message.id, binary), _value(message.ping, binary)
    found = (Credential("body", message.key), *known) if message.key else tuple(known)
    has_events = message.batch is not None or bytes(message.event) != b""
    if not has_events and ping is not None:
        return SocketMessage(id_, None, ping)
    admission = desk.admit(found)
    if isinstance(admission, Refusal):
        return SocketProblem(admission.code, admission.message, id_, fatal=True)
    if not has_events:
        if message.key:
            return SocketMessage(id_, None, None, found)
        return SocketProblem("invalid_message", 'expected "batch", "event", "key" or "ping"', id_)
    if not isinstance(id_, (int, float, str)):
        text = (
            f"a message with events needs an `id`, a number or a text of at most {MAX_VALUE_BYTES} bytes, to be acknowledged by"
        )
        return SocketProblem("missing_id", text)
    events = [message.event] if message.batch is None else message.batch
    limit = admission.limits.events_per_request
    if len(events) > limit:
        return SocketProblem("too_many_events", f"the message has {len(events)} events, the limit is {limit}", id_)
    context, integrations, sent_at = message.context, message.integrations, message.sentAt
    if binary:
        context, integrations, sent_at = _converted(context), _converted(integrations), _converted(sent_at)
    defaults = defaults_of(context, integrations, admission.limits, len(events))
    if isinstance(defaults, Fault):
        code = "context_too_large" if defaults.reason is DeadReason.TOO_LARGE else "invalid_message"
        return SocketProblem(code, defaults.detail, id_)
    parsed = Parsed(admission, sent_at=text_of(sent_at), defaults=defaults)
    if binary:
        _judge_packed(parsed, events, desk)
    else:
        # the text was made of whole characters, so only escapes and hints are left to look for
        judge(parsed, events, Scan(b"".join(bytes(event) for event in events)), desk.new_id)
    return SocketMessage(id_, parsed, ping, found)


def write_hello(binary: bool, credit: int) -> str | bytes:
    """Words the first message of a connection."""
    return _write(binary, {"hello": VERSION, "credit": credit})


def write_ack(binary: bool, id_: Any, result: Accepted, credit: int) -> str | bytes:
    """Words the acknowledgement of a message whose events are durable."""
    rejected = [{"index": each.position, "reason": each.reason, "detail": each.detail} for each in result.rejects]
    return _write(binary, {"ack": id_, "accepted": result.accepted, "rejected": rejected, "credit": credit})


def write_problem(binary: bool, problem: SocketProblem) -> str | bytes:
    """Words an error."""
    answer = {"error": problem.code, "message": problem.message, "id": problem.id}
    if problem.retry_after is not None:
        answer["retry_after"] = problem.retry_after
    return _write(binary, answer)


def write_pong(binary: bool, value: Any) -> str | bytes:
    """Words the answer to a ping."""
    return _write(binary, {"pong": value})


def _write(binary: bool, message: dict[str, Any]) -> str | bytes:
    return _to_pack(message) if binary else _to_json(message).decode()


def _decode_text(body: bytes) -> _Message | SocketProblem:
    try:
        return _decode_json(body)
    except msgspec.ValidationError as exc:
        return SocketProblem("invalid_message", f"{exc}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    opened = open_leniently(body)
    if isinstance(opened, Fault):
        return SocketProblem("invalid_json", f"the message is not JSON: {opened.detail}")
    try:
        message = _decode_json(opened.envelope)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return SocketProblem("invalid_message", f"{exc}")
    if opened.events is not None:
        message.batch = [msgspec.Raw(event) for event in opened.events]
    return message


def _decode_binary(body: bytes) -> _Message | SocketProblem:
    try:
        return _decode_pack(body)
    except msgspec.ValidationError as exc:
        return SocketProblem("invalid_message", f"{exc}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as exc:
        return SocketProblem("invalid_message", f"the message is not MessagePack: {exc}")


def _value(raw: msgspec.Raw, binary: bool) -> Any:
    """Returns what stands there; None also where it is too large or no value."""
    data = bytes(raw)
    if not data or len(data) > MAX_VALUE_BYTES:
        return None
    try:
        return _read_pack(data) if binary else _read_json(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return None


def _judge_packed(parsed: Parsed, events: Sequence[msgspec.Raw], desk: Desk) -> None:
    """Judges events that are MessagePack: each becomes JSON, or a reject with its own bytes."""
    converted: list[bytes] = []
    positions: list[int] = []
    for position, raw in enumerate(events):
        try:
            converted.append(_to_json(_read_pack(raw)))
            positions.append(position)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, ValueError, OverflowError) as exc:
            detail = f"the event cannot be read as JSON: {exc}"
            parsed.rejects.append(Reject(position, DeadReason.MALFORMED_JSON, detail, bytes(raw)))
    unreadable = len(parsed.rejects)
    judge(parsed, converted, Scan(b"".join(converted)), desk.new_id)
    judged = parsed.rejects[unreadable:]
    parsed.rejects[unreadable:] = [each._replace(position=positions[each.position]) for each in judged]


def _converted(raw: msgspec.Raw) -> msgspec.Raw:
    """Returns MessagePack as JSON, nothing where it is no JSON. What is too large is not read, and refused by its size."""
    if len(bytes(raw)) > MAX_LENIENT_BYTES:
        return msgspec.Raw(b"{" + bytes(raw))
    try:
        return msgspec.Raw(_to_json(_read_pack(raw))) if bytes(raw) else raw
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, ValueError, OverflowError):
        return _ABSENT
