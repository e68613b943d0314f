"""Makes records of events: topic, key, value, time and headers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

import msgspec

from loader.calls import fields
from loader.calls.moments import happened, millis
from loader.calls.text import TemplateFailed, Text
from loader.contract.events import Call
from loader.queues.kafka.names import wrong_with
from loader.queues.kafka.options import KEYS, KNOWN, MOST_KEY, MOST_TOPIC, MOST_VALUE, USER, Options
from shared.events.event import JSON, encode_event
from shared.events.outcome import Dead, DeadReason, Drop, DropReason

AROUND = 100
"""Bytes of a record beside key, value and the texts of its headers: names of headers, lengths, offset and time."""

Headers = list[tuple[str, bytes]]


class Record(NamedTuple):
    """An event on its way to a topic. `at`: its time (milliseconds since 1970)."""

    topic: str
    key: bytes | None
    value: bytes
    at: int
    message_id: bytes
    type: bytes

    @property
    def size(self) -> int:
        """Its bytes, or a few more."""
        return len(self.key or b"") + len(self.value) + len(self.message_id) + len(self.type) + AROUND

    def headers(self, beside: Headers) -> Headers:
        """Returns its headers; `beside`: the ones that all records have."""
        return [("message_id", self.message_id), ("type", self.type), *beside]


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one call, one for each of its events."""

    records: Sequence[Record]
    events: Sequence[int]

    def shown(self) -> Sequence[Call]:
        """See `Parcel.shown`."""
        return [
            Call(
                method="PRODUCE",
                url=f"kafka:{record.topic}",
                headers={"key": (record.key or b"").decode()} | {name: value.decode() for name, value in record.headers([])},
                body=record.value,
                events=(index,),
            )
            for record, index in zip(self.records, self.events, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Batches:
    """See `Parcels`: at most one call, because the link makes batches of its records."""

    calls: Sequence[Records]
    ended: Mapping[int, Drop | Dead] = field(default_factory=dict)


class Maker:
    """Makes the records of a destination."""

    def __init__(self, options: Options) -> None:
        self._topic = Text(options.topic, KNOWN, MOST_TOPIC)
        self._key = None if options.key in KEYS else Text(options.key, KNOWN, MOST_KEY)
        self._by = options.key
        self._value = None if options.value is None else Text(options.value, KNOWN, MOST_VALUE)
        self._own_time = options.timestamp == "event"
        self._most = int(options.batch_bytes)
        self._templated = not self._topic.constant or self._key is not None or self._value is not None
        self.topic = options.topic if self._topic.constant else None
        """The topic of all events; None: each event chooses."""

    def calls(self, events: Sequence[JSON], at: float) -> Batches:
        """Returns the call that carries these events; `at`: the time (epoch seconds) of events that have none."""
        ended: dict[int, Drop | Dead] = {}
        records: list[Record] = []
        indexes: list[int] = []
        for index, event in enumerate(events):
            made = self._record(event, at)
            if isinstance(made, Record):
                records.append(made)
                indexes.append(index)
            else:
                ended[index] = made
        return Batches([Records(records, indexes)] if records else [], ended)

    def _record(self, event: JSON, at: float) -> Record | Drop | Dead:
        # times become texts; numbers of which a double would lose digits stay as they are
        seen = msgspec.to_builtins(event, builtin_types=(Decimal,)) if self._templated else None
        try:
            topic = self.topic or _rendered("topic", self._topic, seen)
            key = self._key_of(event, seen)
            value = encode_event(event) if self._value is None else _bytes(_rendered("value", self._value, seen))
        except TemplateFailed as error:
            return Dead(DeadReason.TEMPLATE_FAILED, str(error))
        if not topic.strip() or not value.strip():
            return Drop(DropReason.TEMPLATE_EMPTY)
        if self.topic is None and (why := wrong_with(topic)):
            return Dead(DeadReason.TEMPLATE_FAILED, f"topic: it gave {topic[:100]!r}; {why}")
        moment = happened(event, at) if self._own_time else happened({"receivedAt": event.get("receivedAt")}, at)
        record = Record(
            topic=topic,
            key=key,
            value=value,
            at=max(0, millis(moment)),
            message_id=_bytes(fields.text(event.get("messageId"))),
            type=_bytes(fields.text(event.get("type"))),
        )
        if record.size > self._most:
            words = f"it has {record.size} bytes as a record, and the destination's batch_bytes is {self._most}"
            return Dead(DeadReason.TOO_LARGE, f"{words}; raise it, and max.message.bytes of the topic")
        return record

    def _key_of(self, event: JSON, seen: object) -> bytes | None:
        if self._key is not None:
            return _bytes(_rendered("key", self._key, seen)) or None
        if self._by == "none":
            return None
        first, second = fields.user_id(event), fields.anonymous_id(event)
        key = first or second if self._by == USER else second or first
        return _bytes(key or fields.text(event.get("messageId")))


def _rendered(option: str, text: Text, seen: object) -> str:
    try:
        return text.render(event=seen)
    except TemplateFailed as error:
        raise TemplateFailed(f"{option}: {error}") from error


def _bytes(text: str) -> bytes:
    """Returns UTF-8; halves of a character, which some clients send, become question marks."""
    return text.encode("utf-8", "replace")
