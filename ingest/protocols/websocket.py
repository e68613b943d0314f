"""Events over a WebSocket at `/v1/ws`: batches of events, each acknowledged by its id once it is durable.

Text messages are JSON, binary ones MessagePack of the same shape; the server answers a message in its form. Connect with the key
in the query (`?writeKey=`), as a subprotocol (`Sec-WebSocket-Protocol: penstock.v1, key.<base64url of the key>`, the way for
browsers that should not put keys into addresses), in a header, or send it in the first message.

    server  {"hello": 1, "credit": 64}
    client  {"key": "shop-web"}                                          only where the handshake carried none
    client  {"id": 7, "batch": [{"type": "track", …}, …], "sentAt": "2026-03-01T12:00:00.000Z"}
    client  {"id": 8, "event": {"type": "page", …}}
    server  {"ack": 7, "accepted": 2, "rejected": [{"index": 1, "reason": "missing_id", "detail": "…"}], "credit": 64}
    server  {"ack": 8, "accepted": 1, "rejected": [], "credit": 64}
    client  {"ping": 1}            server  {"pong": 1}
    server  {"error": "unavailable", "message": "…", "id": 9, "retry_after": 2}

Events are those of `/v1/batch`, and are judged in the same way: a bad one is in `rejected` and in the dead letters, never a
reason to close. `context`, `integrations` and `sentAt` of a message hold for its events. `id` is any number or text of the
client's choice.

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
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ingest.clients import carriers
from ingest.clients.early import SMALL_BYTES
from ingest.contract import (
    SHOWN_REJECTS,
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
from ingest.judge.batch import ABSENT, cut_events, heads_of, unknown_members
from ingest.judge.budget import Budget
from ingest.judge.envelope import defaults_of, ignored_defaults, open_leniently, time_of
from ingest.judge.mend import Fault
from ingest.judge.packed import count, events_in, map_size, to_json
from ingest.judge.verdicts import Scan, judge
from shared.events.outcome import DeadReason

NAME = "websocket"
PATH = "/v1/ws"
SUBPROTOCOLS = ("penstock.v1",)
VERSION = 1

PACKED = "msgpack"
"""The form of events in MessagePack."""

_KEY_PREFIX = "key."
_NULLS = (b"null", b"\xc0")

PACKED_IN_VAIN = 4
"""How many times an event that cannot be taken counts: it was built for nothing."""

BRACKET_BYTES = 9
"""The least that an array or object counts, as `[1,2,3,4]` would: millions of empty ones are dear to build."""

MAX_OFFERED = 8
"""Most subprotocols that may be keys: all keys found are looked up again with each message."""

MAX_VALUE_BYTES = 1024
"""The most bytes of an `id` or the value of a ping: they are sent back, and seven megabytes of MessagePack can be half a gigabyte
of objects."""


class _Message(msgspec.Struct, gc=False):
    id: msgspec.Raw = ABSENT
    key: str | None = None
    ping: msgspec.Raw = ABSENT
    batch: msgspec.Raw = ABSENT
    event: msgspec.Raw = ABSENT
    sentAt: msgspec.Raw = ABSENT  # noqa: N815  # the wire's name
    context: msgspec.Raw = ABSENT
    integrations: msgspec.Raw = ABSENT


_RAW_MEMBERS = ("id", "ping", "batch", "event", "sentAt", "context", "integrations")
_SHORTEST_MEMBER = len('"batch":1,')

MAX_MEMBERS = 100
"""The most members of a packed message: no client sends more."""

_read_json = msgspec.json.Decoder().decode
_decode_json = msgspec.json.Decoder(_Message).decode
_decode_pack = msgspec.msgpack.Decoder(_Message).decode
_read_members = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_read_pack = msgspec.msgpack.Decoder().decode
_to_json = msgspec.json.Encoder().encode
_to_pack = msgspec.msgpack.Encoder().encode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys of the handshake."""
    found = carriers.from_request(request)
    offered = request.headers.get("sec-websocket-protocol", "")
    for name in (part.strip() for part in offered.split(",", MAX_OFFERED)[:MAX_OFFERED]):
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
        known: the admission so far: by keys of the handshake, or of an earlier message.
    """
    binary = isinstance(data, bytes)
    budget = Budget()
    if isinstance(data, bytes):
        decoded = _decode_binary(data)
    else:
        decoded = _decode_text(data.encode("utf-8", "replace"), desk, known, budget)
    if isinstance(decoded, SocketProblem):
        return decoded
    message, pieces = decoded
    id_, ping = _value(message.id, binary), _value(message.ping, binary)
    # a key of this message takes the place of an earlier one: a client may name one in each of a million messages
    found = (
        (Credential("body", message.key), *(each for each in known if each.carrier != "body")) if message.key else tuple(known)
    )
    batch = b"" if bytes(message.batch) in _NULLS else bytes(message.batch)
    has_events = bool(batch or pieces is not None or bytes(message.event))
    if not has_events and ping is not None:
        return SocketMessage(id_, None, ping)
    admission = desk.admit(found)
    if isinstance(admission, Refusal):
        return SocketProblem(admission.code, admission.message, id_, fatal=True, sender=admission)
    if not has_events:
        if message.key:
            return SocketMessage(id_, None, None, found)
        return SocketProblem("invalid_message", 'expected "batch", "event", "key" or "ping"', id_, sender=admission)
    if not isinstance(id_, (int, float, str)):
        text = (
            f"a message with events needs an `id`, a number or a text of at most {MAX_VALUE_BYTES} bytes, to be acknowledged by"
        )
        return SocketProblem("missing_id", text, sender=admission)
    if (batch or pieces is not None) and bytes(message.event) not in (b"", *_NULLS):
        return SocketProblem("invalid_message", 'expected "batch" or "event", not both', id_, sender=admission)
    twice = _twice(data, message, pieces)
    if twice:
        return SocketProblem("invalid_message", twice, id_, sender=admission)
    limit = admission.limits.events_per_request
    if pieces is not None:
        events: list[bytes] | None = pieces
    else:
        events = _events(batch, limit, binary) if batch else [bytes(message.event)]
    if events is None:
        return SocketProblem("invalid_message", "expected `batch` to be an array of events", id_, sender=admission)
    if len(events) > limit:
        text = f"the message has more than {limit} events, the site's limit"
        return SocketProblem("too_many_events", text, id_, sender=admission)
    context, integrations, sent_at = message.context, message.integrations, message.sentAt
    if binary:
        largest = admission.limits.event_bytes
        context, integrations, sent_at = (_converted(raw, largest) for raw in (context, integrations, sent_at))
    defaults = defaults_of(context=context, integrations=integrations, limits=admission.limits, events=len(events), budget=budget)
    if isinstance(defaults, Fault):
        code = "context_too_large" if defaults.reason is DeadReason.TOO_LARGE else "invalid_message"
        return SocketProblem(code, defaults.detail, id_, sender=admission)
    parsed = Parsed(admission, sent_at=time_of(sent_at), defaults=defaults, ignored=ignored_defaults(context, integrations))
    if binary:
        parsed.form = PACKED
        _judge_packed(parsed, events, desk.new_id, budget)
    else:
        items = heads_of(batch, bare=True) if batch and pieces is None else None
        judge(parsed, events, desk.new_id, budget=budget, items=items)
    return SocketMessage(id_, parsed, ping, found)


def judge_again(parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None:
    """Judges the body of a dead letter; `form` says whether it is MessagePack."""
    if form == PACKED:
        _judge_packed(parsed, [body], new_id, Budget())
    else:
        judge(parsed, [Scan(body).body], new_id, budget=Budget())


def as_event(body: bytes, form: str) -> bytes | None:
    """Returns the body of a dead letter as JSON; None if its MessagePack has no JSON."""
    written = to_json(body) if form == PACKED else body
    return written if isinstance(written, bytes) else None


def write_hello(binary: bool, credit: int) -> str | bytes:
    """Words the first message of a connection."""
    return _write(binary, {"hello": VERSION, "credit": credit})


def write_ack(binary: bool, id_: Any, result: Accepted, credit: int) -> str | bytes:
    """Words the acknowledgement of a message whose events are durable."""
    shown = [{"index": each.position, "reason": each.reason, "detail": each.detail} for each in result.rejects[:SHOWN_REJECTS]]
    answer: dict[str, Any] = {"ack": id_, "accepted": result.accepted, "rejected": shown, "credit": credit}
    if len(result.rejects) > SHOWN_REJECTS:
        answer["rejects_not_shown"] = len(result.rejects) - SHOWN_REJECTS
    return _write(binary, answer)


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


def _decode_text(
    body: bytes, desk: Desk, known: Sequence[Credential], budget: Budget
) -> tuple[_Message, list[bytes] | None] | SocketProblem:
    """Returns a message, and its events if it is not strictly JSON."""
    try:
        return _decode_json(body), None
    except msgspec.ValidationError as exc:
        return SocketProblem("invalid_message", f"{exc}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    admission = desk.admit(known)
    if isinstance(admission, Refusal) and len(body) > SMALL_BYTES:
        return SocketProblem(admission.code, admission.message, fatal=True, sender=admission)
    most = len(body) if isinstance(admission, Refusal) else admission.limits.events_per_request
    opened = open_leniently(body, budget, most)
    if isinstance(opened, Fault):
        return SocketProblem("invalid_json", f"the message is not JSON: {opened.detail}")
    try:
        message = _decode_json(opened.envelope)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return SocketProblem("invalid_message", f"{exc}")
    return message, opened.events


def _decode_binary(body: bytes) -> tuple[_Message, list[bytes] | None] | SocketProblem:
    try:
        return _decode_pack(body), None
    except msgspec.ValidationError as exc:
        return SocketProblem("invalid_message", f"{exc}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as exc:
        return SocketProblem("invalid_message", f"the message is not MessagePack: {exc}")


def _twice(data: str | bytes, message: _Message, pieces: list[bytes] | None) -> str | None:
    """Returns why a message is refused: it may have two `batch` or two `event` members, and one of them would be lost.

    Most messages need no second look: they hold the members that were read and no others.
    """
    if pieces is not None:  # cut out of the envelope, which has an empty array in their place
        return "`batch` stands twice" if bytes(message.batch) not in (b"", b"[]") else None
    held = {name: value for name in _RAW_MEMBERS if (value := bytes(getattr(message, name)))}
    if isinstance(data, bytes):
        members = map_size(data)
        if members == len(held) + (message.key is not None):
            return None
        if members > MAX_MEMBERS:
            return f"a message of {members} members has too many"
        try:
            return "a member stands twice" if len(_read_members(data)) < members else None
        except (msgspec.MsgspecError, UnicodeError) as exc:
            return f"the name of a member is no text: {exc}"
    body = data.encode("utf-8", "replace")
    blanks = len(body) - sum(len(name) + len(value) + 4 for name, value in held.items()) - 1
    if message.key is None and (blanks == 0 or (blanks == 2 * len(held) - 1 and blanks < _SHORTEST_MEMBER)):
        return None  # as JavaScript and as Python write it
    try:
        beside = unknown_members(body, sum(map(len, held.values())), tuple(_Message.__struct_fields__))
    except (msgspec.MsgspecError, UnicodeError) as exc:
        return f"the name of a member is no text: {exc}"
    return beside.message if isinstance(beside, Refusal) else None


def _value(raw: msgspec.Raw, binary: bool) -> Any:
    """Returns the value; None also if it is too large or no value."""
    data = bytes(raw)
    if not data or len(data) > MAX_VALUE_BYTES:
        return None
    try:
        return _read_pack(data) if binary else _read_json(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return None


def _events(batch: bytes, most: int, binary: bool) -> list[bytes] | None:
    """Returns the events of an array, at most a few more than `most`; None if it is no array."""
    if not binary:
        try:
            return cut_events(batch, most)
        except msgspec.MsgspecError:
            return None
    size = count(batch)
    return None if size is None else events_in(batch) if size <= most else [b""] * (most + 1)


def _judge_packed(parsed: Parsed, events: Sequence[bytes], new_id: Callable[[], str], budget: Budget) -> None:
    """Judges events in MessagePack: each becomes JSON or a reject. Dead letters hold the client's bytes."""
    limits = parsed.admission.limits
    limit, room = int(limits.event_bytes), int(limits.request_bytes)
    converted: list[bytes] = []
    positions: list[int] = []
    for position, packed in enumerate(events):
        if room <= 0:
            detail = f"the message has more than {limits.request_bytes} bytes as JSON; send fewer events at once"
            parsed.rejects.append(Reject(position, DeadReason.TOO_LARGE, detail, packed))
            continue
        written = to_json(packed) if len(packed) <= limit else b""
        if isinstance(written, str):
            room -= PACKED_IN_VAIN * len(packed)
            detail = f"the event cannot be read as JSON: {written}"
            parsed.rejects.append(Reject(position, DeadReason.MALFORMED_JSON, detail, packed))
            continue
        size = len(written)
        # a `with` inside another takes twice as long
        opened = size - len(written.translate(None, b"{[")) + written.count(b"[[")
        cost = max(size, BRACKET_BYTES * opened)
        if not 0 < size <= limit:
            room -= PACKED_IN_VAIN * cost
            detail = f"the event has {size or len(packed)} bytes, the limit is {limit}"
            parsed.rejects.append(Reject(position, DeadReason.TOO_LARGE, detail, packed))
        else:
            room -= cost
            converted.append(written)
            positions.append(position)
    unreadable = len(parsed.rejects)
    judge(parsed, converted, new_id, budget=budget)
    judged = parsed.rejects[unreadable:]
    parsed.rejects[unreadable:] = [
        each._replace(position=positions[each.position], body=events[positions[each.position]]) for each in judged
    ]


def _converted(raw: msgspec.Raw, largest: int) -> msgspec.Raw:
    """Returns MessagePack as JSON, nothing if it has no JSON. A value that is too large is not read, and is refused by its size."""
    packed = bytes(raw)
    if len(packed) > largest:
        return msgspec.Raw(b"{" + packed)
    written = to_json(packed) if packed else b""
    return msgspec.Raw(written) if isinstance(written, bytes) else ABSENT
