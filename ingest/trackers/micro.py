"""The events of Snowplow's trackers that this edge took lately, for test suites that ask Snowplow Micro: `/micro/good` and its like.

Off unless the setting `micro` is on. It keeps what one process took: good events as rows of `atomic.events`, bad ones with their
reasons. Bounded: the oldest give way. https://docs.snowplow.io/docs/testing/snowplow-micro/api/ describes the answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ingest.contract import HttpRequest, Parsed, Refusal
from shared.snowplow.atomic import row_of
from shared.snowplow.columns import COLUMNS

MOST_EVENTS = 10_000
MOST_BYTES = 64 * 1024 * 1024
PROTOCOL = "snowplow"
_HIDDEN = frozenset({"cookie", "authorization", "x-write-key"})
"""Headers that are not shown: they may hold a secret."""

_SNOWPLOW = "iglu:com.snowplowanalytics.snowplow"
_WRAPPERS = {
    "contexts": f"{_SNOWPLOW}/contexts/jsonschema/1-0-1",
    "derived_contexts": f"{_SNOWPLOW}/contexts/jsonschema/1-0-1",
    "unstruct_event": f"{_SNOWPLOW}/unstruct_event/jsonschema/1-0-0",
}
_NAME = ("event_vendor", "event_name", "event_format", "event_version")
_decode = msgspec.json.Decoder(dict[str, Any]).decode

Item = dict[str, Any]


class Micro:
    """What came lately."""

    def __init__(self, most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES) -> None:
        self._most_events = most_events
        self._most_bytes = most_bytes
        self.reset()

    def reset(self) -> None:
        """Forgets all."""
        self._kept: dict[str, deque[tuple[int, Item]]] = {"good": deque(), "bad": deque()}
        self._bytes = {"good": 0, "bad": 0}

    def note(self, parsed: Parsed, at: float) -> None:
        """Takes the events of a request that were accepted or became dead letters.

        Args:
            parsed: the request.
            at: when it came, in seconds since 1970.
        """
        received = datetime.fromtimestamp(int(at * 1000) / 1000, UTC)
        sent = iter(_sent(parsed))
        for head, body in zip(parsed.heads, parsed.bodies, strict=True):
            event = {**_decode(bytes(body)), "messageId": head.message_id, "type": head.type, "receivedAt": received}
            self._keep("good", len(bytes(body)), _good(event, parsed.asked, next(sent, None)))
        for reject in parsed.rejects:
            text = reject.body.decode("utf-8", "replace")
            self._keep("bad", len(text), {"rawEvent": text, "errors": [f"{reject.reason}: {reject.detail}"]})

    def note_refusal(self, asked: HttpRequest, refusal: Refusal, protocol: str) -> None:
        """Takes a request that was refused whole, if a tracker sent it."""
        if protocol != PROTOCOL:
            return
        payload = {"path": asked.route, "querystring": dict(asked.query), "body": asked.body.decode("utf-8", "replace")}
        item = {"collectorPayload": payload, "errors": [f"{refusal.code}: {refusal.message}"]}
        self._keep("bad", len(asked.body), item)

    def counts(self) -> dict[str, int]:
        """Returns how many events are kept."""
        good, bad = (len(self._kept[name]) for name in ("good", "bad"))
        return {"total": good + bad, "good": good, "bad": bad}

    def good(self, filters: Mapping[str, Any]) -> list[Item]:
        """Returns good events, the newest first; `filters` are `event_type`, `schema`, `contexts` and `limit`."""
        wanted = filters.get("contexts") or []
        kept = [
            item
            for _, item in reversed(self._kept["good"])
            if filters.get("event_type") in (None, item["eventType"])
            and filters.get("schema") in (None, item["schema"])
            and all(each in item["contexts"] for each in wanted)
        ]
        return _first(kept, filters)

    def bad(self, filters: Mapping[str, Any]) -> list[Item]:
        """Returns bad events and requests, the newest first; `limit` bounds their number."""
        return _first([item for _, item in reversed(self._kept["bad"])], filters)

    def _keep(self, name: str, size: int, item: Item) -> None:
        self._kept[name].append((size, item))
        self._bytes[name] += size
        # each has half of the room: many good events must not push out the bad one that a suite looks for
        while self._kept[name] and (len(self._kept[name]) > self._most_events or self._bytes[name] > self._most_bytes // 2):
            self._bytes[name] -= self._kept[name].popleft()[0]


def _first(items: list[Item], filters: Mapping[str, Any]) -> list[Item]:
    limit = filters.get("limit")
    return items[:limit] if type(limit) is int and limit >= 0 else items


def _sent(parsed: Parsed) -> list[Item]:
    """Returns the parameters of the accepted events as the tracker sent them; none where the request cannot be read so."""
    asked = parsed.asked
    if asked is None:
        return []
    try:
        data = _decode(asked.body)["data"] if asked.body else [{}]
        every: list[Item] = [{**each, **asked.query} if type(each) is dict else {} for each in data]
    except (msgspec.MsgspecError, UnicodeError, KeyError, TypeError, RecursionError):
        return []
    bad = {each.position for each in parsed.rejects}
    return [each for index, each in enumerate(every) if index not in bad]


def _raw(event: Item, asked: HttpRequest | None, sent: Item | None) -> Item:
    """Returns the event as it came, in the form in which Micro shows it."""
    ours = event["context"]["snowplow"] if "context" in event else {}
    if asked is None:
        return {"parameters": sent or ours}
    vendor, _, version = asked.route.strip("/").rpartition("/")
    headers = asked.headers
    return {
        "api": {"vendor": asked.params.get("vendor", vendor), "version": asked.params.get("version", version)},
        "parameters": sent or ours,
        "contentType": headers.get("content-type"),
        "source": {"name": "penstock", "encoding": "UTF-8", "hostname": asked.host},
        "context": {
            "timestamp": _instant(event["receivedAt"]),
            "ipAddress": None,
            "useragent": headers.get("user-agent"),
            "refererUri": headers.get("referer"),
            "headers": [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _HIDDEN],
            "userId": ours.get("nuid"),
        },
    }


def _instant(value: Any) -> Any:
    """Returns a time as Micro writes it, in milliseconds if it has any; other values as they are."""
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").replace(".000Z", "Z")


def _good(event: Item, asked: HttpRequest | None, sent: Item | None) -> Item:
    if asked is not None:
        event.setdefault("context", {}).setdefault("userAgent", asked.headers.get("user-agent"))
    row = row_of(event)
    entities = [each["schema"] for each in row.get("contexts", []) if type(each) is dict and "schema" in each]
    atomic = {column: _instant(row.get(column)) for column in COLUMNS}
    for column, schema in _WRAPPERS.items():
        if atomic[column] is not None:
            atomic[column] = {"schema": schema, "data": atomic[column]}
    return {
        "rawEvent": _raw(event, asked, sent),
        "eventType": row.get("event"),
        "schema": "iglu:" + "/".join(str(row.get(part)) for part in _NAME),
        "contexts": entities,
        "event": atomic,
    }
