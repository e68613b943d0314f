"""Segment's HTTP Tracking API, as its SDKs for browsers, Node, Python, Go, Ruby, Java and mobile speak it.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/ describes the long paths; browsers use the short
ones (`/v1/t`). One event a request, or `{"batch": [...]}`, whatever the content type says. The answer to success is exactly 200
`{"success": true}`: Python SDKs up to 2.3.4 take any other status for a failure, and retry when the body of an error is not JSON
with `code` and `message`. Rejected events are no error of the request, as with Segment: `accepted` and `rejected` are added to
the answer, and the events are in the dead letters.

`/v1/import` is a batch whose times are taken as they are. `/v1/m` receives the browser SDK's own metrics, which are discarded.
`/v1/pixel/{type}` always answers a GIF, so its failures are found in the dead letters only. Browsers load their settings from
`/v1/projects/{key}/settings`; that document asks for no device-mode destination.

Traps: analytics-python sends `"anonymousId": null`; analytics-next sends JSON as text/plain; a Bearer token is an OAuth token when
the body has a `writeKey` of its own.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from ingest import carriers
from ingest.contract import Accepted, Credential, Desk, HttpRequest, Parsed, Refusal, Reject, Reply, Route
from ingest.envelope import defaults_of, open_leniently, text_of
from ingest.judge import Scan, judge
from ingest.mend import Fault, json_type, read_leniently
from shared.outcome import DeadReason

NAME = "segment"

TYPES = {
    "track": "track", "identify": "identify", "page": "page", "screen": "screen", "group": "group", "alias": "alias",
    "t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias",
}  # fmt: skip
BATCHES = ("batch", "import", "b")

PIXEL = "/v1/pixel/{type}"
SETTINGS = "/v1/projects/{key}/settings"
METRICS = "/v1/m"

_SINGLE = {f"/v1/{name}": kind for name, kind in TYPES.items()}
ROUTES = (
    *(Route("POST", path) for path in _SINGLE),
    *(Route("POST", f"/v1/{name}") for name in BATCHES),
    Route("POST", METRICS),
    Route("GET", PIXEL),
    Route("GET", SETTINGS),
)

GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_NO_STORE = {"Cache-Control": "no-store, private", "Expires": "0"}
_SUCCESS = Reply(200, b'{"success":true}')

PIXEL_LEVELS = 32
"""A dotted parameter nests at most this deep."""

SHOWN_REJECTS = 10
LONGEST_KEY = 4096

_ABSENT = msgspec.Raw()


class _Batch(msgspec.Struct, gc=False):
    batch: list[msgspec.Raw]
    writeKey: msgspec.Raw = _ABSENT  # noqa: N815  # the wire's name
    sentAt: msgspec.Raw = _ABSENT  # noqa: N815
    context: msgspec.Raw = _ABSENT
    integrations: msgspec.Raw = _ABSENT


class _Single(msgspec.Struct, gc=False):
    writeKey: msgspec.Raw = _ABSENT  # noqa: N815
    sentAt: msgspec.Raw = _ABSENT  # noqa: N815


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_single = msgspec.json.Decoder(_Single).decode
_encode = msgspec.json.Encoder().encode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys that stand outside the body."""
    if request.route == SETTINGS:
        return [Credential("path", request.params["key"])]
    return carriers.from_request(request)


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Reads any request of this protocol."""
    kind = _SINGLE.get(request.route)
    if kind is not None:
        return _parse_single(request, desk, request.body, kind)
    match request.route:
        case "/v1/pixel/{type}":
            return _parse_pixel(request, desk)
        case "/v1/m":
            return _SUCCESS
        case "/v1/projects/{key}/settings":
            return _settings(request, desk)
        case _:
            return _parse_batch(request, desk)


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer."""
    if request.route == PIXEL:
        return Reply(200, GIF, "image/gif", _NO_STORE)
    if isinstance(result, Refusal):
        headers = {} if result.retry_after is None else {"Retry-After": str(result.retry_after)}
        return Reply(result.status, _encode({"code": result.code, "message": result.message}), headers=headers)
    if not result.rejects:
        return _SUCCESS
    shown = [{"index": each.position, "reason": each.reason, "detail": each.detail} for each in result.rejects[:SHOWN_REJECTS]]
    answer = {"success": True, "accepted": result.accepted, "rejected": len(result.rejects), "rejects": shown}
    return Reply(200, _encode(answer))


def _parse_single(request: HttpRequest, desk: Desk, body: bytes, kind: str) -> Parsed | Refusal:
    scan = Scan(body)
    body = scan.body
    repaired = False
    try:
        envelope = _decode_single(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        lenient = read_leniently(body)
        if isinstance(lenient, Fault):
            return _unreadable(body, lenient)
        value, body = lenient
        if not isinstance(value, dict):
            return Refusal(400, "invalid_json", f"the body is {json_type(value)}, expected an object")
        repaired = True
        envelope = _decode_single(body)
    admission = desk.admit(_with_body_key(request, text_of(envelope.writeKey, LONGEST_KEY)))
    if isinstance(admission, Refusal):
        return admission
    limit = admission.limits.event_bytes
    if len(body) > limit:
        return Refusal(413, "event_too_large", f"the event has {len(body)} bytes, the limit is {limit}", site=admission.site)
    parsed = Parsed(admission, sent_at=text_of(envelope.sentAt), repaired=int(repaired))
    judge(parsed, (body,), scan, desk.new_id, kind)
    return parsed


def _parse_batch(request: HttpRequest, desk: Desk) -> Parsed | Refusal:
    scan = Scan(request.body)
    envelope = _read_batch(scan.body)
    if isinstance(envelope, Refusal):
        return envelope
    key = text_of(envelope.writeKey, LONGEST_KEY)
    found = _with_body_key(request, key)
    if key is None and envelope.batch and all(each.carrier in ("host", "bearer") for each in found):
        found = _with_event_key(found, envelope.batch[0])
    admission = desk.admit(found)
    if isinstance(admission, Refusal):
        return admission
    limit = admission.limits.events_per_request
    if len(envelope.batch) > limit:
        message = f"the request has {len(envelope.batch)} events, the limit is {limit}"
        return Refusal(413, "too_many_events", message, site=admission.site)
    defaults = defaults_of(envelope.context, envelope.integrations, admission.limits, len(envelope.batch))
    if isinstance(defaults, Fault):
        if defaults.reason is DeadReason.TOO_LARGE:
            return Refusal(413, "context_too_large", defaults.detail, site=admission.site)
        return Refusal(400, "invalid_batch", defaults.detail, site=admission.site)
    parsed = Parsed(
        admission,
        sent_at=text_of(envelope.sentAt),
        correct_skew=request.route != "/v1/import",
        defaults=defaults,
    )
    judge(parsed, envelope.batch, scan, desk.new_id)
    return parsed


def _read_batch(body: bytes) -> _Batch | Refusal:
    try:
        if body[:1] == b"[":
            return _Batch(_decode_array(body))
        return _decode_batch(body)
    except msgspec.ValidationError as exc:
        problem = str(exc)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        problem = ""
    if problem:
        return Refusal(400, "invalid_batch", f'expected {{"batch": [events]}}: {problem[:1].lower()}{problem[1:]}')
    opened = open_leniently(body)
    if isinstance(opened, Fault):
        return _unreadable(body, opened)
    if opened.events is None:
        return Refusal(400, "invalid_batch", 'expected {"batch": [events]}')
    try:
        read = _decode_batch(opened.envelope) if opened.envelope != b"{}" else _Batch([])
    except msgspec.MsgspecError as exc:  # `batch` appears twice, and the second is no list
        return Refusal(400, "invalid_batch", f'expected {{"batch": [events]}}: {exc}')
    read.batch = [msgspec.Raw(event) for event in opened.events]
    return read


def _unreadable(body: bytes, fault: Fault) -> Refusal:
    if not body.strip():
        return Refusal(400, "empty_body", "the body is empty, expected a JSON object")
    return Refusal(400, "invalid_json", f"the body is not JSON: {fault.detail}")


def _with_body_key(request: HttpRequest, key: str | None) -> list[Credential]:
    found = carriers.from_request(request)
    if key:
        place = next((n for n, each in enumerate(found) if each.carrier in ("query", "host")), len(found))
        found.insert(place, Credential("body", key))
    return found


def _with_event_key(found: list[Credential], event: msgspec.Raw) -> list[Credential]:
    try:
        key = text_of(_decode_single(event).writeKey, LONGEST_KEY)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return found
    if not key:
        return found
    bearer = [each for each in found if each.carrier == "bearer"]
    return [*bearer, Credential("event", key), *(each for each in found if each.carrier != "bearer")]


def _parse_pixel(request: HttpRequest, desk: Desk) -> Parsed | Refusal:
    kind = TYPES.get(request.params["type"])
    if kind is None:
        return Refusal(404, "unknown_path", f"no pixel for {request.params['type']!r}")
    data = request.query.get("data")
    body = _encode(_unflatten(request.query)) if data is None else _decode_data(data)
    parsed = _parse_single(request, desk, body, kind)
    if not isinstance(parsed, Refusal):
        return parsed
    # nobody reads the status of a pixel: what the key allows to keep is kept
    admission = desk.admit(carriers.from_request(request))
    if isinstance(admission, Refusal) or parsed.status not in (400, 413):
        return parsed
    reason = DeadReason.TOO_LARGE if parsed.status == 413 else DeadReason.MALFORMED_JSON
    return Parsed(admission, rejects=[Reject(0, reason, parsed.message, body)])


def _decode_data(data: str) -> bytes:
    text = data.strip()
    if text.startswith("{"):
        return text.encode("utf-8", "replace")
    plain = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "replace")


def _unflatten(query: Any) -> dict[str, Any]:
    """Builds the event of flattened parameters: `properties.total=5` is `{"properties": {"total": "5"}}`."""
    event: dict[str, Any] = {}
    for name, value in query.items():
        if name in ("writekey", "token"):
            continue
        *path, last = name.split(".", PIXEL_LEVELS)
        place = event
        for step in path:
            inner = place.setdefault(step, {})
            if type(inner) is not dict:  # `a=1&a.b=2`: the second keeps its dotted name
                place, last = event, name
                break
            place = inner
        place[last] = value
    return event


def _settings(request: HttpRequest, desk: Desk) -> Reply | Refusal:
    """The settings document of browser and mobile SDKs: everything goes to this server."""
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
        "remotePlugins": [],
    }
    return Reply(200, _encode(document), headers={"Cache-Control": "public, max-age=300"})
