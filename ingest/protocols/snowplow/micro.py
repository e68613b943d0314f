"""Answers test suites that were written for Snowplow Micro: `/micro/all`, `/micro/good`, `/micro/bad`, `/micro/reset`. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from ingest.contract import Refusal, Reply
from ingest.lookups import Seen

_HEADERS = {"Cache-Control": "no-store"}
_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def answer_test(what: str, body: bytes, seen: Seen | None) -> Reply | Refusal:
    """Returns the answer.

    Args:
        what: the last part of the path.
        body: filters as a JSON object, or nothing.
        seen: what the edge keeps; None: it is off.
    """
    if seen is None:
        return Refusal(404, "unknown_path", "the interface for tests is off; PENSTOCK_INGEST_MICRO=true turns it on")
    try:
        filters = _decode(body) if body.strip() else {}
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Refusal(400, "invalid_json", "expected filters as a JSON object")
    if what == "reset":
        seen.reset()
    if what in ("all", "reset"):
        return Reply(200, _encode(seen.counts()), headers=_HEADERS)
    if what not in ("good", "bad"):
        return Refusal(404, "unknown_path", f"expected all, good, bad or reset, got {what[:100]!r}")
    return Reply(200, _encode(seen.good(filters) if what == "good" else seen.bad(filters)), headers=_HEADERS)
