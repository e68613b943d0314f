"""What a table of the layout `jitsu_legacy` would get of events, without storing them. Pure.

Names are those before a destination folds them, and types those of the values of each event alone; `penstock explain` has the
connections of the project, with their functions and conditions.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from ingest.contract import Parsed, Reply
from shared.events.classic import as_classic
from shared.events.event import facts_of, materialise
from shared.events.frame import RequestContext
from shared.events.rescue import UNREADABLE

TABLE = "events"
SHOWN_EVENTS = 100
MOST_FIELDS = 1000
"""Of one event. What is left out is said."""

_encode = msgspec.json.Encoder(decimal_format="number").encode
_FACTS = facts_of(RequestContext(0, "jitsu_classic", ""))
_NO_TIME = datetime.fromtimestamp(0, UTC)


def show(parsed: Parsed) -> Reply:
    """Returns the fields of each accepted event, and the reasons of the others."""
    tables = [_shown(head, bytes(body)) for head, body in list(zip(parsed.heads, parsed.bodies, strict=True))[:SHOWN_EVENTS]]
    rejects = [{"index": each.position, "reason": each.reason, "detail": each.detail} for each in parsed.rejects[:SHOWN_EVENTS]]
    counts = {"status": "ok", "stored": 0, "accepted": len(parsed.heads), "rejected": len(parsed.rejects)}
    return Reply(200, _encode({**counts, "events": tables, "rejects": rejects}))


def _shown(head: Any, body: bytes) -> dict[str, Any]:
    try:
        row = as_classic(materialise(body, head, _FACTS))
    except UNREADABLE as exc:
        return {"table": TABLE, "fields": [], "error": f"the event has a value that only the loader reads: {exc}"}
    row["_timestamp"] = None  # of the request that is not made
    if row.get("utc_time") == _NO_TIME:  # an event without a time has that of its request
        row["utc_time"] = None
    fields: list[dict[str, Any]] = []
    _flatten("", {**row.pop("properties", {}), **row} if type(row.get("properties")) is dict else row, fields)
    shown: dict[str, Any] = {"table": TABLE, "fields": fields[:MOST_FIELDS]}
    if len(fields) > MOST_FIELDS:
        shown["fields_not_shown"] = len(fields) - MOST_FIELDS
    return shown


def _flatten(start: str, value: dict[Any, Any], fields: list[dict[str, Any]]) -> None:
    waiting = [(start, value)]
    while waiting:
        path, holder = waiting.pop()
        inner: list[tuple[str, dict[Any, Any]]] = []
        for key, each in holder.items():
            name = f"{path}_{key}" if path else str(key)
            if type(each) is dict:
                inner.append((name, each))
            elif each is not None:
                fields.append({"field": name, "type": _type_of(each), "value": each})
        waiting += reversed(inner)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, datetime):
        return "timestamp"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, str):
        return "text"
    return "json" if isinstance(value, list) else "double"
