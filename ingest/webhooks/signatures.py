"""HMAC signatures over a body, alone or with a time and an id. Pure.

What costs nothing comes first: a missing header, a time that is too old and a signature of the wrong length are refused before the
body is hashed. Signatures are compared in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ingest.contract import HttpRequest, Unproven
from shared.project.webhooks import Signature

MOST_SIGNATURES = 8
"""Signatures of one header that are looked at; vendors send one for each secret while they change it."""
LONGEST_HEADER = 4096

_NUMBER = re.compile(r"\d{1,16}", re.ASCII)
_WORD = re.compile(r"(\{body\}|\{timestamp\}|\{id\})")


class Signed(NamedTuple):
    """What the headers say: signatures without their prefixes, the time as text, the id."""

    signatures: Sequence[str]
    timestamp: str = ""
    id: str = ""


def of_signature(
    signature: Signature,
    keys: Sequence[bytes],
    tolerance_seconds: float,
    read: Callable[[Mapping[str, str]], Signed] | None = None,
) -> Callable[[HttpRequest, float], Unproven | None]:
    """Returns what verifies requests.

    Args:
        signature: the form.
        keys: secrets that hold; two while one is being changed.
        tolerance_seconds: how far a signed time may be off; 0: any.
        read: reads the headers, for vendors that write several values into one.
    """
    started = [hmac.new(key, digestmod=signature.algorithm) for key in keys]
    size = hashlib.new(signature.algorithm, usedforsecurity=False).digest_size
    parts = [each for each in _WORD.split(signature.signed) if each]
    timed = "{timestamp}" in parts
    read_headers = read or _plain_reader(signature)
    header = signature.header
    decode = _from_hex if signature.encoding == "hex" else _from_base64
    missing = Unproven(401, "missing_signature", f"no signature: the sender writes it into {header}")
    wrong = Unproven(
        401,
        "wrong_signature",
        f"the signature in {header} is not made of this body and the webhook's secret: another secret, or a proxy changed the body",
    )

    def verify(request: HttpRequest, now: float) -> Unproven | None:
        if request.method == "GET":
            return _NO_BODY
        found = read_headers(request.headers)
        if not found.signatures:
            return missing
        if timed and (stale := check_time(found.timestamp, now, tolerance_seconds)) is not None:
            return stale
        given = [each for text in found.signatures[:MOST_SIGNATURES] if len(each := decode(text)) == size]
        if not given:
            return wrong
        message = signed_of(parts, request.body, found)
        for begun in started:
            whole = begun.copy()
            whole.update(message)
            made = whole.digest()
            if any(hmac.compare_digest(made, shown) for shown in given):
                return None
        return wrong

    return verify


def signed_of(parts: Sequence[str], body: bytes, found: Signed) -> bytes:
    """Returns the bytes that are signed."""
    if len(parts) == 1:
        return body
    values = {"{body}": body, "{timestamp}": _bytes(found.timestamp), "{id}": _bytes(found.id)}
    return b"".join(values[part] if part in values else _bytes(part) for part in parts)


def check_time(text: str, now: float, tolerance_seconds: float) -> Unproven | None:
    """Returns why the time of a signature is not taken; `text` is seconds or milliseconds since 1970."""
    if not _NUMBER.fullmatch(text):
        return Unproven(401, "missing_signature", "the signature has no time in seconds since 1970")
    at = float(text)
    off = now - (at / 1000 if at > 1e11 else at)
    if not tolerance_seconds or abs(off) <= tolerance_seconds:
        return None
    how = f"{abs(off):.0f} s {'old' if off > 0 else 'early'}"
    return Unproven(
        403, "stale_signature", f"the signature is {how}, `tolerance` allows {tolerance_seconds:.0f} s; look at the clocks"
    )


def _plain_reader(signature: Signature) -> Callable[[Mapping[str, str]], Signed]:
    header, prefix = signature.header.lower(), signature.prefix
    timestamp_header, id_header = (signature.timestamp_header or "").lower(), (signature.id_header or "").lower()

    def read(headers: Mapping[str, str]) -> Signed:
        value = headers.get(header, "")
        timestamp = headers.get(timestamp_header, "").strip() if timestamp_header else ""
        id_ = headers.get(id_header, "") if id_header else ""
        if not value.startswith(prefix) or len(value) > LONGEST_HEADER:
            return Signed(["-"] if value else [], timestamp, id_)  # a signature of another form is a wrong one
        return Signed([value[len(prefix) :].strip()] if value else [], timestamp, id_)

    return read


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


_NO_BODY = Unproven(403, "unsigned", "a GET has no body that could be signed; deliver with POST, or choose type token")
