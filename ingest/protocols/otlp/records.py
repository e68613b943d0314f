"""A log record or a span as an event. Pure.

What OpenTelemetry names becomes a property (`trace_id`, `severity_text`, `duration_nanoseconds`); attributes stay an object, as do
those of the resource and the scope, and are flattened where events are loaded. `user.id` or `enduser.id` is the event's `userId`,
so that a person can be forgotten in logs too.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import blake2b
from itertools import groupby
from typing import Any

import msgspec

from ingest.contract import Parsed, Reject
from ingest.judge.envelope import MERGED_REQUESTS
from ingest.judge.mend import Fault, excess
from ingest.judge.verdicts import MAX_ID_CHARACTERS
from ingest.protocols.otlp.cut import Piece
from ingest.protocols.otlp.values import AnyValue, KeyValue, TooManyKeys, attributes, bounded, moment, of_json, of_protobuf, whole
from shared.events.frame import Head
from shared.events.outcome import DeadReason

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


def _judge(parsed: Parsed, pieces: Sequence[Piece], signal: str, body: bytes, log_id: str) -> None:
    request_id = log_id or blake2b(body, digest_size=16, key=parsed.admission.site.encode()[:64]).hexdigest()
    room = MERGED_REQUESTS * int(parsed.admission.limits.request_bytes)
    index = 0
    # records of one scope are neighbours and share the very objects
    for _, group in groupby(pieces, key=lambda each: (id(each.resource), id(each.scope))):
        together = list(group)
        held = _holders(together[0], parsed.admission.limits.event_bytes)
        for piece in together:
            message_id = request_id if log_id else f"{request_id}-{index}"
            found = (
                held
                if isinstance(held, Fault)
                else _judged(parsed=parsed, piece=piece, signal=signal, held=held, message_id=message_id)
            )
            if not isinstance(found, Fault):
                room -= len(found[1])
                if room < 0:
                    detail = "its resource and scope under each record make the request too large; let the exporter send smaller batches"
                    found = Fault(DeadReason.TOO_LARGE, detail)
            if isinstance(found, Fault):
                parsed.rejects.append(Reject(index, found.reason, found.detail, piece.alone(signal)))
            else:
                parsed.heads.append(found[0])
                parsed.bodies.append(found[1])
            index += 1


def _judged(
    parsed: Parsed, piece: Piece, signal: str, held: Mapping[str, msgspec.Raw], message_id: str
) -> tuple[Head, bytes] | Fault:
    limits = parsed.admission.limits
    if len(piece.record) > limits.event_bytes:
        return Fault(DeadReason.TOO_LARGE, f"the record has {len(piece.record)} bytes, the limit is {limits.event_bytes}")
    if not piece.packed and (deep := excess(piece.record, limits)) is not None:
        return deep
    try:
        record = _record(piece, signal)
        value = of_protobuf if piece.packed else of_json
        event = _span(record, value, piece.packed) if signal == "traces" else _log(record, value, piece.packed)
    except _Broken as exc:
        return Fault(DeadReason.WRONG_TYPE, str(exc))
    except TooManyKeys as exc:
        return Fault(DeadReason.TOO_MANY_KEYS, f"the record has {exc}")
    if isinstance(event, Fault):
        return event
    kind = "span" if signal == "traces" else "log"
    if kind == "span":
        message_id = f"{event['properties']['trace_id']}-{event['properties']['span_id']}"
    event["properties"] |= held
    body = _encode({"type": kind, "messageId": message_id, **event})
    if len(body) > limits.event_bytes:
        return Fault(
            DeadReason.TOO_LARGE, f"the event has {len(body)} bytes with its resource, the limit is {limits.event_bytes}"
        )
    return excess(body, limits) or (Head(message_id, kind, None, event.get("userId")), body)


class _Broken(Exception):
    """The record is not of OpenTelemetry's form."""


def _record(piece: Piece, signal: str) -> Any:
    try:
        return _messages()[signal].FromString(piece.record) if piece.packed else _json_record[signal](piece.record)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise _Broken(f"the record cannot be read: {exc}") from exc
    except _decode_error() as exc:
        raise _Broken(f"the record is no protobuf: {exc}") from exc


def _holders(piece: Piece, most_bytes: int) -> dict[str, msgspec.Raw] | Fault:
    """Returns the attributes of a resource and the facts of a scope, encoded once for all their records."""
    size = len(piece.resource) + len(piece.scope)
    if size > most_bytes:
        return Fault(
            DeadReason.TOO_LARGE, f"the resource and scope of the record have {size} bytes, the limit of an event is {most_bytes}"
        )
    try:
        if piece.packed:
            resource, scope = _messages()["resource"].FromString(piece.resource), _messages()["scope"].FromString(piece.scope)
            value: Any = of_protobuf
        else:
            resource, scope, value = _json_holder(piece.resource), _json_holder(piece.scope), of_json
        about = {"name": scope.name, "version": scope.version, "attributes": attributes(scope.attributes, value)}
        found = {
            "resource": attributes(resource.attributes, value),
            "scope": {name: each for name, each in about.items() if each},
        }
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as exc:
        return Fault(DeadReason.WRONG_TYPE, f"the resource or scope of the record cannot be read: {exc}")
    except TooManyKeys as exc:
        return Fault(DeadReason.TOO_MANY_KEYS, f"the resource or scope of the record has {exc}")
    except _decode_error() as exc:
        return Fault(DeadReason.WRONG_TYPE, f"the resource or scope of the record is no protobuf: {exc}")
    return {name: msgspec.Raw(_encode(each)) for name, each in found.items() if each}


def _log(record: Any, value: Any, packed: bool) -> dict[str, Any]:
    at, observed = _nanoseconds(record, "time_unix_nano"), _nanoseconds(record, "observed_time_unix_nano")
    said = _attributes(record.attributes, value)
    properties = {
        "body": _built(value, record.body),
        "severity_number": record.severity_number,
        "severity_text": record.severity_text,
        "event_name": record.event_name,
        "trace_id": _hex(record.trace_id, packed, NO_TRACE),
        "span_id": _hex(record.span_id, packed, NO_SPAN),
        "flags": record.flags,
        "time_unix_nano": at,
        "observed_time_unix_nano": observed,
        "dropped_attributes_count": record.dropped_attributes_count,
        "attributes": said,
    }
    return _event(properties, said, at or observed)


def _span(record: Any, value: Any, packed: bool) -> dict[str, Any] | Fault:
    trace_id, span_id = _hex(record.trace_id, packed, NO_TRACE), _hex(record.span_id, packed, NO_SPAN)
    if not trace_id or not span_id:
        return Fault(DeadReason.MISSING_ID, "a span needs `trace_id` and `span_id`, which are not all zeros")
    start, end = _nanoseconds(record, "start_time_unix_nano"), _nanoseconds(record, "end_time_unix_nano")
    said = _attributes(record.attributes, value)
    status = record.status
    properties = {
        "trace_id": trace_id,
        "span_id": span_id,
        "parent_span_id": _hex(record.parent_span_id, packed, NO_SPAN),
        "trace_state": record.trace_state,
        "name": record.name,
        "kind": _named(SPAN_KINDS, record.kind),
        "start_time_unix_nano": start,
        "end_time_unix_nano": end,
        "duration_nanoseconds": end - start if start and end >= start else None,
        "status": _named(STATUSES, status.code) if status is not None else "unset",
        "status_message": status.message if status is not None else "",
        "flags": record.flags,
        "dropped_attributes_count": record.dropped_attributes_count,
        "attributes": said,
        "events": [
            {
                "name": each.name,
                "time_unix_nano": _nanoseconds(each, "time_unix_nano"),
                "attributes": _attributes(each.attributes, value),
            }
            for each in bounded(record.events)
        ],
        "links": [
            {
                "trace_id": _hex(each.trace_id, packed, NO_TRACE),
                "span_id": _hex(each.span_id, packed, NO_SPAN),
                "attributes": _attributes(each.attributes, value),
            }
            for each in bounded(record.links)
        ],
    }
    return _event(properties, said, start)


def _event(properties: dict[str, Any], said: Mapping[str, Any], at: int) -> dict[str, Any]:
    """Returns an event without the properties that say nothing."""
    event: dict[str, Any] = {"properties": {name: each for name, each in properties.items() if each}}
    for name in USER_IDS:
        user = said.get(name)
        if user and isinstance(user, str | int):
            event["userId"] = str(user)[:MAX_ID_CHARACTERS]
            break
    try:
        stamp = moment(at)
    except OverflowError as exc:
        raise _Broken(f"{at} nanoseconds since 1970 are no time") from exc
    if stamp:
        event["timestamp"] = stamp
    return event


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
    try:
        return whole(getattr(record, name))
    except ValueError as exc:
        raise _Broken(f"`{name}` is no time: {exc}") from exc


def _hex(id_: bytes | str, packed: bool, nothing: str) -> str:
    """Returns an id as hex; an empty text for an id of zeros, which is none."""
    if not id_:
        return ""
    text = id_.hex() if packed and isinstance(id_, bytes) else str(id_).lower()
    if len(text) != len(nothing) or not _HEX.fullmatch(text):
        raise _Broken(f"id {text[:64]!r} is not of {len(nothing) // 2} bytes")
    return "" if text == nothing else text


def _named(names: Sequence[str], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


@cache
def _messages() -> Mapping[str, Any]:
    """Imports the messages of protobuf, which takes some megabytes, with the first request that has them."""
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    return {"logs": LogRecord, "traces": Span, "resource": Resource, "scope": InstrumentationScope}


@cache
def _decode_error() -> type[Exception]:
    from google.protobuf.message import DecodeError

    error: type[Exception] = DecodeError
    return error
