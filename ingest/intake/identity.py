"""The identity of a request with rejects, by which its dead letters are stored once. Pure."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from ingest.contract import Parsed


class _Identified(msgspec.Struct, rename="camel"):
    """The ids of a rejected event."""

    message_id: str | None = None


_decode_identified = msgspec.json.Decoder(_Identified).decode


def identity_of(parsed: Parsed) -> str | None:
    """Returns the identity of a request, which a repeat shares: a client that got no answer sends the same bytes again.

    None if no event has the client's own messageId: then two equal requests are two requests.
    """
    given = (head.message_id for head, body in zip(parsed.heads, parsed.bodies, strict=True) if head.message_id.encode() in body)
    anchor = next(given, None) or next((found for reject in parsed.rejects if (found := _message_id(reject.body))), None)
    if anchor is None:
        return None
    digest = blake2b(anchor.encode("utf-8", "surrogatepass"), digest_size=20)
    for reject in parsed.rejects:
        digest.update(b"\0%d\0%s" % (reject.position, reject.body))
    return digest.hexdigest()


def _message_id(body: bytes) -> str | None:
    try:
        return _decode_identified(body).message_id
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
