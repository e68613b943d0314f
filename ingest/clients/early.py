"""Admits a request before its body is read, so that a stranger's body costs next to nothing. Pure.

A key in a header decides alone. If only the body can hold the key, a small body is read as usual. In a larger body the text is
searched for `"writeKey"`, and one of the keys found must open a site before anything is built. The search only admits the body:
the protocol decides afterwards, by its place, which key counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ingest.contract import Admission, Credential, Desk, Refusal

SMALL_BYTES = 64 * 1024
"""The most that is read for a stranger: some milliseconds."""

MAX_KEYS = 32
"""Different keys in one body that are tried."""

_KEY = re.compile(rb'"writeKey"\s{0,16}:\s{0,16}"([^"\\]{1,4096})"')


def decides(found: Sequence[Credential], *, query: bool = False) -> bool:
    """Whether `found`, keys outside the body, decide the site: they are stronger than any key inside.

    Args:
        query: a key in the query is, in this protocol (`QUERY_DECIDES`).
    """
    return bool(found) and any(each.carrier in ("basic", "header") or (query and each.carrier == "query") for each in found)


def admit_early(found: Sequence[Credential], body: bytes, desk: Desk, *, decided: bool) -> Admission | Refusal | None:
    """Returns what the keys outside the body open, if that is enough to read the body.

    None if only the body can tell and is small enough to be read for a stranger.

    Args:
        decided: the result of `decides(found)`.
    """
    if decided:
        return desk.admit(found)
    if len(body) <= SMALL_BYTES:
        return None
    outside = desk.admit(found)
    if isinstance(outside, Admission):
        return outside
    refusal = outside
    for key in _keys_in(body):
        inside = desk.admit([*found, Credential("body", key)])
        if isinstance(inside, Admission):
            return inside
        refusal = inside
    return refusal


def _keys_in(body: bytes) -> Iterator[str]:
    seen: set[bytes] = set()
    for match in _KEY.finditer(body):
        if match[1] not in seen:
            seen.add(match[1])
            yield match[1].decode("utf-8", "replace")
        if len(seen) == MAX_KEYS:
            return
