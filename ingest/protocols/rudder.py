"""The paths that RudderStack's SDKs do not share with Segment's: beacon, pixel and the settings of a browser.

Facts were seen on the wire of @rudderstack/analytics-js 3.34.1, rudder-sdk-node 3.0.13 and rudder-sdk-python 2.1.9. All of them send their events to
`/v1/{type}` and `/v1/batch`, which `segment` reads, with the key as user of `Authorization: Basic`. The browser's SDK asks for its settings first, at
`/sourceConfig/`; a page that is left sends what it holds to `/beacon/v1/batch` as text, with the key in the query.

The settings name no destination, so the SDK sends all events to this server; it stops where `enabled` is false.
"""

from __future__ import annotations

import msgspec

from ingest.clients import carriers
from ingest.contract import Accepted, Credential, Desk, HttpRequest, Parsed, Refusal, Reply, Route
from ingest.judge import calls, pixels
from ingest.judge.calls import as_event, judge_again

__all__ = ["NAME", "ROUTES", "as_event", "credentials", "judge_again", "parse", "reply"]

NAME = "rudder"

PIXEL = "/pixel/v1/{type}"
PIXELS = ("track", "page", "screen", "identify", "group", "alias")
SETTINGS = "/sourceConfig"
ROUTES = (Route("POST", "/beacon/v1/batch"), Route("GET", SETTINGS), Route("GET", PIXEL))

_encode = msgspec.json.Encoder().encode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys outside the body."""
    return carriers.from_request(request)


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Reads any request of this protocol."""
    if request.route == SETTINGS:
        return _settings(request, desk)
    if request.route != PIXEL:
        return calls.read_calls(request, desk)
    kind = request.params["type"]
    if kind not in PIXELS:
        return Refusal(404, "unknown_path", f"no pixel for {kind!r}; there is one for {', '.join(PIXELS)}")
    return pixels.read_pixel(request, desk, kind)


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer."""
    return pixels.IMAGE if request.route == PIXEL else calls.answer(result)


def _settings(request: HttpRequest, desk: Desk) -> Reply | Refusal:
    """Returns the settings of the browser's SDK: it sends all events to this server and no metrics about itself."""
    found = credentials(request)
    admission = desk.admit(found)
    if isinstance(admission, Refusal):
        return admission
    off = {"enabled": False}
    source = {
        "id": admission.site,
        "name": admission.site,
        "writeKey": found[0].value.partition(":")[0],
        "enabled": True,
        "workspaceId": "penstock",
        "config": {"statsCollection": {"errors": off, "metrics": off}},
        "destinations": [],
        "connections": [],
        "updatedAt": "2026-01-01T00:00:00.000Z",
    }
    return Reply(200, _encode({"source": source}), headers={"Cache-Control": "private, max-age=300"})
