"""A log record or a span as an event. Pure.

What OpenTelemetry names becomes a property (`trace_id`, `severity_text`, `duration_nanoseconds`); attributes stay an object, as do
those of the resource and the scope, and are flattened where events are loaded. `user.id` or `enduser.id` is the event's `userId`,
so that a person can be forgotten in logs too.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from ingest.contract import Parsed, Reject
from ingest.judge.envelope import MERGED_REQUESTS
from ingest.judge.mend import Fault, excess
from ingest.judge.verdicts import MAX_ID_CHARACTERS, is_crowded
from ingest.protocols.otlp.cut import Piece
from ingest.protocols.otlp.messages import decode_error, messages
from ingest.protocols.otlp.values import AnyValue, KeyValue, TooManyKeys, attributes, bounded, moment, of_json, of_protobuf, whole
from shared.events.frame import Head
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits
from shared.reading.extent import SHORTEST_KEY

USER_IDS = ("user.id", "enduser.id")
SPAN_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16


class _Holder(msgspec.Struct, gc=False):
    """A resource or a scope in JSON."""

    attributes: list[KeyValue] = []
    name: str = ""
    version: str = ""


class _Status(msgspec.Struct, gc=False):
    message: str = ""
    code: int = 0


class _Log(msgspec.Struct, gc=False, rename="camel"):
    time_unix_nano: int | str = 0
    observed_time_unix_nano: int | str = 0
    severity_number: int = 0
    severity_text: str = ""
    body: AnyValue | None = None
    attributes: list[KeyValue] = []
    dropped_attributes_count: int = 0
    flags: int = 0
    trace_id: str = ""
    span_id: str = ""
    event_name: str = ""


class _SpanEvent(msgspec.Struct, gc=False, rename="camel"):
    time_unix_nano: int | str = 0
    name: str = ""
    attributes: list[KeyValue] = []


class _Link(msgspec.Struct, gc=False, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    attributes: list[KeyValue] = []


class _Span(msgspec.Struct, gc=False, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    trace_state: str = ""
    parent_span_id: str = ""
    flags: int = 0
    name: str = ""
    kind: int = 0
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[KeyValue] = []
    dropped_attributes_count: int = 0
    events: list[_SpanEvent] = []
    links: list[_Link] = []
    status: _Status | None = None


class _LogProperties(msgspec.Struct, gc=False, omit_defaults=True):
    """Properties of a log, without empty ones. The struct costs a fraction of a dict."""

    body: Any = None
    severity_number: int = 0
    severity_text: str = ""
    event_name: str = ""
    trace_id: str = ""
    span_id: str = ""
    flags: int = 0
    time_unix_nano: int = 0
    observed_time_unix_nano: int = 0
    dropped_attributes_count: int = 0
    attributes: dict[str, Any] = {}
    resource: msgspec.Raw | None = None
    scope: msgspec.Raw | None = None


class _SpanProperties(msgspec.Struct, gc=False, omit_defaults=True):
    """Properties of a span."""

    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    trace_state: str = ""
    name: str = ""
    kind: str = ""
    start_time_unix_nano: int = 0
    end_time_unix_nano: int = 0
    duration_nanoseconds: int = 0
    status: str = ""
    status_message: str = ""
    flags: int = 0
    dropped_attributes_count: int = 0
    attributes: dict[str, Any] = {}
    events: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    resource: msgspec.Raw | None = None
    scope: msgspec.Raw | None = None


class _Event(msgspec.Struct, gc=False, omit_defaults=True, rename="camel"):
    """A record as an event."""

    type: str
    message_id: str
    properties: _LogProperties | _SpanProperties
    user_id: str | None = None
    timestamp: str | None = None


_Held = tuple[msgspec.Raw | None, msgspec.Raw | None]
_HEX = re.compile(r"[0-9a-f]+")
_json_holder = msgspec.json.Decoder(_Holder).decode
_json_record = {"logs": msgspec.json.Decoder(_Log).decode, "traces": msgspec.json.Decoder(_Span).decode}
_encode = msgspec.json.Encoder().encode


def judge(parsed: Parsed, pieces: Sequence[Piece], signal: str, body: bytes, log_id: str = "") -> None:
    """Adds every record to `parsed`, as an event or as a reject.

    Args:
        body: the whole request, of which the ids of logs are made.
        log_id: the id of the one log of a dead letter.
    """
    watched = gc.isenabled()
    gc.disable()  # as in ingest/judge/forms/rewrite.py
    try:
        _judge(parsed=parsed, pieces=pieces, signal=signal, body=body, log_id=log_id)
    finally:
        if watched:
            gc.enable()


class _Reader:
    """Reads the records of one request."""

    __slots__ = ("decode", "held", "limits", "packed", "traces", "value")

    def __init__(self, signal: str, packed: bool, limits: SiteLimits) -> None:
        self.traces, self.packed, self.limits = signal == "traces", packed, limits
        self.held: _Held = (None, None)
        self.value: Any = of_protobuf if packed else of_json
        self.decode: Callable[[bytes], Any] = messages()[signal].FromString if packed else _json_record[signal]


def _judge(parsed: Parsed, pieces: Sequence[Piece], signal: str, body: bytes, log_id: str) -> None:
    if not pieces:
        return
    limits = parsed.admission.limits
    request_id = log_id or blake2b(body, digest_size=16, key=parsed.admission.site.encode()[:64]).hexdigest()
    room = MERGED_REQUESTS * int(limits.request_bytes)
    reader = _Reader(signal, pieces[0].packed, limits)
    # records of one scope are neighbours and share the very objects
    resource: bytes | None = None
    scope: bytes | None = None
    broken: Fault | None = None
    add_head, add_body = parsed.heads.append, parsed.bodies.append
    for index, piece in enumerate(pieces):
        if piece.resource is not resource or piece.scope is not scope:
            resource, scope = piece.resource, piece.scope
            held = _holders(piece, limits.event_bytes)
            if isinstance(held, Fault):
                broken = held
            else:
                broken, reader.held = None, held
        found = broken or _judged(reader, piece.record, log_id or f"{request_id}-{index}")
        if found.__class__ is not Fault:
            room -= len(found[1])
            if room >= 0:
                add_head(found[0])  # type: ignore[arg-type]  # a head and its body
                add_body(found[1])  # type: ignore[arg-type]
                continue
            detail = "its resource and scope under each record make the request too large; let the exporter send smaller batches"
            found = Fault(DeadReason.TOO_LARGE, detail)
        parsed.rejects.append(Reject(index, found.reason, found.detail, piece.alone(signal)))


def _judged(reader: _Reader, record: bytes, message_id: str) -> tuple[Head, bytes] | Fault:
    limits, packed = reader.limits, reader.packed
    if len(record) > limits.event_bytes:
        return Fault(DeadReason.TOO_LARGE, f"the record has {len(record)} bytes, the limit is {limits.event_bytes}")
    if not packed and (deep := excess(record, limits)) is not None:
        return deep
    try:
        read = reader.decode(record)
        properties: Any = _span(read, reader.value, packed) if reader.traces else _log(read, reader.value, packed)
    except _Broken as exc:
        return Fault(DeadReason.WRONG_TYPE, str(exc))
    except TooManyKeys as exc:
        return Fault(DeadReason.TOO_MANY_KEYS, f"the record has {exc}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return Fault(DeadReason.WRONG_TYPE, f"the record cannot be read: {exc}")
    except decode_error() as exc:
        return Fault(DeadReason.WRONG_TYPE, f"the record is no protobuf: {exc}")
    if properties.__class__ is Fault:
        return properties
    if reader.traces:
        kind, message_id, at = "span", f"{properties.trace_id}-{properties.span_id}", properties.start_time_unix_nano
    else:
        kind, at = "log", properties.time_unix_nano or properties.observed_time_unix_nano
    properties.resource, properties.scope = reader.held
    said = properties.attributes
    user_id = _user_of(said) if "user.id" in said or "enduser.id" in said else None
    try:
        event = _Event(type=kind, message_id=message_id, properties=properties, user_id=user_id, timestamp=moment(at))
    except OverflowError:
        return Fault(DeadReason.WRONG_TYPE, f"{at} nanoseconds since 1970 are no time")
    body = _encode(event)
    size = len(body)
    if size > limits.event_bytes:
        return Fault(DeadReason.TOO_LARGE, f"the event has {size} bytes with its resource, the limit is {limits.event_bytes}")
    # the number of brackets bounds the depth, and the number of bytes that of the keys: most bodies have too few of both
    if size > limits.keys * SHORTEST_KEY or is_crowded(body, limits.depth):
        deep = excess(body, limits)
        if deep is not None:
            return deep
    return Head(message_id, kind, None, user_id), body


class _Broken(Exception):
    """The record is not of OpenTelemetry's form."""


def _holders(piece: Piece, most_bytes: int) -> _Held | Fault:
    """Returns the attributes of a resource and the facts of a scope, encoded once for all their records."""
    size = len(piece.resource) + len(piece.scope)
    if size > most_bytes:
        return Fault(
            DeadReason.TOO_LARGE, f"the resource and scope of the record have {size} bytes, the limit of an event is {most_bytes}"
        )
    try:
        if piece.packed:
            resource, scope = messages()["resource"].FromString(piece.resource), messages()["scope"].FromString(piece.scope)
            value: Any = of_protobuf
        else:
            resource, scope, value = _json_holder(piece.resource), _json_holder(piece.scope), of_json
        about = {"name": scope.name, "version": scope.version, "attributes": attributes(scope.attributes, value)}
        found, scope_found = attributes(resource.attributes, value), {name: each for name, each in about.items() if each}
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as exc:
        return Fault(DeadReason.WRONG_TYPE, f"the resource or scope of the record cannot be read: {exc}")
    except TooManyKeys as exc:
        return Fault(DeadReason.TOO_MANY_KEYS, f"the resource or scope of the record has {exc}")
    except decode_error() as exc:
        return Fault(DeadReason.WRONG_TYPE, f"the resource or scope of the record is no protobuf: {exc}")
    return msgspec.Raw(_encode(found)) if found else None, msgspec.Raw(_encode(scope_found)) if scope_found else None


def _log(record: Any, value: Any, packed: bool) -> _LogProperties:
    trace_id, span_id = record.trace_id, record.span_id
    said = record.body
    return _LogProperties(
        body=(packed and said.string_value) or _built(value, said) or None,  # most are texts
        severity_number=record.severity_number,
        severity_text=record.severity_text,
        event_name=record.event_name,
        trace_id=_hex(trace_id, packed, NO_TRACE) if trace_id else "",
        span_id=_hex(span_id, packed, NO_SPAN) if span_id else "",
        flags=record.flags,
        # protobuf's are integers of 64 bits
        time_unix_nano=record.time_unix_nano if packed else _nanoseconds(record, "time_unix_nano"),
        observed_time_unix_nano=record.observed_time_unix_nano if packed else _nanoseconds(record, "observed_time_unix_nano"),
        dropped_attributes_count=record.dropped_attributes_count,
        attributes=_attributes(record.attributes, value),
    )


def _span(record: Any, value: Any, packed: bool) -> _SpanProperties | Fault:
    trace_id, span_id = _hex(record.trace_id, packed, NO_TRACE), _hex(record.span_id, packed, NO_SPAN)
    if not trace_id or not span_id:
        return Fault(DeadReason.MISSING_ID, "a span needs `trace_id` and `span_id`, which are not all zeros")
    if packed:  # integers of 64 bits
        start, end = record.start_time_unix_nano, record.end_time_unix_nano
    else:
        start, end = _nanoseconds(record, "start_time_unix_nano"), _nanoseconds(record, "end_time_unix_nano")
    status, kind = record.status, record.kind
    events, links = record.events, record.links
    return _SpanProperties(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=_hex(record.parent_span_id, packed, NO_SPAN),
        trace_state=record.trace_state,
        name=record.name,
        kind=_named(SPAN_KINDS, kind),
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        duration_nanoseconds=end - start if start and end >= start else 0,
        status=_named(STATUSES, status.code) if status is not None else STATUSES[0],
        status_message=status.message if status is not None else "",
        flags=record.flags,
        dropped_attributes_count=record.dropped_attributes_count,
        attributes=_attributes(record.attributes, value),
        events=[
            {
                "name": each.name,
                "time_unix_nano": _nanoseconds(each, "time_unix_nano"),
                "attributes": _attributes(each.attributes, value),
            }
            for each in bounded(events)
        ]
        if events
        else [],
        links=[
            {
                "trace_id": _hex(each.trace_id, packed, NO_TRACE),
                "span_id": _hex(each.span_id, packed, NO_SPAN),
                "attributes": _attributes(each.attributes, value),
            }
            for each in bounded(links)
        ]
        if links
        else [],
    )


def _user_of(said: Mapping[str, Any]) -> str | None:
    for name in USER_IDS:
        user = said.get(name)
        if user and isinstance(user, str | int):
            return str(user)[:MAX_ID_CHARACTERS]
    return None


def _attributes(pairs: Any, value: Any) -> dict[str, Any]:
    try:
        return attributes(pairs, value)
    except ValueError as exc:
        raise _Broken(f"an attribute cannot be read: {exc}") from exc


def _built(value: Any, raw: Any) -> Any:
    try:
        return value(raw)
    except ValueError as exc:
        raise _Broken(f"`body` cannot be read: {exc}") from exc


def _nanoseconds(record: Any, name: str) -> int:
    value = getattr(record, name)
    if value.__class__ is int and 0 <= value < 2**64:
        return value
    try:
        return whole(value)
    except ValueError as exc:
        raise _Broken(f"`{name}` is no time: {exc}") from exc


def _hex(id_: bytes | str, packed: bool, nothing: str) -> str:
    """Returns an id as hex; an empty text for an id of zeros, which is none."""
    if not id_:
        return ""
    if packed and 2 * len(id_) == len(nothing):
        text = id_.hex()  # type: ignore[union-attr]  # of protobuf, bytes
        return "" if text == nothing else text
    text = id_.hex() if packed and isinstance(id_, bytes) else str(id_).lower()
    if len(text) != len(nothing) or not _HEX.fullmatch(text):
        raise _Broken(f"id {text[:64]!r} is not of {len(nothing) // 2} bytes")
    return "" if text == nothing else text


def _named(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)
