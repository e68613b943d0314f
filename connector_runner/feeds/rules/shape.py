"""Turns records of a feed into events. Pure.

A JSON object that is an event already keeps its own fields. Every other value is wrapped: a JSON object becomes the `properties`, any
other value becomes `properties.value`. What the source says of a record stands in `context.feed`. The messageId is made of the
position, so a record that comes twice is one event for the router's window and for tables that merge.

The position holds the time that the source keeps of a record, because a topic that is deleted and made again counts from 0 again.
"""

from __future__ import annotations

import binascii
from datetime import UTC, datetime
from typing import Any

import msgspec

from connector_runner.feeds.contract import FeedRules, Record
from connector_runner.feeds.rules.template import Template
from shared.events.frame import Head
from shared.events.outcome import Dead, DeadReason
from shared.project.model import SiteLimits
from shared.reading.extent import extent

LONGEST_ID = 1024
"""Characters of an id or a name; heads stay in memory along the whole path."""

_NEEDS = {"track": "event", "page": "", "screen": "", "identify": "", "group": "group_id", "alias": "previous_id"}


class _Item(msgspec.Struct, gc=False, rename="camel"):
    """What tells an event from another object."""

    type: str | None = None
    event: str | None = None
    message_id: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    properties: dict[str, msgspec.Raw] | None = None
    traits: dict[str, msgspec.Raw] | None = None


_decode_item = msgspec.json.Decoder(_Item).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode
_decode_any = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Shaper:
    """The rules of one feed, compiled.

    Args:
        largest: bytes of the largest event that the broker takes.
    """

    def __init__(self, feed: str, rules: FeedRules, limits: SiteLimits, largest: int) -> None:
        self._feed = feed
        self._rules = rules
        self._limits = limits
        self._largest = min(int(limits.event_bytes), largest)
        self._type = Template(rules.event_type)
        self._event = Template(rules.event)
        self._user_id = Template(rules.user_id) if rules.user_id else None
        self._message_id = Template(rules.message_id) if rules.message_id else None
        every = (self._type, self._event, self._user_id, self._message_id)
        self._reads_value = any(each is not None and each.reads_value for each in every)
        self._places: dict[tuple[str, int | str], tuple[str, bytes]] = {}
        """The beginnings of the position and of `context.feed`, by topic and partition."""

    def position(self, record: Record) -> str:
        """Returns the messageId that a record has by its position."""
        return self._position(record, self._place_of(record)[0])

    def shape(self, record: Record) -> tuple[Head, bytes] | Dead:
        """Returns head and body of the event of a record, or why it has none."""
        value = record.value
        if record.fault:
            return Dead(DeadReason.UNREADABLE_RECORD, record.fault)
        if value is not None and len(value) > self._largest:
            return Dead(DeadReason.TOO_LARGE, f"it has {len(value)} bytes, the limit is {self._largest}")
        start, described = self._place_of(record)
        try:
            feed = self._described(record, described)
            if value is None:
                return self._wrapped(record, b"{}", None, start=start, feed=feed[:-1] + b',"tombstone":true}')
            if self._rules.format == "json":
                return self._of_json(record, value, start, feed)
            written = _encode({"value": value.decode() if self._rules.format == "text" else value})
        except UnicodeDecodeError as exc:
            return Dead(DeadReason.UNREADABLE_RECORD, f"it is not UTF-8 at byte {exc.start}; `format: raw` takes any bytes")
        return self._wrapped(record, written, None, start=start, feed=feed)

    def _of_json(self, record: Record, value: bytes, start: str, feed: bytes) -> tuple[Head, bytes] | Dead:
        item = None
        try:
            if not value.isascii():
                value.decode()
            if b"\\u" in value:  # half a surrogate pair is found only where the text is built
                _decode_any(value)
            try:
                item = _decode_item(value)
            except msgspec.ValidationError:  # JSON, and no event
                _check(value)
            fault = extent(value, self._limits.depth, self._limits.keys)
            if fault is not None:
                depth, keys = fault
                if depth > self._limits.depth:
                    return Dead(DeadReason.TOO_DEEP, f"it nests {depth} levels deep, the limit is {self._limits.depth}")
                return Dead(DeadReason.TOO_MANY_KEYS, f"it has {keys} keys, the limit is {self._limits.keys}")
            if item is not None and self._rules.events and _is_event(item):
                return self._event_itself(item, value, self._position(record, start), feed)
            decoded = _decode_any(value) if self._reads_value else None
        except RecursionError:
            return Dead(DeadReason.TOO_DEEP, f"it nests more than 1000 levels deep, the limit is {self._limits.depth}")
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            return Dead(DeadReason.MALFORMED_JSON, f"{exc}")
        is_object = item is not None or value.lstrip()[:1] == b"{"
        return self._wrapped(record, value if is_object else b'{"value":%b}' % value, decoded, start=start, feed=feed)

    def _event_itself(self, item: _Item, value: bytes, position: str, feed: bytes) -> tuple[Head, bytes]:
        members: dict[str, Any] = dict(_decode_members(value))
        context = bytes(members.get("context", b"null")).strip()
        inner: dict[str, Any]
        if context.startswith(b"{"):
            inner = dict(_decode_members(context))
        else:
            inner = {} if context == b"null" else {"value": msgspec.Raw(context)}
        inner["feed"] = msgspec.Raw(feed)
        members["context"] = inner
        own = item.message_id
        id_ = _clean(own) if own and own.strip() and len(own) <= LONGEST_ID else position
        head = Head(id_, str(item.type), item.event, item.user_id or None, anonymous_id=item.anonymous_id or None)
        return head, _encode(members)

    def _wrapped(self, record: Record, properties: bytes, value: Any, *, start: str, feed: bytes) -> tuple[Head, bytes]:
        type_ = self._type.constant or _clean(self._type.fill(record, value)) or "track"
        event = self._event.constant or _clean(self._event.fill(record, value)) or record.topic
        user_id = _clean(self._user_id.fill(record, value)) if self._user_id is not None else ""
        id_ = _clean(self._message_id.fill(record, value)) if self._message_id is not None else ""
        # the empty member of a user is left out
        user = b'"userId":%b,' % _encode(user_id) if user_id else b""
        at = b'"timestamp":"%b",' % _time(record.timestamp_ms) if record.timestamp_ms is not None else b""
        body = b'{"type":%b,"event":%b,%b%b"properties":%b,"context":{"feed":%b}}' % (
            _encode(type_), _encode(event), user, at, properties, feed,
        )  # fmt: skip
        return Head(id_ or self._position(record, start), type_, event, user_id or None), body

    def _position(self, record: Record, start: str) -> str:
        at = record.timestamp_ms
        return f"{start}{record.offset}" if at is None else f"{start}{record.offset}@{at}"

    def _place_of(self, record: Record) -> tuple[str, bytes]:
        found = self._places.get((record.topic, record.partition))
        if found is None:
            if len(self._places) >= 10_000:  # subjects are topics too, and have no bound
                self._places.clear()
            described = _encode({"name": self._feed, "topic": record.topic, "partition": record.partition})[:-1]
            found = (f"{self._feed}:{record.topic}:{record.partition}:", described)
            self._places[record.topic, record.partition] = found
        return found

    def _described(self, record: Record, start: bytes) -> bytes:
        """Returns `context.feed`."""
        offset = record.offset
        parts = [start, b',"offset":%d' % offset if type(offset) is int else b',"offset":%b' % _encode(offset)]
        if record.timestamp_ms is not None:
            parts.append(b',"timestamp":"%b"' % _time(record.timestamp_ms))
        if record.key is not None:
            parts.append(_named(b"key", record.key))
        if record.headers:
            texts: dict[str, str] = {}
            others: dict[str, bytes] = {}
            for name, value in record.headers:
                try:
                    texts[name] = value.decode()
                except UnicodeDecodeError:
                    others[name] = value
            if texts:
                parts.append(b',"headers":%b' % _encode(texts))
            if others:
                parts.append(b',"headers_base64":%b' % _encode(others))
        parts.append(b"}")
        return b"".join(parts)


def _named(name: bytes, value: bytes) -> bytes:
    """Returns a member of text, or of base64 under a name that says so."""
    try:
        return b',"%b":%b' % (name, _encode(value.decode()))
    except UnicodeDecodeError:
        return b',"%b_base64":"%b"' % (name, binascii.b2a_base64(value, newline=False))


def _is_event(item: _Item) -> bool:
    needed = _NEEDS.get(item.type or "")
    if needed is None or not (item.user_id or item.anonymous_id):
        return False
    ids = (item.user_id, item.anonymous_id, item.event)
    return all(each is None or len(each) <= LONGEST_ID for each in ids) and (not needed or bool(getattr(item, needed)))


def _clean(text: str) -> str:
    return text[:LONGEST_ID].replace("\0", "\ufffd")


def _time(ms: int) -> bytes:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").encode()
    except (OverflowError, ValueError, OSError):
        return b"%d" % ms
