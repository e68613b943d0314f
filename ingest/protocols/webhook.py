"""Webhooks: other systems deliver what they have to say, at an address for each webhook of the project.

The sender is verified over the untouched body before anything of it is read (`ingest/webhooks/hook.py`); an address alone proves
nothing. Then every payload is an event of type `webhook`, an array one for each item (`ingest/deliveries/payload.py`). What cannot be
read becomes a dead letter, and the answer is 200 all the same: a vendor would deliver the same bytes for hours.

The answer is JSON, for Slack nothing and for Twilio an empty TwiML document: each of them shows another one to its user as an error.
Slack's `url_verification` is answered with its challenge once the signature holds.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Literal

import msgspec

from ingest.clients.bursts import burst_of
from ingest.contract import (
    Accepted,
    Admission,
    Credential,
    Desk,
    Given,
    HttpRequest,
    Parsed,
    Reading,
    Refusal,
    Reject,
    Reply,
    Route,
)
from ingest.deliveries.payload import add_events
from ingest.judge import calls
from ingest.judge.encoding import UnknownCharset, to_utf8
from ingest.judge.mend import Fault
from shared.events.outcome import DeadReason

NAME = "webhook"
HEAD = False
"""A vendor that asks whether the address exists delivers nothing: HEAD is refused with 405, and makes no event."""

HAS_KEYS = False
"""The address proves nothing: the server keeps nothing of what a head opened."""

ADDRESS = "/webhooks/{id}"
ROUTES = (Route("POST", ADDRESS), Route("GET", ADDRESS))
MOST_BODY_BYTES = 26 * 1024 * 1024
"""GitHub sends up to 25 MB. What the site does not allow is kept as a dead letter, cut: a refused vendor would send it for days."""

_TWIML = Reply(200, b'<?xml version="1.0" encoding="UTF-8"?><Response/>', "text/xml")
_NOTHING = Reply(200, b"", "text/plain")
_encode = msgspec.json.Encoder().encode


class _Challenge(msgspec.Struct):
    type: str = ""
    challenge: str = ""


_decode_challenge = msgspec.json.Decoder(_Challenge).decode


class _Form(msgspec.Struct, array_like=True):
    """What a dead letter keeps of its delivery. `whole`: it is the body of a request, and an array in it is many events."""

    reading: Reading
    given: Given
    whole: bool = False


_decode_form = msgspec.json.Decoder(_Form).decode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the webhook that the address names."""
    return [Credential("webhook", request.params.get("id", ""))]


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Verifies the sender, then reads the payload."""
    admission = desk.admit(credentials(request))
    if isinstance(admission, Refusal):
        return admission
    hook = admission.hook
    if hook is None:  # no other key opens a webhook
        return admission.refuse(404, "unknown_webhook", "no webhook of the project has this address")
    unproven = hook.verify(request, desk.now())
    if unproven is not None:
        retry_after = 30 if unproven.status == 503 else None
        return admission.refuse(unproven.status, unproven.code, unproven.message, retry_after)
    reading, limits = hook.reading, admission.limits
    if reading.type == "slack" and (challenge := _challenge(request.body)):
        return Reply(200, _encode({"challenge": challenge}))
    body = request.body
    kind = request.headers.get("content-type", "")
    unknown = ""
    if "charset" in kind.lower() and len(body) <= limits.request_bytes:  # what is kept whole stays as it came
        try:
            body = to_utf8(body, kind)
        except UnknownCharset as exc:
            unknown = str(exc)
    name, id_, user = hook.outside
    given = Given(
        kind_of(request.method, body, kind),
        name(request) if name is not None else "",
        _id(request, hook.binds_id, id_(request)) if id_ is not None else "",
        user(request) if user is not None else "",
    )
    kept = _Form(reading, given, whole=True)
    if unknown:
        return _kept_whole(admission, body, kept, fault=Fault(DeadReason.MALFORMED_JSON, unknown))
    if len(body) > limits.request_bytes:
        text = f"the body has {len(body)} bytes, the limit is {int(limits.request_bytes)}"
        return _kept_whole(admission, body, kept, fault=Fault(DeadReason.TOO_LARGE, text))
    if request.method == "GET":
        body = _encode({name: value for name, value in request.query.items() if name != hook.hidden})
    parsed = Parsed(admission)
    add_events(parsed=parsed, body=body, reading=reading, given=given, new_id=desk.new_id)
    if parsed.rejects:
        parsed.form = _encode((reading, given)).decode()
    most = min(limits.events_per_request, burst_of(limits.rate)) if limits.rate else limits.events_per_request
    if len(parsed.heads) + len(parsed.rejects) > most:
        text = f"the array has more than {most} events, which the site's limits allow at once"
        return _kept_whole(admission, body, kept, fault=Fault(DeadReason.TOO_LARGE, text))
    return parsed


def _id(request: HttpRequest, bound: bool, id_: str) -> str:
    """Returns the id of a delivery that stands outside of the body; with the signed bytes in it where it is not signed itself."""
    if not bound or not id_:
        return id_
    return f"{id_}:{blake2b(request.body + request.query_text.encode('utf-8', 'surrogateescape'), digest_size=8).hexdigest()}"


def _kept_whole(admission: Admission, body: bytes, kept: _Form, fault: Fault) -> Parsed:
    """Returns a delivery that becomes no event: it is answered like any other, and its beginning is a dead letter."""
    return Parsed(admission, form=_encode(kept).decode(), rejects=[Reject(0, fault.reason, fault.detail, body)])


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer."""
    if not isinstance(result, Refusal):
        if "x-twilio-signature" in request.headers:
            return _TWIML
        if "x-slack-signature" in request.headers:
            return _NOTHING
    return calls.answer(result)


def judge_again(parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None:
    """Judges the body of a dead letter."""
    kept = _form(form)
    add_events(parsed=parsed, body=body, reading=kept.reading, given=kept.given, new_id=new_id, whole=kept.whole)


def as_event(body: bytes, form: str) -> bytes | None:
    """Returns the body of a dead letter as JSON, if it is some."""
    if _form(form).given.kind in ("form", "text"):
        return _encode(body.decode("utf-8", "replace"))
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return body


def _form(form: str) -> _Form:
    try:
        return _decode_form(form.encode())
    except (msgspec.MsgspecError, UnicodeError):
        return _Form(Reading(webhook=NAME, type="open"), Given("json"))


def kind_of(method: str, body: bytes, content_type: str) -> Literal["json", "form", "text"]:
    """Returns how a body is written: what begins as JSON is JSON; the sender's content type does not count."""
    start = body.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] if body[:1] not in (b"{", b"[") else body[:1]
    if method == "GET" or start in (b"{", b"["):
        return "json"
    plain = content_type.partition(";")[0].strip().lower()
    if plain.endswith("form-urlencoded"):
        return "form"
    return "json" if plain.endswith("json") or not body else "text"


def _challenge(body: bytes) -> str:
    if b"url_verification" not in body[:4096]:
        return ""
    try:
        found = _decode_challenge(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    return found.challenge[:1024] if found.type == "url_verification" else ""
