"""PagerDuty: an incident for each fault, by Events API v2: triggered when it fails, resolved when it recovers.
https://developer.pagerduty.com/docs/events-api-v2-overview

The dedup key is the alert's name and the fault's, so a repeat, or a message that comes twice, changes the same incident. Known traps: a
summary has 1,024 characters; a key 255; a routing key takes a bounded number of events a minute, and answers 429 beyond. So that 500 connections
that fail at once are not 500 calls to a telephone, at most `MOST_ITEMS` incidents are open, and one more that counts the others.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from router.alerts.contract import Item, Message, Outcome, Post, Response
from router.alerts.kit import JSON_TYPE, headline, require_address, verdict

MOST_ITEMS = 10
KNOWS_REPEATS = True
RESOLVES_EACH = True
MOST_SUMMARY = 1024
MOST_KEY = 255


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a service of PagerDuty."""

    routing_key: Annotated[
        str, Meta(min_length=1, extra={"secret": True}, description="integration key of the service (Events API v2)")
    ]
    endpoint: Annotated[str, Meta(description="server of the Events API; another one in the EU")] = "https://events.pagerduty.com"
    source: Annotated[str, Meta(min_length=1, max_length=200, description="name of this stack in incidents")] = "penstock"

    def __post_init__(self) -> None:
        require_address("endpoint", self.endpoint, "https://events.eu.pagerduty.com")


OPTIONS = Options


def requests(options: Options, message: Message) -> list[Post]:
    """Returns a call for each item, and for the incident that counts the others; of a test an incident, and its end."""
    if message.test:
        key = _key(message.alert, "test")
        payload = {"summary": headline(message), "source": options.source, "severity": "info"}
        events: list[dict[str, Any]] = [
            {"event_action": "trigger", "dedup_key": key, "payload": payload},
            {"event_action": "resolve", "dedup_key": key},
        ]
    else:
        events = [_event(options, message.alert, item) for item in message.items]
        events.append(_of_others(options, message))
    return [_post(options, event) for event in events]


def answer(request: Post, response: Response) -> Outcome:  # noqa: ARG001
    """Returns what became of an event."""
    return verdict(response)


def _event(options: Options, alert: str, item: Item) -> dict[str, Any]:
    key = _key(alert, item.key)
    if item.status == "recovered":
        return {"event_action": "resolve", "dedup_key": key}
    payload = {
        "summary": (f"{item.title}: {item.why}" if item.why else item.title)[:MOST_SUMMARY],
        "source": options.source,
        "severity": item.severity,
        "timestamp": datetime.fromtimestamp(item.since, UTC).isoformat(timespec="milliseconds"),
        "component": item.key,
        "class": item.kind,
        "custom_details": {"why": item.why, **({"try": item.next} if item.next else {}), **item.sample},
    }
    return {"event_action": "trigger", "dedup_key": key, "payload": payload}


def _of_others(options: Options, message: Message) -> dict[str, Any]:
    """Returns the event of the incident that counts faults without one of their own; there may be none, which PagerDuty does not mind."""
    key = _key(message.alert, "others")
    if not message.unlisted:
        return {"event_action": "resolve", "dedup_key": key}
    summary = f"penstock {message.alert}: {message.unlisted} more fail; all of them: penstock alerts list"
    payload = {"summary": summary, "source": options.source, "severity": "critical"}
    return {"event_action": "trigger", "dedup_key": key, "payload": payload}


def _post(options: Options, event: dict[str, Any]) -> Post:
    body = msgspec.json.encode({"routing_key": options.routing_key, **event})
    return Post(f"{options.endpoint.rstrip('/')}/v2/enqueue", {"Content-Type": JSON_TYPE}, body)


def _key(alert: str, key: str) -> str:
    whole = f"penstock/{alert}/{key}"
    return whole if len(whole) <= MOST_KEY else f"{whole[:180]}/{hashlib.sha256(whole.encode()).hexdigest()[:32]}"
