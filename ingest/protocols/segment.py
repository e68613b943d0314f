"""Segment's HTTP Tracking API, as its SDKs for browsers, Node, Python, Go, Ruby, Java and mobile speak it.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/ describes the long paths; browsers use the short
ones (`/v1/t`). A request has one event, or `{"batch": [...]}`, whatever its content type. Success is exactly 200 `{"success":
true}`: Python SDKs up to 2.3.4 take any other status for a failure, and retry if the body of an error is not JSON with `code` and
`message`. Rejected events are no error of the request, as with Segment: the answer has `accepted` and `rejected`, and the events
are in the dead letters. `success` is false if nothing was accepted; SDKs look at the status only, and must not send such an event
again.

`/v1/import` is a batch; mobile SDKs send everything there. June's SDKs, forks of Segment's, say `/sdk` for `/v1`. `/v1/m` receives the browser SDK's own metrics, which are discarded.
`/v1/pixel/{type}` always answers a GIF, so its failures are found in the dead letters only. Browsers load their settings from
`/v1/projects/{key}/settings`; that document names the site's device
destinations, which run in the page.

Traps: analytics-python sends `"anonymousId": null`; analytics-next sends JSON as text/plain; a Bearer token is an OAuth token
when the body has its own `writeKey`.
"""

from __future__ import annotations

import msgspec

from ingest.clients import carriers
from ingest.contract import Accepted, Credential, Desk, HttpRequest, Parsed, Refusal, Reply, Route
from ingest.judge import calls, pixels
from ingest.judge.calls import as_event, judge_again

__all__ = ["NAME", "ROUTES", "as_event", "credentials", "judge_again", "parse", "reply"]

NAME = "segment"

TYPES = {
    "track": "track", "identify": "identify", "page": "page", "screen": "screen", "group": "group", "alias": "alias",
    "t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias",
}  # fmt: skip
BATCHES = ("batch", "import", "b")

PIXEL = "/v1/pixel/{type}"
SETTINGS = "/v1/projects/{key}/settings"
METRICS = "/v1/m"

JUNE = "/sdk/batch"
_SINGLE = {f"/v1/{name}": kind for name, kind in TYPES.items()} | {f"/sdk/{name}": name for name in TYPES.values()}
ROUTES = (
    *(Route("POST", path) for path in _SINGLE),
    *(Route("POST", f"/v1/{name}") for name in BATCHES),
    Route("POST", JUNE),
    Route("POST", METRICS),
    Route("GET", PIXEL),
    Route("GET", SETTINGS),
)


_encode = msgspec.json.Encoder().encode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys outside the body."""
    if request.route == SETTINGS:
        return [Credential("path", request.params["key"])]
    return carriers.from_request(request)


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Reads any request of this protocol."""
    kind = _SINGLE.get(request.route)
    if kind is not None:
        return calls.read_single(request, desk, request.body, kind)
    match request.route:
        case "/v1/pixel/{type}":
            return _pixel(request, desk)
        case "/v1/m":
            return calls.SUCCESS
        case "/v1/projects/{key}/settings":
            return _settings(request, desk)
        case _:
            return calls.read_calls(request, desk)


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer."""
    return pixels.IMAGE if request.route == PIXEL else calls.answer(result)


def _pixel(request: HttpRequest, desk: Desk) -> Parsed | Refusal:
    kind = TYPES.get(request.params["type"])
    if kind is None:
        return Refusal(404, "unknown_path", f"no pixel for {request.params['type']!r}")
    return pixels.read_pixel(request, desk, kind)


def _settings(request: HttpRequest, desk: Desk) -> Reply | Refusal:
    """Returns the settings document of browser and mobile SDKs: they send all events to this server."""
    admission = desk.admit(credentials(request))
    if isinstance(admission, Refusal):
        return admission
    key = request.params["key"]
    scheme, _, authority = request.base_url.partition("://")
    document = {
        "integrations": {
            "Segment.io": {
                "apiKey": key,
                "apiHost": f"{authority}/v1",
                "protocol": scheme,
                "addBundledMetadata": True,
                "unbundledIntegrations": [],
                "maybeBundledConfigIds": {},
                "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
            }
        },
        "plan": {
            "track": {"__default": {"enabled": True, "integrations": {}}},
            "identify": {"__default": {"enabled": True}},
            "group": {"__default": {"enabled": True}},
        },
        "edgeFunction": {},
        "analyticsNextEnabled": True,
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": {"sampleRate": 0},
        "legacyVideoPluginsEnabled": False,
        "remotePlugins": desk.pages(admission.site).plugins(request.base_url),
    }
    return Reply(200, _encode(document), headers={"Cache-Control": "public, max-age=300"})
