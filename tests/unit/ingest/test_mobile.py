"""Golden cases of the mobile SDKs: analytics-swift and analytics-kotlin send their batches to `/v1/b` and ask for their settings first."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from ingest.contract import HttpRequest, Parsed, Reply
from ingest.judge.encoding import decode_body
from ingest.protocols import segment
from tests.unit.ingest.desks import CountingDesk, get, post

SWIFT = {
    "app": {"name": "Shop", "namespace": "com.example.shop", "version": "2.1", "build": "17"},
    "device": {"id": "5A8F", "manufacturer": "Apple", "model": "iPhone15,2", "name": "iPhone", "type": "ios"},
    "instanceId": "6D1B",
    "library": {"name": "analytics-swift", "version": "1.6.1"},
    "locale": "de-DE",
    "network": {"bluetooth": False, "cellular": True, "wifi": False},
    "os": {"name": "iOS", "version": "17.4"},
    "screen": {"height": 852, "width": 393},
    "timezone": "Europe/Berlin",
}
KOTLIN = {
    "app": {"name": "Shop", "version": "2.1", "namespace": "com.example.shop", "build": "17"},
    "device": {"id": "c9f1", "manufacturer": "Google", "model": "Pixel 8", "name": "shiba", "type": "android"},
    "instanceId": "c0de",
    "library": {"name": "analytics-kotlin", "version": "1.16.3"},
    "locale": "de-DE",
    "network": {"bluetooth": False, "cellular": False, "wifi": True},
    "os": {"name": "Android", "version": "14"},
    "screen": {"density": 2.625, "height": 2205, "width": 1080},
    "timezone": "Europe/Berlin",
    "userAgent": "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8)",
}


def calls(context: dict[str, Any], metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """What an app sends when it opens and a user logs in; `userId` is empty until then."""
    shared = {"anonymousId": "A1", "context": context, "integrations": {}, "timestamp": "2026-09-01T12:00:00.123Z", **metadata}
    return [
        {
            "type": "track",
            "event": "Application Opened",
            "properties": {"from_background": False},
            "messageId": "m1",
            "userId": "",
            **shared,
        },
        {"type": "identify", "traits": {"plan": "pro"}, "messageId": "m2", "userId": "u1", **shared},
        {"type": "screen", "name": "Home", "category": "", "properties": {"tab": 1}, "messageId": "m3", "userId": "u1", **shared},
        {"type": "group", "groupId": "g1", "traits": {}, "messageId": "m4", "userId": "u1", **shared},
        {"type": "alias", "previousId": "A1", "messageId": "m5", "userId": "u1", **shared},
    ]


def file_of(events: list[dict[str, Any]]) -> bytes:
    """The file that both SDKs write event by event and send as it is."""
    lines = ",".join(json.dumps(event, separators=(",", ":")) for event in events)
    return f'{{ "batch": [{lines}],"sentAt":"2026-09-01T12:00:30.000Z","writeKey":"web"}}'.encode()


@pytest.mark.parametrize(
    ("context", "metadata", "headers"),
    [
        (
            SWIFT,
            {"_metadata": {"bundled": [], "unbundled": [], "bundledIds": []}},
            {"content-type": "application/json; charset=utf-8"},
        ),
        (KOTLIN, {"_metadata": {"bundled": [], "unbundled": [], "bundledIds": []}}, {"content-type": "text/plain"}),
    ],
    ids=["swift", "kotlin"],
)
def test_a_batch_is_read_event_by_event_with_the_key_in_the_body(
    context: dict[str, Any], metadata: dict[str, Any], headers: dict[str, str]
) -> None:
    sent = calls(context, metadata)
    body = decode_body(gzip.compress(file_of(sent)), "gzip", 2**20)
    result = segment.parse(post("/v1/b", body, headers=headers), CountingDesk())
    assert isinstance(result, Parsed), result
    assert result.rejects == []
    assert result.sent_at == "2026-09-01T12:00:30.000Z"
    assert (result.admission.site, list(result.ignored)) == ("shop", [])
    assert [(head.message_id, head.type, head.user_id) for head in result.heads] == [
        ("m1", "track", None),
        ("m2", "identify", "u1"),
        ("m3", "screen", "u1"),
        ("m4", "group", "u1"),
        ("m5", "alias", "u1"),
    ]
    assert [json.loads(bytes(each)) for each in result.bodies] == sent


def test_the_settings_send_a_mobile_sdk_to_this_server() -> None:
    request: HttpRequest = get("/v1/projects/{key}/settings", params={"key": "web"})
    reply = segment.parse(request, CountingDesk())
    assert isinstance(reply, Reply)
    document = json.loads(reply.body)
    # the SDKs put `https://` before the host and `/b` behind it
    assert document["integrations"]["Segment.io"]["apiHost"] == "in.example.com/v1"
    assert document["integrations"]["Segment.io"]["apiKey"] == "web"
    assert document["plan"]["track"]["__default"]["enabled"] is True
    assert document["edgeFunction"] == {}
