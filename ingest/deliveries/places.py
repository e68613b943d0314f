"""Places of values in a payload: paths such as `data.customer.id`. Pure.

A path is followed through the bytes: of every object on the way only the members are cut, and nothing is built.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ingest.webhooks.outside import LONGEST_VALUE

_cut = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text_of = msgspec.json.Decoder(str).decode

Members = dict[str, msgspec.Raw]


def of_payload(places: Sequence[str], members: Members) -> str:
    """Returns the first value of a path that is a text or a number, as text; empty: there is none."""
    for place in places:
        if value := _follow(place, members):
            return value
    return ""


def _follow(path: str, members: Members) -> str:
    raw = members.get(path)
    if raw is None:
        *steps, last = path.split(".")
        for step in steps:
            inner = members.get(step)
            if inner is None or (text := bytes(inner))[:1] != b"{":
                return ""
            members = _cut(text)
        raw = members.get(last)
        if raw is None:
            return ""
    text = bytes(raw)
    if text[:1] == b'"':
        return _text_of(text) if len(text) <= LONGEST_VALUE else ""
    return text.decode() if text[:1] in b"-0123456789" and len(text) <= 40 else ""
