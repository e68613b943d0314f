"""The HTTP API of Jitsu's first generation (EventNative), as @jitsu/sdk-js and its bulk uploads speak it.

Facts were seen on the wire of @jitsu/sdk-js 3.1.5 and in https://classic.jitsu.com/docs/sending-data. A request is one event, an
array of them, or a template and the events that it completes (`template.py`); the SDK holds events back for some milliseconds and
sends an array. The key stands in `token`, in `X-Auth-Token`, in
`api_key`, in any parameter that begins with `p_`, or in `api_key` of the first event. Browsers may send to `/api.{anything}`.

`/api/v1/events/bulk` takes a file of events, one a line (`bulk.py`); `/api/v1/events/dry-run` stores nothing and shows what a table
of the layout `jitsu_legacy` would get (`dry_run.py`). `/api/v1/segment…` are Segment's batches. The answer to events is
`{"status": "ok"}`, after they are durable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from ingest.clients import carriers
from ingest.contract import Accepted, Admission, Credential, Desk, HttpRequest, Parsed, Refusal, Reject, Reply, Route
from ingest.judge import calls, pixels
from ingest.judge.batch import read_batch
from ingest.judge.budget import Budget
from ingest.judge.envelope import MERGED_REQUESTS
from ingest.judge.forms.rewrite import Members, judge_rewritten, members_of, open_object, text_of_member
from ingest.judge.mend import Fault
from ingest.judge.repeats import ids_for
from ingest.judge.verdicts import Scan
from ingest.protocols.jitsu_classic import bulk, dry_run
from ingest.protocols.jitsu_classic.events import to_event
from ingest.protocols.jitsu_classic.image import body_of
from ingest.protocols.jitsu_classic.shapes import SHAPES, Shapes
from ingest.protocols.jitsu_classic.template import is_template, merged, merged_bytes
from shared.events.outcome import DeadReason

__all__ = ["NAME", "ROUTES", "as_event", "credentials", "judge_again", "parse", "reply"]

NAME = "jitsu_classic"
QUERY_DECIDES = True

PIXEL = "/api/v1/p.gif"
BULK = "/api/v1/events/bulk"
DRY_RUN = "/api/v1/events/dry-run"
SEGMENT = ("/api/v1/segment", "/api/v1/segment/v1/batch", "/api/v1/segment/compat", "/api/v1/segment/compat/v1/batch")
EVENTS = ("/api/v1/event", "/api/v1/events", "/api/v1/s2s/event", "/api/v1/s2s/events", "/api.{any}")
OF_SERVERS = frozenset({"/api/v1/s2s/event", "/api/v1/s2s/events"})
CLASSIC_CALL = 65_536
"""The largest body in bytes, on Segment's paths, that is looked at for a classic event."""
ROUTES = (*(Route("POST", path) for path in (*EVENTS, *SEGMENT, BULK, DRY_RUN)), Route("GET", PIXEL))

_SUCCESS = Reply(200, b'{"status":"ok"}')
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys outside the body."""
    found = carriers.from_headers(request.headers)
    found += [Credential("header", value.strip()) for name in ("x-auth-token", "api_key") if (value := request.headers.get(name))]
    found += carriers.from_query(request.query)
    found += [Credential("query", value) for name, value in request.query.items() if value and _names_key(name)]
    if request.host:
        found.append(Credential("host", request.host))
    return found


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Reads any request of this protocol."""
    match request.route:
        case "/api/v1/p.gif":
            return _pixel(request, desk)
        case "/api/v1/events/bulk":
            admission = desk.admit(credentials(request))
            return admission if isinstance(admission, Refusal) else bulk.read_file(request, admission, desk)
        case "/api/v1/events/dry-run":
            parsed = _read(request, request.body, desk)
            return parsed if isinstance(parsed, Refusal) else dry_run.show(parsed)
        case route if route in SEGMENT and b'"event_type"' in request.body and _is_classic(request.body):
            return _read(request, request.body, desk)  # a function of Segment's may send classic events
        case route if route in SEGMENT:
            single = not route.endswith("/batch") and b'"batch"' not in request.body
            return calls.read_single(request, desk, request.body, "") if single else calls.read_calls(request, desk)
        case _:
            return _read(request, request.body, desk)


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer: `status` in Jitsu's words, and the members of every answer of this server."""
    if request.route == PIXEL:
        return pixels.IMAGE
    if request.route in SEGMENT:
        return calls.answer(result)
    if request.route == BULK and isinstance(result, Accepted):
        return Reply(200, bulk.answer(result))
    if isinstance(result, Accepted) and not result.rejects:
        return _SUCCESS if request.query.get("cookie_policy") != "strict" else Reply(200, b'{"status":"ok","delete_cookie":true}')
    plain = calls.answer(result)
    words: dict[str, Any] = {"status": "error", "error": result.message} if isinstance(result, Refusal) else {"status": "ok"}
    return plain._replace(body=_encode({**words, **_decode(plain.body)}))


def judge_again(parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None:
    """Judges the body of a dead letter; `form` is `segment` if it is Segment's call."""
    if form != "classic":
        calls.judge_again(parsed, body, "", new_id)
        return
    scan = Scan(body)
    judge_rewritten(parsed, [scan.body], _rewrite, new_id, budget=Budget(), ids_optional=True)


def as_event(body: bytes, form: str) -> bytes:
    """Returns the canonical event of a dead letter, or its bytes if they make none."""
    event = to_event(members_of(body)) if form == "classic" else None
    return body if event is None or isinstance(event, Fault) else _encode(event)


def _is_classic(body: bytes) -> bool:
    members = members_of(body) if len(body) <= CLASSIC_CALL else {}
    return "event_type" in members and "type" not in members and "batch" not in members


def _rewrite_of_server(members: Members, position: int) -> dict[str, Any] | Fault:
    event = _rewrite(members, position)
    if "src" not in members and not isinstance(event, Fault):
        event["context"].setdefault("library", {"name": "api"})
    return event


def _rewrite(members: Members, position: int) -> dict[str, Any] | Fault:  # noqa: ARG001  # the position names the event in its file
    return to_event(members)


def _read(request: HttpRequest, body: bytes, desk: Desk) -> Parsed | Refusal:
    opened = calls.open_request(request, body, desk, credentials, query_decides=QUERY_DECIDES)
    if isinstance(opened, Refusal):
        return opened
    scan = Scan(opened.body)
    budget = Budget()
    cut = _cut(scan.body, opened.early, budget)
    if isinstance(cut, Refusal):
        return cut
    originals, shared = cut
    admission: Admission | Refusal = opened.decided or _admit(opened.found, originals, shared, desk)
    if isinstance(admission, Refusal):
        return admission
    limits = admission.limits
    if len(originals) > limits.events_per_request:
        message = f"the request has more than {limits.events_per_request} events, the site's limit; send fewer at once"
        return admission.refuse(413, "too_many_events", message)
    if len(originals) == 1 and len(originals[0]) > limits.event_bytes:
        return admission.refuse(
            413, "event_too_large", f"the event has {len(originals[0])} bytes, the limit is {limits.event_bytes}"
        )
    if shared:
        size, largest = merged_bytes(originals, shared), MERGED_REQUESTS * int(limits.request_bytes)
        if size > largest:
            message = f"the events with the template in each have {size} bytes, the limit is {largest}; send fewer at once"
            return admission.refuse(413, "context_too_large", message)
        originals = list(merged(originals, shared, limits.event_bytes))
    parsed = Parsed(admission, form="classic", repaired=int(scan.replaced), ip_policy=_ip_policy(request))
    new_id = ids_for(request, admission.site, desk, originals)
    rewrite, shapes = (_rewrite_of_server, _OF_SERVERS) if request.route in OF_SERVERS else (_rewrite, SHAPES)
    judge_rewritten(parsed, originals, rewrite, new_id, budget=budget, ids_optional=True, quick=shapes.rewritten)
    return parsed


def _cut(body: bytes, early: Admission | None, budget: Budget) -> tuple[Sequence[bytes | msgspec.Raw], Members] | Refusal:
    """Returns the bytes of the events of a body, of one or of an array, and the members that a template gives to each of them."""
    shared: Members = {}
    if body[:1].isspace():
        body = body.strip()
    if body[:1] != b"[":
        opened = open_object(body, budget)
        if isinstance(opened, Refusal):
            return opened
        clean, members = opened
        if not is_template(members):
            return [clean], shared
        if early is not None and len(bytes(members["template"])) > early.limits.event_bytes:
            message = f"the template has more than {early.limits.event_bytes} bytes, the limit of an event"
            return early.refuse(413, "context_too_large", message)
        body, shared = bytes(members["events"]), members_of(members["template"])
    # a body that is small enough to be read for strangers has fewer events than bytes
    batch = read_batch(body, len(body) if early is None else early.limits.events_per_request, budget, of_segment=False)
    return batch if isinstance(batch, Refusal) else (batch.events, shared)


def _admit(found: list[Credential], originals: Sequence[bytes | msgspec.Raw], shared: Members, desk: Desk) -> Admission | Refusal:
    """Looks up the keys of a request; one in the template or the first event counts if there is no other."""
    if originals and all(each.carrier in ("host", "bearer") for each in found):
        key = text_of_member(shared.get("api_key") or members_of(originals[0]).get("api_key"))
        if key and len(key) <= calls.LONGEST_KEY:
            found = [*found, Credential("event", key)]
    return desk.admit(found)


def _pixel(request: HttpRequest, desk: Desk) -> Parsed | Refusal:
    """Reads an event in the address of an image; if the key opens a site, what cannot be read is kept as a dead letter."""
    parsed = _read(request, body_of(request.query, request.headers), desk)
    if not isinstance(parsed, Refusal) or parsed.status not in (400, 413):
        return parsed
    admission = desk.admit(credentials(request))
    if isinstance(admission, Refusal):
        return parsed
    reason = DeadReason.TOO_LARGE if parsed.status == 413 else DeadReason.MALFORMED_JSON
    return Parsed(admission, form="classic", rejects=[Reject(0, reason, parsed.message, body_of(request.query, request.headers))])


def _names_key(name: str) -> bool:
    return name.startswith("p_") or name == "api_key"


def _ip_policy(request: HttpRequest) -> str | None:
    return "stripLastOctet" if request.query.get("ip_policy") == "strict" else None


_OF_SERVERS = Shapes(partial(_rewrite_of_server, position=0))
