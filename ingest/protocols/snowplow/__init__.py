"""Snowplow's tracker protocol, as its trackers for browsers, Node, Python and phones speak it, without Snowplow's services.

`POST /com.snowplowanalytics.snowplow/tp2` takes `{"schema": "iglu:…payload_data…", "data": [events]}`, `GET /i` one event in its
query. Any path of two parts whose first has a dot does the same, so a tracker can avoid lists of blocked addresses; a site may
name paths of its own (`snowplow.paths`). The protocol is that of the trackers and of Snowplow's documentation:
https://docs.snowplow.io/docs/events/going-deeper/http-requests/.

The key stands where the other protocols have it; a tracker needs none if it sends to a domain or a path of the site, or if its
`appId` is a key. Trackers throw away what is answered with 400, 401, 403, 410 or 422 and send all else again, so the status tells
the truth. An event that cannot be read is a dead letter and harms no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ingest.clients import carriers
from ingest.contract import Accepted, Admission, Credential, Desk, HttpRequest, Parsed, Refusal, Reject, Reply, Route
from ingest.judge import calls, pixels
from ingest.judge.budget import Budget
from ingest.judge.encoding import UnknownCharset, to_utf8
from ingest.judge.envelope import MERGED_REQUESTS
from ingest.judge.mend import Fault
from ingest.judge.verdicts import Scan
from ingest.protocols.snowplow.canonical import canonical
from ingest.protocols.snowplow.identity import ANONYMOUS, Visitor, visitor_of
from ingest.protocols.snowplow.micro import answer_test
from ingest.protocols.snowplow.others import read_redirect, read_webhook, target_of
from ingest.protocols.snowplow.payload import Parameters, merged, own_id, parameters_of, read_body, read_event
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits

__all__ = ["COOKIES", "NAME", "ROUTES", "as_event", "credentials", "judge_again", "parse", "reply"]

NAME = "snowplow"
COOKIES = True

TP2 = "/com.snowplowanalytics.snowplow/tp2"
ANY = "/{vendor}.{name}/{version}"
IGLU = "/com.snowplowanalytics.iglu/v1"
REDIRECT = "/r/tp2"
MICRO = "/micro/{what}"
PIXEL = "/i"
PIXELS = (PIXEL, "/ice.png")
ROUTES = (
    *(Route("GET", path) for path in (*PIXELS, TP2, ANY, IGLU, REDIRECT, MICRO)),
    *(Route("POST", path) for path in (TP2, ANY, IGLU, MICRO)),
)

SMALL_BYTES = 64 * 1024
"""The largest body in which an `aid` is looked for as a key."""

_OK = Reply(200, b"ok", "text/plain")
_IMAGE = pixels.IMAGE._replace(headers={"Cache-Control": "no-cache, no-store, must-revalidate"})
_NO_EVENT = (*carriers.QUERY_NAMES, "nuid")
_encode = msgspec.json.Encoder().encode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys outside the body, and the site's own path."""
    found = carriers.from_request(request)
    own = request.params.get("path")
    if own:
        found.insert(len(found) - bool(request.host), Credential("host", own))
    return found


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Reads any request of this protocol."""
    if request.route == MICRO:
        return answer_test(request.params["what"], request.body, desk.micro)
    admission = request.admission or desk.admit(credentials(request))
    if isinstance(admission, Refusal) and (admission.code != "missing_key" or len(request.body) > SMALL_BYTES):
        return admission
    query = parameters_of(request.query, _NO_EVENT) if request.query else {}
    events: list[Parameters] | list[bytes]
    if request.route == REDIRECT:
        if isinstance(admission, Admission) and isinstance(target := target_of(query, admission), Refusal):
            return target
        limits = SiteLimits() if isinstance(admission, Refusal) else admission.limits
        events, query = [read_redirect(query, limits)], {}
    elif request.route == IGLU:
        called = _webhook_of(request, query, admission)
        if isinstance(called, Refusal):
            return called
        events, query = called, {}
    elif request.method == "GET" or (not request.body and "e" in query):
        events, query = [query], {}
    else:
        read = _events_of(request, admission)
        if isinstance(read, Refusal):
            return read
        events = read
    if isinstance(admission, Refusal):
        admission = _by_app(query, events, desk, admission)
        if isinstance(admission, Refusal):
            return admission
        if request.route == REDIRECT and isinstance(target := target_of(request.query, admission), Refusal):
            return target
    limits = admission.limits
    if len(events) > limits.events_per_request:
        message = f"the request has more than {limits.events_per_request} events, the site's limit; send fewer at once"
        return admission.refuse(413, "too_many_events", message)
    if (
        query
        and len(events) * sum(len(name) + len(value) for name, value in query.items()) > MERGED_REQUESTS * limits.request_bytes
    ):
        return admission.refuse(413, "query_too_large", "the query is too large to belong to each of so many events")
    visitor = visitor_of(request, admission, desk)
    headers = {"Set-Cookie": visitor.set_cookie} if visitor.set_cookie else None
    parsed = Parsed(admission, headers=headers, hide_address=visitor.is_anonymous)
    if desk.micro is not None:
        parsed.asked = request
    fallback = _referer(request)
    budget = Budget()
    event: Parameters | bytes
    for index, event in enumerate(events):  # type: ignore[assignment]  # all are of one kind
        _take(parsed, index, event, query=query, visitor=visitor, fallback=fallback, new_id=desk.new_id, budget=budget)
    return parsed


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer."""
    if isinstance(result, Refusal):
        return calls.answer(result)
    if request.route == REDIRECT and request.query.get("u"):
        return Reply(302, b"", "text/plain", {"Location": request.query["u"], "Cache-Control": "no-store"})
    if request.method == "GET":
        return _IMAGE
    return calls.answer(result) if result.rejects else _OK


def judge_again(parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None:
    """Judges the body of a dead letter: the parameters of one event. `form` is the network user id of its request."""
    visitor = Visitor(form or ANONYMOUS, not form)
    _take(parsed, 0, Scan(body).body, query={}, visitor=visitor, fallback=None, new_id=new_id, budget=Budget())


def as_event(body: bytes, form: str) -> bytes | None:
    """Returns the parameters of a dead letter with the network user id of its request."""
    if form:
        parameters = read_event(body, Budget())
        if not isinstance(parameters, Fault):
            return _encode({"nuid": form, **parameters})
    return body


def _events_of(request: HttpRequest, admission: Admission | Refusal) -> list[Parameters] | list[bytes] | Refusal:
    try:
        body = to_utf8(request.body, request.headers.get("content-type"))
    except UnknownCharset as exc:
        return Refusal(415, "unknown_charset", str(exc))
    most = SMALL_BYTES if isinstance(admission, Refusal) else admission.limits.events_per_request
    return read_body(Scan(body).body, most)


def _webhook_of(request: HttpRequest, query: Parameters, admission: Admission | Refusal) -> list[Parameters] | Refusal:
    content_type = request.headers.get("content-type", "")
    try:
        body = Scan(to_utf8(request.body, content_type)).body
    except UnknownCharset as exc:
        return Refusal(415, "unknown_charset", str(exc))
    most = SMALL_BYTES if isinstance(admission, Refusal) else admission.limits.events_per_request
    form = content_type.lower().startswith("application/x-www-form-urlencoded")
    return read_webhook(body, query | ({"nuid": request.query["nuid"]} if "nuid" in request.query else {}), form, most)


def _by_app(query: Parameters, events: list[Parameters] | list[bytes], desk: Desk, refusal: Refusal) -> Admission | Refusal:
    """Returns the site whose key is the `aid` of the first event."""
    first: Any = events[0] if events else {}
    parameters = read_event(first, Budget()) if isinstance(first, bytes) else first
    app = query.get("aid") or (None if isinstance(parameters, Fault) else parameters.get("aid"))
    if type(app) is not str or not app:
        return refusal
    found = desk.admit([Credential("event", app)])
    return refusal if isinstance(found, Refusal) and found.code == "unknown_key" else found


def _referer(request: HttpRequest) -> str | None:
    referer = request.headers.get("referer")
    return referer.encode("utf-8", "replace").decode() if referer else None


def _take(
    parsed: Parsed,
    index: int,
    event: Parameters | bytes,
    *,
    query: Parameters,
    visitor: Visitor,
    fallback: str | None,
    new_id: Callable[[], str],
    budget: Budget,
) -> None:
    """Adds an event to `parsed`, accepted or as a reject."""
    admission = parsed.admission
    limit = admission.limits.event_bytes
    original = b""
    fault: Fault | None = None
    if isinstance(event, bytes):
        original = event
        if len(event) > limit:
            fault = Fault(DeadReason.TOO_LARGE, f"the event has {len(event)} bytes, the limit is {limit}")
        else:
            read = read_event(event, budget)
            if isinstance(read, Fault):
                fault = read
            else:
                event = read
    if fault is None and isinstance(event, dict):
        parameters = merged(event, query)
        if index and "eid" in query:
            parameters["eid"] = own_id(query["eid"], index)
        if fallback and not parameters.get("url"):
            parameters = {**parameters, "url": fallback}
        notes: list[str] = []
        found = canonical(
            parameters=dict(parameters), network_id=visitor.network_id, admission=admission, new_id=new_id, notes=notes
        )
        if not isinstance(found, Fault):
            if notes:
                parsed.unknown_schemas += notes.count("unknown")
                parsed.unfit += notes.count("unfit")
            parsed.heads.append(found[0])
            parsed.bodies.append(found[1])
            parsed.made_ids += found[2]
            if parsed.sent_at is None and not parameters.get("ttm"):
                parsed.sent_at = parameters.get("stm")
            return
        fault, original = found, _written(parameters)
    assert fault is not None  # noqa: S101  # an event that is no parameters has one
    parsed.form = "" if visitor.is_anonymous else visitor.network_id
    parsed.rejects.append(Reject(index, fault.reason, fault.detail, original))


def _written(parameters: Parameters) -> bytes:
    try:
        return _encode(parameters)
    except (UnicodeError, ValueError):
        return repr(parameters).encode("utf-8", "replace")
