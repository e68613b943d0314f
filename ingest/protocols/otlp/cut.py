"""Cuts an export into its records, each with the bytes of its resource and scope, before any of them is built. Pure.

An export nests: resources have scopes, scopes have records. Two bytes of protobuf are an empty record, so a body of eight megabytes
could be four million objects; records are counted while they are cut, and a body with too many is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ingest.contract import Admission, Refusal
from ingest.judge.batch import cut_events, unreadable
from ingest.judge.envelope import MERGED_REQUESTS
from ingest.judge.mend import Fault
from ingest.protocols.otlp.wire import BrokenMessage, Steps, field, fields
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits
from shared.reading.units import ByteSize

NO_LIMITS = SiteLimits(event_bytes=ByteSize(2**40), request_bytes=ByteSize(2**40))
MOST_HOLDERS = 10_000
"""Resources and scopes of one export, with records or without."""
MOST_FIELDS = 200_000
"""Fields of protobuf that are looked at while an export is cut: about 0.1 s."""

_EMPTY = msgspec.Raw(b"{}")
_NONE = msgspec.Raw(b"[]")


class Piece(NamedTuple):
    """A record and what holds it, in the encoding of the request. Records of one scope share the same bytes."""

    resource: bytes
    scope: bytes
    record: bytes
    packed: bool

    def alone(self, signal: str) -> bytes:
        """Returns an export with this record only."""
        if self.packed:
            held = field(1, self.scope) + field(2, self.record)
            return field(1, field(1, self.resource) + field(2, held))
        outer, middle, inner = (name.encode() for name in NAMES[signal])
        scope = b'{"scope":%b,"%b":[%b]}' % (self.scope, inner, self.record)
        return b'{"%b":[{"resource":%b,"%b":[%b]}]}' % (outer, self.resource, middle, scope)


NAMES = {"logs": ("resourceLogs", "scopeLogs", "logRecords"), "traces": ("resourceSpans", "scopeSpans", "spans")}
OLDER = {"scopeLogs": "instrumentationLibraryLogs", "scopeSpans": "instrumentationLibrarySpans"}
"""What exporters before OTLP 0.15 call scopes in JSON; in protobuf the number of the field is the same."""


_Scoped = tuple[bytes, bytes, list[bytes]]
"""The bytes of a resource and of a scope, and their records."""


class _Export(msgspec.Struct, gc=False):
    resourceLogs: msgspec.Raw = _NONE  # noqa: N815  # the wire's name
    resourceSpans: msgspec.Raw = _NONE  # noqa: N815
    resource_logs: msgspec.Raw = _NONE
    resource_spans: msgspec.Raw = _NONE


class _Resource(msgspec.Struct, gc=False):
    resource: msgspec.Raw = _EMPTY
    scopeLogs: msgspec.Raw = _NONE  # noqa: N815
    scopeSpans: msgspec.Raw = _NONE  # noqa: N815
    instrumentationLibraryLogs: msgspec.Raw = _NONE  # noqa: N815
    instrumentationLibrarySpans: msgspec.Raw = _NONE  # noqa: N815


class _Scope(msgspec.Struct, gc=False):
    scope: msgspec.Raw = _EMPTY
    instrumentationLibrary: msgspec.Raw = _EMPTY  # noqa: N815
    logRecords: msgspec.Raw = _NONE  # noqa: N815
    spans: msgspec.Raw = _NONE


_ORIGINAL_NAMES = re.compile(
    rb'"(resource_logs|resource_spans|scope_logs|scope_spans|log_records|time_unix_nano|observed_time_unix_nano|severity_number'
    rb"|severity_text|dropped_attributes_count|trace_id|span_id|event_name|trace_state|parent_span_id|start_time_unix_nano"
    rb"|end_time_unix_nano|string_value|bool_value|int_value|double_value|array_value|kvlist_value|bytes_value)\"(?=[ \t\r\n]*:)"
)
"""Members under the names of the .proto files, which the JSON of protobuf has too. A quote in a text has a backslash before it,
and names of attributes are values of `key`, so nothing else is met."""
_MAY_BE_ORIGINAL = re.compile(rb'_(?:logs|spans|records|nano|number|text|count|id|name|state|value)"[ \t\r\n]*:')
"""Ends of these names: a body without one, as nearly all are, is read as it is. Some senders write both spellings in one body."""


def _in_camel(found: re.Match[bytes]) -> bytes:
    first, *more = found[1].split(b"_")
    return b'"%b%b"' % (first, b"".join(part.capitalize() for part in more))


class _TooMany(Exception):
    pass


_export = msgspec.json.Decoder(_Export).decode
_resource = msgspec.json.Decoder(_Resource).decode
_scope = msgspec.json.Decoder(_Scope).decode


def cut(body: bytes, signal: str, admission: Admission, *, packed: bool) -> Sequence[Piece] | Refusal:
    """Returns the records of an export, or why it is refused."""
    most = admission.limits.events_per_request
    largest = MERGED_REQUESTS * int(admission.limits.request_bytes)
    found: list[Piece] = []
    merged = 0
    try:
        for resource, scope, records in _of_protobuf(body, most) if packed else _of_json(body, signal, most):
            if len(found) + len(records) > most:
                raise _TooMany
            found += [Piece(resource, scope, record, packed) for record in records]
            merged += len(records) * (len(resource) + len(scope))
    except _TooMany:
        message = f"the export has more than {most} records, the site's limit; let the exporter send smaller batches"
        return admission.refuse(413, "too_many_events", message)
    except BrokenMessage as exc:
        return admission.refuse(400, "invalid_protobuf", f"the body is no export in protobuf: {exc}")
    except msgspec.ValidationError as exc:
        return admission.refuse(400, "invalid_batch", f"the body is no export in JSON: {exc}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        refusal = unreadable(body, Fault(DeadReason.MALFORMED_JSON, str(exc)))
        return admission.refuse(refusal.status, refusal.code, refusal.message)
    if merged > largest:  # each event, and each dead letter, has its own copy
        message = f"resource and scope under each of {len(found)} records are {merged} bytes, the limit is {largest}; let the exporter send smaller batches"
        return admission.refuse(413, "context_too_large", message)
    return found


def _of_protobuf(body: bytes, most: int) -> Iterator[_Scoped]:
    steps = Steps(max(MOST_FIELDS, 4 * most))
    for number, held in fields(body, steps):
        if number != 1:
            continue
        resource, scopes = _apart(held, steps, MOST_HOLDERS)
        for scope_held in scopes:
            scope, records = _apart(scope_held, steps, most)
            yield resource, scope, records


def _apart(message: bytes, steps: Steps, most: int) -> tuple[bytes, list[bytes]]:
    """Returns the fields of a holder: 1, what it says of all it holds, and 2, what it holds."""
    about, held = b"", list[bytes]()
    for number, value in fields(message, steps):
        if number == 1:
            about = value
        elif number == 2:
            if len(held) == most:
                raise _TooMany
            held.append(value)
    return about, held


def _of_json(body: bytes, signal: str, most: int) -> Iterator[_Scoped]:
    outer, middle, inner = NAMES[signal]
    holders = 0
    export = _export(body)
    if _MAY_BE_ORIGINAL.search(body) is not None:
        original = export.resource_logs is not _NONE or export.resource_spans is not _NONE
        if original and (export.resourceLogs is not _NONE or export.resourceSpans is not _NONE):
            raise msgspec.ValidationError("it has the resources under both of their names")
        export = _export(_ORIGINAL_NAMES.sub(_in_camel, body))
    for held in _items(getattr(export, outer), MOST_HOLDERS):
        holders = _count(holders)
        resource = _resource(held)
        about = _object(resource.resource)
        scopes = _items(getattr(resource, middle), MOST_HOLDERS) or _items(getattr(resource, OLDER[middle]), MOST_HOLDERS)
        for scope_held in scopes:
            holders = _count(holders)
            scope = _scope(scope_held)
            about_scope = _object(scope.instrumentationLibrary if scope.scope is _EMPTY else scope.scope)
            yield about, about_scope, _items(getattr(scope, inner), most)


def _items(array: msgspec.Raw, most: int) -> list[bytes]:
    text = bytes(array)
    return [] if text == b"null" else cut_events(text, most)


def _object(raw: msgspec.Raw) -> bytes:
    text = bytes(raw)
    return text if text[:1] == b"{" else b"{}"


def _count(holders: int) -> int:
    if holders == MOST_HOLDERS:
        raise _TooMany
    return holders + 1
