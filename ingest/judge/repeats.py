"""Ids for events that come without a `messageId`, so that a repeated request can be recognised. Pure.

A sender without ids may give the request one, in `Idempotency-Key`. Its events then get ids made of that key and their bytes: the
same request sent again has the same ids, and the router delivers them once. Another body under the same key is another event.
Without the header each event gets a new id, and a repeat is a second event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import msgspec

from ingest.contract import Desk, HttpRequest

HEADER = "idempotency-key"


def ids_for(request: HttpRequest, site: str, desk: Desk, bodies: Sequence[bytes | msgspec.Raw]) -> Callable[[], str]:
    """Returns the function that makes the ids of the request's events."""
    key = request.headers.get(HEADER)
    if not key:
        return desk.new_id
    whole = blake2b(digest_size=16)
    for part in (site.encode(), key.encode("utf-8", "surrogateescape"), *bodies):
        whole.update(b"%d:" % len(part))
        whole.update(part)
    request_id = whole.hexdigest()
    made = 0

    def new_id() -> str:
        nonlocal made
        made += 1
        return f"{request_id}-{made}"

    return new_id
