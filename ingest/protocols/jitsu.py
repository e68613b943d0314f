"""Jitsu's HTTP API, as @jitsu/js speaks it: one event per request at `/api/s/{type}`, servers at `/api/s/s2s/{type}`, batches and pixels.

Facts were seen on the wire of @jitsu/js 1.11, and in https://docs.jitsu.com/sending-data/http. The key is `id:secret`, or the id of a browser's key, in
`X-Write-Key`; the other carriers of Segment's API hold too. `event` as the type takes the `type` of the body. The answer to events is `{"ok": true}`.

The status tells the truth: Jitsu answers 200 to every browser, with an error in the body. @jitsu/js reports any other status to the page and sends
nothing again, in both cases.
"""

from __future__ import annotations

import msgspec

from ingest.clients import carriers
from ingest.contract import Accepted, Credential, Desk, HttpRequest, Parsed, Refusal, Reply, Route
from ingest.judge import calls, pixels
from ingest.judge.calls import as_event, judge_again

__all__ = ["NAME", "ROUTES", "as_event", "credentials", "judge_again", "parse", "reply"]

NAME = "jitsu"

TYPES = {
    "track": "track", "identify": "identify", "page": "page", "screen": "screen", "group": "group", "alias": "alias", "event": "",
    "t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias", "e": "",
}  # fmt: skip
"""The types in paths; an empty one: the body's."""
PIXEL = "/api/px/{type}"
BATCHES = ("/api/s/s2s/batch", "/v1/batch/b", "/batch", "/batch/b", "/b")
"""Jitsu takes a batch at `/v1/batch` and `/v1/b` as well, which `segment` reads."""
ROUTES = (
    Route("POST", "/api/s/{type}"),
    Route("POST", "/api/s/s2s/{type}"),
    *(Route("POST", path) for path in BATCHES),
    Route("GET", PIXEL),
)

_SUCCESS = Reply(200, b'{"ok":true}')
_encode = msgspec.json.Encoder().encode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys outside the body."""
    return carriers.from_request(request)


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Reads any request of this protocol."""
    if request.route in BATCHES:
        return calls.read_calls(request, desk)
    kind = TYPES.get(request.params["type"])
    if kind is None:
        return Refusal(404, "unknown_path", f"{request.params['type']!r} is no type of event; use one of {', '.join(TYPES)}")
    if request.route == PIXEL:
        return pixels.read_pixel(request, desk, kind)
    return calls.read_single(request, desk, request.body, kind)


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer: those of Segment's API with `ok`, and of a batch with its numbers of events."""
    if request.route == PIXEL:
        error = {"X-Jitsu-Error": result.code} if isinstance(result, Refusal) else {}
        return pixels.IMAGE._replace(headers={**pixels.IMAGE.headers, **error})
    plain = calls.answer(result)
    if isinstance(result, Refusal):
        return plain._replace(body=_encode({"ok": False, "error": result.message, **msgspec.json.decode(plain.body)}))
    if request.route not in BATCHES:
        return _SUCCESS if not result.rejects else plain._replace(body=_encode({"ok": False, **msgspec.json.decode(plain.body)}))
    counts = {"ok": not result.rejects, "receivedEvents": result.accepted + len(result.rejects), "okEvents": result.accepted}
    errors = [f"{each.reason}: {each.detail}" for each in result.rejects[:10]]
    return plain._replace(body=_encode({**counts, **({"errors": errors} if errors else {}), **msgspec.json.decode(plain.body)}))
