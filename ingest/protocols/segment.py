"""Segment's HTTP Tracking API, as its SDKs for browsers, Node, Python, Go, Ruby, Java and mobile speak it.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/ describes the long paths; browsers use the short
ones (`/v1/t`). A request has one event, or `{"batch": [...]}`, whatever its content type. Success is exactly 200 `{"success":
true}`: Python SDKs up to 2.3.4 take any other status for a failure, and retry if the body of an error is not JSON with `code` and
`message`. Rejected events are no error of the request, as with Segment: the answer has `accepted` and `rejected`, and the events
are in the dead letters. `success` is false if nothing was accepted; SDKs look at the status only, and must not send such an event
again.

`/v1/import` is a batch; mobile SDKs send everything there. `/v1/m` receives the browser SDK's own metrics, which are discarded.
`/v1/pixel/{type}` always answers a GIF, so its failures are found in the dead letters only. Browsers load their settings from
`/v1/projects/{key}/settings`; that document asks for no device-mode destination.

Traps: analytics-python sends `"anonymousId": null`; analytics-next sends JSON as text/plain; a Bearer token is an OAuth token
when the body has its own `writeKey`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from ingest.clients import carriers
from ingest.clients.early import admit_early, decides
from ingest.contract import (
    SHOWN_REJECTS,
    Accepted,
    Admission,
    Credential,
    Desk,
    HttpRequest,
    Parsed,
    Refusal,
    Reject,
    Reply,
    Route,
)
from ingest.judge.batch import ABSENT, read_batch, unreadable
from ingest.judge.budget import Budget
from ingest.judge.encoding import UnknownCharset, to_utf8
from ingest.judge.envelope import defaults_of, ignored_defaults, text_of, time_of
from ingest.judge.mend import Fault, json_type, read_leniently
from ingest.judge.repeats import ids_for
from ingest.judge.verdicts import Item, Scan, judge
from shared.events.outcome import DeadReason

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
"""The deepest nesting of a dotted parameter."""

LONGEST_KEY = 4096


class _Single(msgspec.Struct, gc=False):
    writeKey: msgspec.Raw = ABSENT  # noqa: N815  # the wire's name
    sentAt: msgspec.Raw = ABSENT  # noqa: N815


class _SingleItem(Item, gc=False, kw_only=True, rename="camel"):
    """A single event and the members beside it, in one pass."""

    write_key: msgspec.Raw = ABSENT
    sent_at: msgspec.Raw = ABSENT


_decode_single = msgspec.json.Decoder(_Single).decode
_decode_single_item = msgspec.json.Decoder(_SingleItem).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
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


def judge_again(parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None:
    """Judges the body of a dead letter; `form` is the type from its path."""
    scan = Scan(body)
    judge(parsed, (scan.body,), new_id, budget=Budget(), fixed_type=form or None, replaced=scan.replaced)


def as_event(body: bytes, form: str) -> bytes:
    """Returns the body of a dead letter with the type from its path, if that can be written in."""
    if form:
        try:
            return _encode({**_decode_members(body), "type": form})
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
    return body


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
    answer = {"success": result.accepted > 0, "accepted": result.accepted, "rejected": len(result.rejects), "rejects": shown}
    if len(result.rejects) > SHOWN_REJECTS:
        answer["rejects_not_shown"] = len(result.rejects) - SHOWN_REJECTS
    return Reply(200, _encode(answer))


class _Opened(NamedTuple):
    """The part of a request outside its events."""

    found: list[Credential]
    """Keys outside the body, if they may still be needed."""
    early: Admission | None
    """What keys outside the body open, if it had to be known (`admit_early`)."""
    decided: Admission | None
    """The same, if only a key in the body could still disagree."""
    body: bytes
    """The body in UTF-8, decoded from its charset."""


def _open(request: HttpRequest, body: bytes, desk: Desk) -> _Opened | Refusal:
    known = request.admission
    if known is not None:
        return _Opened([], known, known, body)
    found = carriers.from_request(request)
    decided = decides(found)
    early = admit_early(found, body, desk, decided=decided)
    if isinstance(early, Refusal):
        return early
    read = _utf8(request, body)
    return read if isinstance(read, Refusal) else _Opened(found, early, early if decided else None, read)


def _parse_single(request: HttpRequest, desk: Desk, body: bytes, kind: str) -> Parsed | Refusal:
    opened = _open(request, body, desk)
    if isinstance(opened, Refusal):
        return opened
    scan = Scan(opened.body)
    body = scan.body
    budget = Budget()
    repaired = False
    item: _SingleItem | None = None
    try:
        item = _decode_single_item(body)
        write_key, sent_at = item.write_key, item.sent_at
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        try:
            envelope = _decode_single(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            lenient = read_leniently(body, budget)
            if isinstance(lenient, Fault):
                return unreadable(body, lenient)
            value, body = lenient
            if not isinstance(value, dict):
                return Refusal(400, "invalid_json", f"the body is {json_type(body)}, expected an object")
            repaired = True
            envelope = _decode_single(body)
        write_key, sent_at = envelope.writeKey, envelope.sentAt
    key = None if write_key is ABSENT else text_of(write_key, LONGEST_KEY)
    admission: Admission | Refusal | None = opened.decided
    if admission is None or key:
        admission = desk.admit(_with_body_key(opened.found or carriers.from_request(request), key))
    if isinstance(admission, Refusal):
        return admission
    limit = admission.limits.event_bytes
    if len(body) > limit:
        return admission.refuse(413, "event_too_large", f"the event has {len(body)} bytes, the limit is {limit}")
    parsed = Parsed(admission, sent_at=None if sent_at is ABSENT else time_of(sent_at), form=kind, repaired=int(repaired))
    items = None if item is None else (item,)
    judge(
        parsed, (body,), ids_for(request, admission.site, desk, (body,)),
        budget=budget, items=items, fixed_type=kind, replaced=scan.replaced,
    )  # fmt: skip
    return parsed


def _parse_batch(request: HttpRequest, desk: Desk) -> Parsed | Refusal:
    opened = _open(request, request.body, desk)
    if isinstance(opened, Refusal):
        return opened
    scan = Scan(opened.body)
    budget = Budget()
    # a body that is small enough to be read for strangers has fewer events than bytes
    most = len(scan.body) if opened.early is None else opened.early.limits.events_per_request
    batch = read_batch(scan.body, most, budget)
    if isinstance(batch, Refusal):
        return batch
    key = text_of(batch.envelope.writeKey, LONGEST_KEY)
    admission: Admission | Refusal | None = opened.decided
    if admission is None or key:
        admission = _admit_batch(opened.found or carriers.from_request(request), key, batch.events, desk)
    if isinstance(admission, Refusal):
        return admission
    limit = admission.limits.events_per_request
    if len(batch.events) > limit:
        message = f"the request has more than {limit} events, the site's limit; send fewer at once"
        return admission.refuse(413, "too_many_events", message)
    context, integrations = batch.envelope.context, batch.envelope.integrations
    defaults = defaults_of(
        context=context, integrations=integrations, limits=admission.limits, events=len(batch.events), budget=budget
    )
    if isinstance(defaults, Fault):
        if defaults.reason is DeadReason.TOO_LARGE:
            return admission.refuse(413, "context_too_large", defaults.detail)
        return admission.refuse(400, "invalid_batch", defaults.detail)
    ignored = ignored_defaults(context, integrations)
    ignored += ["unknown_batch_member" for _ in batch.ignored]
    parsed = Parsed(admission, sent_at=time_of(batch.envelope.sentAt), defaults=defaults, ignored=ignored)
    judge(
        parsed, batch.events, ids_for(request, admission.site, desk, batch.events),
        budget=budget, items=batch.items, replaced=scan.replaced,
    )  # fmt: skip
    return parsed


def _admit_batch(
    found: list[Credential], key: str | None, events: Sequence[bytes | msgspec.Raw], desk: Desk
) -> Admission | Refusal:
    if key is None and events and all(each.carrier in ("host", "bearer") for each in found):
        return desk.admit(_with_event_key(found, events[0]))
    return desk.admit(_with_body_key(found, key))


def _utf8(request: HttpRequest, body: bytes) -> bytes | Refusal:
    try:
        return to_utf8(body, request.headers.get("content-type"))
    except UnknownCharset as exc:
        return Refusal(415, "unknown_charset", str(exc))


def _with_body_key(found: list[Credential], key: str | None) -> list[Credential]:
    if key:
        place = next((n for n, each in enumerate(found) if each.carrier in ("query", "host")), len(found))
        found.insert(place, Credential("body", key))
    return found


def _with_event_key(found: list[Credential], event: bytes | msgspec.Raw) -> list[Credential]:
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
    # no client reads the status of a pixel: if the key opens a site, the request is kept
    admission = desk.admit(carriers.from_request(request))
    if isinstance(admission, Refusal) or parsed.status not in (400, 413):
        return parsed
    reason = DeadReason.TOO_LARGE if parsed.status == 413 else DeadReason.MALFORMED_JSON
    return Parsed(admission, form=kind, rejects=[Reject(0, reason, parsed.message, body)])


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
    """Builds an event from flattened parameters: `properties.total=5` is `{"properties": {"total": "5"}}`."""
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
        "remotePlugins": [],
    }
    return Reply(200, _encode(document), headers={"Cache-Control": "public, max-age=300"})
