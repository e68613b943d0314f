"""Calls in Segment's form, as several protocols have them: one call per request, or many as `{"batch": [...]}`, and the answers.

The key may stand in headers, query, host name, body or call; a key of the body is looked for only where it may still decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from ingest.clients import carriers
from ingest.clients.early import admit_early, decides
from ingest.contract import SHOWN_REJECTS, Accepted, Admission, Credential, Desk, HttpRequest, Parsed, Refusal, Reply
from ingest.judge.batch import ABSENT, read_batch, unreadable
from ingest.judge.budget import Budget
from ingest.judge.encoding import UnknownCharset, to_utf8
from ingest.judge.envelope import defaults_of, ignored_defaults, text_of, time_of
from ingest.judge.mend import Fault, json_type, read_leniently
from ingest.judge.repeats import ids_for
from ingest.judge.verdicts import Item, Scan, judge
from shared.events.outcome import DeadReason

SUCCESS = Reply(200, b'{"success":true}')
LONGEST_KEY = 4096
_OF_SDKS = frozenset({"timestamp", "sequence", "messageId"})
"""Members beside `batch` that SDKs write about the request: they are no misspelling."""


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


def answer(result: Accepted | Refusal) -> Reply:
    """Words the answer for a client that reads JSON."""
    if isinstance(result, Refusal):
        headers = {} if result.retry_after is None else {"Retry-After": str(result.retry_after)}
        return Reply(result.status, _encode({"code": result.code, "message": result.message}), headers=headers)
    if not result.rejects:
        return SUCCESS
    shown = [{"index": each.position, "reason": each.reason, "detail": each.detail} for each in result.rejects[:SHOWN_REJECTS]]
    answer = {"success": result.accepted > 0, "accepted": result.accepted, "rejected": len(result.rejects), "rejects": shown}
    if len(result.rejects) > SHOWN_REJECTS:
        answer["rejects_not_shown"] = len(result.rejects) - SHOWN_REJECTS
    return Reply(200, _encode(answer))


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


class Opened(NamedTuple):
    """The part of a request outside its events."""

    found: list[Credential]
    """Keys outside the body, if they may still be needed."""
    early: Admission | None
    """What keys outside the body open, if it had to be known (`admit_early`)."""
    decided: Admission | None
    """The same, if only a key in the body could still disagree."""
    body: bytes
    """The body in UTF-8, decoded from its charset."""


def open_request(
    request: HttpRequest,
    body: bytes,
    desk: Desk,
    find: Callable[[HttpRequest], list[Credential]] = carriers.from_request,
    *,
    query_decides: bool = False,
) -> Opened | Refusal:
    """Looks up the keys outside the body, and decodes the body from its charset.

    Args:
        find: the places of keys in this protocol.
        query_decides: the protocol's `QUERY_DECIDES`.
    """
    known = request.admission
    if known is not None:
        return Opened([], known, known, body)
    found = find(request)
    decided = decides(found, query=query_decides)
    early = admit_early(found, body, desk, decided=decided)
    if isinstance(early, Refusal):
        return early
    read = _utf8(request, body)
    return read if isinstance(read, Refusal) else Opened(found, early, early if decided else None, read)


def read_single(request: HttpRequest, desk: Desk, body: bytes, kind: str) -> Parsed | Refusal:
    """Reads a request of one call.

    Args:
        body: the bytes of the call; those of the request, or others that stand in its address.
        kind: its type, from the path; empty: the call says it.
    """
    opened = open_request(request, body, desk)
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
        budget=budget, items=items, fixed_type=kind or None, replaced=scan.replaced,
    )  # fmt: skip
    return parsed


def read_calls(request: HttpRequest, desk: Desk) -> Parsed | Refusal:
    """Reads a request of many calls, `{"batch": [...]}`."""
    opened = open_request(request, request.body, desk)
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
    ignored += ["unknown_batch_member" for _ in batch.ignored - _OF_SDKS]
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
