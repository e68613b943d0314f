"""The carriers of write keys that several protocols share. Pure.

`Authorization: Basic` holds `key:` or `id:secret`, or, from some clients, a key without the colon; `Bearer` and `X-Write-Key`
hold the plain key, or `id:secret`. In queries it is `writeKey`, `writekey` or `token`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import lru_cache

from ingest.contract import Credential, HttpRequest

LONGEST_REMEMBERED = 256
"""Longer values of `Authorization` are decoded each time: the memory stays small."""

QUERY_NAMES = ("writeKey", "writekey", "token")


def from_headers(headers: Mapping[str, str]) -> list[Credential]:
    """Returns the keys in `Authorization` and `X-Write-Key`, strongest first."""
    found: list[Credential] = []
    authorization = headers.get("authorization")
    if authorization:
        scheme, _, value = authorization.partition(" ")
        value = value.strip()
        if scheme.lower() == "basic":
            found.append(Credential("basic", _remembered(value) if len(value) <= LONGEST_REMEMBERED else _decode_basic(value)))
        elif scheme.lower() == "bearer" and value:
            found.append(Credential("bearer", value))
    key = headers.get("x-write-key")
    if key:
        found.append(Credential("header", key.strip()))
    return found


def from_query(query: Mapping[str, str]) -> list[Credential]:
    """Returns the keys in the query."""
    return [Credential("query", query[name]) for name in QUERY_NAMES if query.get(name)] if query else []


def from_request(request: HttpRequest) -> list[Credential]:
    """Returns the keys outside the body: in headers, query and host name."""
    found = from_headers(request.headers)
    found.extend(from_query(request.query))
    if request.host:
        found.append(Credential("host", request.host))
    return found


def _decode_basic(value: str) -> str:
    try:
        text = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return value
    # `key:` is a user without password; some clients also put a colon after the password: `id:secret:`
    return text.removesuffix(":")


_remembered = lru_cache(1024)(_decode_basic)
