"""Services that take events, as their public pages say they behave: one scripted server, and the rules of each as data.

The server knows an event by a mark, `mid-<number>`, that stands somewhere in its record. It takes what it answers with success, refuses what it is
told to refuse in the service's own words, and keeps the service's limits: a call that is too large is answered as the service answers it.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from tests.support.receiver import Behaviour, Request

SECRET = "s3cret"
WRONG = "wr0ng"
Refuse = Callable[[Request, Sequence[str], Sequence[int]], tuple[Behaviour, bool]]
"""Returns the answer to a call whose events at some places are refused, and whether the others are taken. Asked with the events of the call."""


def answer(status: int, body: object = None, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Returns an answer with JSON."""
    return Behaviour(status, headers or {}, b"" if body is None else json.dumps(body).encode())


def whole(behaviour: Behaviour) -> Refuse:
    """Returns the way of a service that refuses a call for one event in it."""
    return lambda _request, _marks, _bad: (behaviour, False)


@dataclass(frozen=True, slots=True)
class Rules:
    """How a service behaves."""

    document: Mapping[str, Any]
    """Options beside `endpoint`; `SECRET` stands where the credential does."""
    ok: Behaviour | Callable[[Sequence[str]], Behaviour] = field(default_factory=lambda: answer(200, {}))
    """The answer of success, perhaps made of the events of the call."""
    unauthorised: Behaviour = field(default_factory=lambda: answer(401, {"message": "unauthorized"}))
    throttled: Behaviour = field(default_factory=lambda: answer(429, {"message": "slow down"}, {"Retry-After": "0"}))
    broken: Behaviour = field(default_factory=lambda: Behaviour(500, {}, b"<html>oops"))
    too_large: Behaviour = field(default_factory=lambda: answer(413, {"message": "too large"}))
    refuse: Refuse = field(default_factory=lambda: whole(answer(400, {"message": "bad event"})))
    credentials: Sequence[str] = (SECRET,)
    """A call bears one of these."""
    most: int = 1
    """Events of a call."""
    most_bytes: int = 1_000_000
    before: Callable[[Request], Behaviour | None] = lambda _request: None
    """Answers calls that come before the one that carries an event; None: it is that one."""
    text: Callable[[Request], str] | None = None
    """Returns what a call says, where that cannot be read in its path and body."""
    types: Sequence[str] = ("track",)
    """Types of the events that a test sends, in turn."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What a test's events have beside what all have."""


class Service:
    """A service; its `behave` goes into a `Receiver`."""

    def __init__(self, rules: Rules, script: Sequence[Behaviour] = (), bad: Sequence[str] = ()) -> None:
        self.rules = rules
        self.script = list(script)
        """What is done with the first calls, whatever they hold."""
        self.bad = frozenset(bad)
        self.strict = True
        """Whether the credential must be right."""
        self.taken: list[str] = []
        self.refused: Counter[int] = Counter()
        """Statuses that were answered beside success."""
        self.widest = 0

    def behave(self, request: Request) -> Behaviour:
        """Returns what to do with a call."""
        marks = marks_in(request, self.rules.text)
        if self.script:
            behaviour = self.script.pop(0)
            if behaviour.what == "lose" and not self.bad & set(marks):
                self.taken += marks
            return behaviour
        behaviour = self._judge(request, marks)
        if behaviour.status >= 300:
            self.refused[behaviour.status] += 1
        return behaviour

    def _judge(self, request: Request, marks: list[str]) -> Behaviour:
        rules = self.rules
        if self.strict and not any(each in credentials_in(request) for each in rules.credentials):
            return rules.unauthorised
        if (other := rules.before(request)) is not None:
            return other
        self.widest = max(self.widest, len(marks))
        if len(marks) > rules.most or len(request.body) > rules.most_bytes:
            return rules.too_large
        places = [place for place, mark in enumerate(marks) if mark in self.bad]
        if not places:
            self.taken += marks
            return rules.ok if isinstance(rules.ok, Behaviour) else rules.ok(marks)
        behaviour, others = rules.refuse(request, marks, places)
        if others:
            self.taken += [mark for mark in marks if mark not in self.bad]
        return behaviour


def marks_in(request: Request, text: Callable[[Request], str] | None = None) -> list[str]:
    """Returns the marks of the events of a call, in their order, each once."""
    said = text(request) if text else request.path + " " + request.body.decode("utf-8", "replace")
    return list(dict.fromkeys(re.findall(r"mid-\d+", unquote_plus(said))))


def credentials_in(request: Request) -> str:
    """Returns all of a call where a credential may stand, also as RFC 7617 writes it."""
    basic = request.headers.get("authorization", "").partition("Basic ")[2]
    known = b64decode(basic).decode() if basic else ""
    return f"{request.path} {dict(request.headers)} {request.body.decode('utf-8', 'replace')} {known}"


def event(number: int, rules: Rules, users: int = 3) -> dict[str, Any]:
    """Returns an event as a shop would send it."""
    mark, user = f"mid-{number}", number % users
    kind = rules.types[number % len(rules.types)]
    found: dict[str, Any] = {
        "messageId": mark,
        "type": kind,
        "userId": f"u{user}",
        "anonymousId": f"a{user}",
        "timestamp": datetime.fromtimestamp(time.time(), UTC).isoformat(),
        "context": {"ip": "203.0.113.9", "userAgent": "Test/1.0", "traits": {"email": f"u{user}@example.com"}},
    }
    if kind == "track":
        product = {"product_id": "p1", "name": "Mug", "price": 4.5, "quantity": 2}
        found |= {
            "event": "Order Completed",
            "properties": {"order_id": mark, "total": 9.0, "currency": "EUR", "products": [product]},
        }
    elif kind in ("identify", "group"):
        found["traits"] = {"email": f"u{user}@example.com", "mark": mark}
        if kind == "group":
            found["groupId"] = f"g{number}"
    else:
        found |= {"name": "Home", "properties": {"mark": mark}}
    return found | {key: value(number) if callable(value) else value for key, value in rules.more.items()}


def _mixpanel(request: Request, _marks: Sequence[str], bad: Sequence[int]) -> tuple[Behaviour, bool]:
    if not request.path.startswith("/import"):
        return answer(200, {"error": "mark: not allowed", "status": 0}), False
    failed = [{"index": place, "$insert_id": "x", "field": "properties.total", "message": "must be less"} for place in bad]
    return answer(400, {"code": 400, "error": "some data points failed", "failed_records": failed, "status": "Bad Request"}), True


def _braze(request: Request, _marks: Sequence[str], bad: Sequence[int]) -> tuple[Behaviour, bool]:
    kind = next(iter(json.loads(request.body)))
    errors = [{"type": "'external_id' is wrong", "input_array": kind, "index": place} for place in bad]
    return answer(201, {"message": "success", "errors": errors}), True


def _customerio(request: Request, _marks: Sequence[str], bad: Sequence[int]) -> tuple[Behaviour, bool]:
    if request.path.endswith("/api/v1/events"):
        return answer(400, {"meta": {"error": "name is wrong"}}), False
    errors = [{"reason": "invalid", "field": "attributes", "message": "too odd", "batch_index": place} for place in bad]
    return answer(207, {"errors": errors}), True


def _hubspot(request: Request, _marks: Sequence[str], bad: Sequence[int]) -> tuple[Behaviour, bool]:
    if request.path.startswith("/events"):
        return answer(400, {"status": "error", "category": "VALIDATION_ERROR", "message": "property is odd"}), False
    ids = [each["id"] for place, each in enumerate(json.loads(request.body)["inputs"]) if place in bad]
    errors = [{"status": "error", "category": "VALIDATION_ERROR", "message": "odd", "context": {"ids": ids}}]
    return answer(207, {"status": "COMPLETE", "results": [], "numErrors": len(ids), "errors": errors}), True


def _iterable(request: Request, _marks: Sequence[str], bad: Sequence[int]) -> tuple[Behaviour, bool]:
    if request.path.endswith("trackPurchase"):
        return answer(400, {"code": "InvalidUserIdError", "msg": "odd"}), False
    sent = json.loads(request.body)
    names = [record.get("userId") for place, record in enumerate(next(iter(sent.values()))) if place in bad]
    return answer(200, {"successCount": 1, "failCount": 1, "failedUpdates": {"invalidUserIds": names}}), True


def _google_ads(_request: Request, _marks: Sequence[str], bad: Sequence[int]) -> tuple[Behaviour, bool]:
    errors = [
        {
            "errorCode": {"conversionUploadError": "UNPARSEABLE_GCLID"},
            "message": "The click ID could not be decoded.",
            "location": {"fieldPathElements": [{"fieldName": "conversions", "index": place}, {"fieldName": "gclid"}]},
        }
        for place in bad
    ]
    failure = {"code": 3, "message": "Multiple errors", "details": [{"@type": "GoogleAdsFailure", "errors": errors}]}
    return answer(200, {"partialFailureError": failure, "results": [{}]}), True


def _google_token(request: Request) -> Behaviour | None:
    return answer(200, {"access_token": "token-1", "expires_in": 3599}) if request.path == "/token" else None


def _intercom_contact(request: Request) -> Behaviour | None:
    if request.method != "POST" or not request.path.endswith("/contacts"):
        return None
    words = "A contact matching those details already exists with id=5da6f18e3d7cf967e4582d05"
    return answer(409, {"type": "error.list", "errors": [{"code": "conflict", "message": words}]})


def _kinesis(_request: Request, _marks: Sequence[str], _bad: Sequence[int]) -> tuple[Behaviour, bool]:
    return answer(400, {"__type": "InvalidArgumentException", "message": "odd"}), False


def _kinesis_text(request: Request) -> str:
    return " ".join(b64decode(each["Data"]).decode() for each in json.loads(request.body)["Records"])


def _tiktok(code: int) -> Behaviour:
    return answer(200, {"code": code, "message": "Words.", "request_id": "x", "data": {}})


def _meta(code: int, status: int = 400, **more: Any) -> Behaviour:
    return answer(status, {"error": {"message": "no", "type": "OAuthException", "code": code, "fbtrace_id": "A", **more}})


SERVICES: dict[str, Rules] = {
    "amplitude": Rules(
        {"api_key": SECRET},
        unauthorised=answer(400, {"code": 400, "error": "Invalid API key: wr0ng", "missing_field": "api_key"}),
        throttled=answer(429, {"code": 429, "error": "Too many requests", "eps_threshold": 30}, {"Retry-After": "0"}),
        refuse=whole(answer(400, {"code": 400, "error": "Request missing required field", "events_with_invalid_fields": {}})),
        most=2_000,
        types=("identify", "track", "page"),
    ),
    "braze": Rules(
        {"instance": "iad-01", "api_key": SECRET},
        ok=answer(201, {"message": "success"}),
        throttled=answer(429, {"message": "rate"}, {"X-RateLimit-Reset": "1000000000"}),
        refuse=_braze,
        most=75,
        most_bytes=4_000_000,
        types=("identify", "track", "page"),
    ),
    "customerio": Rules(
        {"site_id": "site", "api_key": SECRET},
        refuse=_customerio,
        most=1_000,
        most_bytes=500 * 1024,
        types=("identify", "track", "page", "group"),
    ),
    "ga4": Rules(
        {"measurement_id": "G-1", "api_secret": SECRET},
        ok=Behaviour(204, {}, b""),
        unauthorised=answer(403),  # Google says so of no secret; a proxy may
        most_bytes=130_000,
    ),
    "google_ads": Rules(
        {
            "customer_id": "123",
            "developer_token": "dev",
            "client_id": "id",
            "client_secret": "cs",
            "refresh_token": SECRET,
            "conversions": {"Order Completed": "77", "Page Viewed": "78"},
        },
        ok=answer(200, {"results": [{}]}),
        unauthorised=answer(400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}),
        throttled=answer(429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, {"Retry-After": "0"}),
        refuse=_google_ads,
        most=2_000,
        most_bytes=5_000_000,
        before=_google_token,
        credentials=(SECRET, "Bearer token-1"),
        types=("track", "page"),
    ),
    "hubspot": Rules(
        {"access_token": SECRET, "events": {"Order Completed": "pe1_order"}, "event_properties": {"order_id": "order"}}
        | {"company_id": "account", "properties": {"mark": "mark"}},
        refuse=_hubspot,
        most=100,
        most_bytes=3_000_000,
        types=("identify", "track"),
        more={"groupId": lambda number: f"mid-{number}"},
    ),
    "intercom": Rules(
        {"access_token": SECRET, "attributes": {"mark": "mark"}},
        ok=answer(202),
        unauthorised=answer(401, {"type": "error.list", "errors": [{"code": "unauthorized", "message": "Access Token Invalid"}]}),
        throttled=answer(429, {"errors": [{"code": "rate_limit_exceeded"}]}, {"X-RateLimit-Reset": "1000000000"}),
        refuse=whole(answer(422, {"errors": [{"code": "parameter_invalid", "message": "odd"}]})),
        before=_intercom_contact,
        types=("track", "identify"),
    ),
    "iterable": Rules(
        {"api_key": SECRET},
        ok=answer(200, {"successCount": 1, "failCount": 0, "invalidEmails": [], "failedUpdates": {"invalidUserIds": []}}),
        unauthorised=answer(401, {"code": "BadApiKey", "msg": "Invalid API key"}),
        refuse=_iterable,
        most=1_000,
        most_bytes=4_000_000,
        types=("identify", "track", "page"),
    ),
    "kinesis": Rules(
        {"stream": "events", "region": "eu-central-1", "access_key_id": "AK", "secret_access_key": "sk", "session_token": SECRET},
        ok=lambda marks: answer(
            200, {"FailedRecordCount": 0, "Records": [{"SequenceNumber": "1", "ShardId": "s"} for _ in marks]}
        ),
        unauthorised=answer(400, {"__type": "UnrecognizedClientException", "message": "The security token is invalid."}),
        throttled=answer(400, {"__type": "LimitExceededException", "message": "slow down"}),
        refuse=_kinesis,
        most=500,
        most_bytes=5 * 1024 * 1024,
        text=_kinesis_text,
        types=("track", "identify", "page", "group"),
    ),
    "klaviyo": Rules(
        {"api_key": SECRET},
        ok=answer(202),
        unauthorised=answer(401, {"errors": [{"code": "not_authenticated", "detail": "Missing or invalid private key."}]}),
        refuse=whole(answer(400, {"errors": [{"code": "invalid", "detail": "Invalid input."}]})),
        most_bytes=5_000_000,
        types=("track", "identify"),
    ),
    "meta_conversions": Rules(
        {"pixel_id": "12", "access_token": SECRET},
        ok=answer(200, {"events_received": 1, "messages": [], "fbtrace_id": "A"}),
        unauthorised=_meta(190, error_subcode=463),
        throttled=_meta(4),
        broken=_meta(2, status=500, is_transient=True),
        refuse=whole(_meta(100, error_user_msg="event_time is wrong")),
        most=1_000,
        most_bytes=5_000_000,
        types=("track", "page"),
    ),
    "mixpanel": Rules(
        {"token": SECRET},
        ok=answer(200, {"code": 200, "num_records_imported": 1, "status": 1}),
        refuse=_mixpanel,
        most=2_000,
        most_bytes=2_000_000,
        types=("identify", "track", "group", "screen"),
    ),
    "posthog": Rules(
        {"api_key": SECRET},
        ok=answer(200, {"status": "Ok"}),
        most=100_000,
        most_bytes=20_000_000,
        types=("identify", "track", "page", "group"),
    ),
    "slack": Rules(
        {"url": f"https://hooks.slack.com/services/{SECRET}", "text": "{{ event.messageId }}", "rate": 1000},
        ok=Behaviour(200, {}, b"ok"),
        unauthorised=Behaviour(404, {}, b"no_service"),
        refuse=whole(Behaviour(400, {}, b"invalid_payload")),
        types=("track", "identify", "page"),
    ),
    "tiktok": Rules(
        {"pixel_code": "C1", "access_token": SECRET},
        ok=_tiktok(0),
        unauthorised=_tiktok(40_105),
        throttled=_tiktok(40_100),
        broken=_tiktok(50_000),
        refuse=whole(_tiktok(40_002)),
        most=1_000,
        most_bytes=4_000_000,
        types=("track", "page"),
    ),
    "segment": Rules(
        {"write_key": SECRET},
        ok=answer(200, {"success": True}),
        most=2_500,
        most_bytes=500 * 1024,
        types=("identify", "track", "page", "group"),
    ),
}
"""Every service, by the type of its destination."""
