"""Calls in the address of an image: as JSON in base64 under `data`, or flattened into parameters with dotted names.

No client reads the status of an image: the answer is always one, and what is wrong is found in the dead letters.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from ingest.clients import carriers
from ingest.contract import Desk, HttpRequest, Parsed, Refusal, Reject, Reply
from ingest.judge.calls import read_single
from shared.events.outcome import DeadReason

LEVELS = 32
"""The deepest nesting of a dotted parameter."""

IMAGE = Reply(
    200,
    base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"),
    "image/gif",
    {"Cache-Control": "no-store, private", "Expires": "0"},
)

_encode = msgspec.json.Encoder().encode


def read_pixel(request: HttpRequest, desk: Desk, kind: str) -> Parsed | Refusal:
    """Reads a call of one type from the query of an image's address."""
    data = request.query.get("data")
    body = _encode(unflatten(request.query)) if data is None else decode_data(data)
    parsed = read_single(request, desk, body, kind)
    if not isinstance(parsed, Refusal):
        return parsed
    # no client reads the status of a pixel: if the key opens a site, the request is kept
    admission = desk.admit(carriers.from_request(request))
    if isinstance(admission, Refusal) or parsed.status not in (400, 413):
        return parsed
    reason = DeadReason.TOO_LARGE if parsed.status == 413 else DeadReason.MALFORMED_JSON
    return Parsed(admission, form=kind, rejects=[Reject(0, reason, parsed.message, body)])


def decode_data(data: str) -> bytes:
    """Returns the bytes of an event in base64 of any alphabet, or as plain JSON."""
    text = data.strip()
    if text.startswith("{"):
        return text.encode("utf-8", "replace")
    plain = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "replace")


def unflatten(query: Any) -> dict[str, Any]:
    """Builds an event from flattened parameters: `properties.total=5` is `{"properties": {"total": "5"}}`."""
    event: dict[str, Any] = {}
    for name, value in query.items():
        if name in ("writekey", "token"):
            continue
        *path, last = name.split(".", LEVELS)
        place = event
        for step in path:
            inner = place.setdefault(step, {})
            if type(inner) is not dict:  # `a=1&a.b=2`: the second keeps its dotted name
                place, last = event, name
                break
            place = inner
        place[last] = value
    return event
