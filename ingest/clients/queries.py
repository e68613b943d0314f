"""Reads the query of an address: names and values, decoded. Pure.

Decoding text by text in Python is dear. A query of names and values by turns, without oddities, is decoded and cut as a whole in C:
`%` is to an address what `=` is to quoted-printable, so its decoder does.
"""

from __future__ import annotations

from binascii import a2b_qp
from collections.abc import Mapping
from urllib.parse import unquote_plus

PRINTABLE = bytes(range(0x20, 0x7F))
_NOT_MARKS = bytes(set(range(256)) - set(b"&="))
_MARK = "\1"
"""Stands for `&` and `=` while a query is decoded: an escape may mean these, too."""
_TO_QUOTED = bytes.maketrans(b"%=&+", b"=\1\1 ")


def parse_query(query: str) -> Mapping[str, str]:
    """Reads a query; if a name comes twice the last counts."""
    if query.isascii():
        raw = query.encode()
        marks = raw.translate(None, _NOT_MARKS)
        if marks == b"=" + b"&=" * (len(marks) // 2):
            texts = query.replace("&", "=").split("=") if "%" not in query and "+" not in query else _decoded(raw)
            if texts is not None:
                return dict(zip(texts[::2], texts[1::2], strict=True))
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):  # the limit of a line, 16 KiB, bounds it
        name, _, value = pair.partition("=")
        if "%" in pair or "+" in pair:
            name, value = unquote_plus(name), unquote_plus(value)
        found[name] = value
    return found


def _decoded(query: bytes) -> list[str] | None:
    """Returns the names and values of a query by turns, None if one of its escapes is odd."""
    if b"%%" in query or query[-1:] == b"%" or b"%01" in query or query.translate(None, PRINTABLE):
        return None
    try:
        text = a2b_qp(query.translate(_TO_QUOTED)).decode()
    except UnicodeDecodeError:
        return None
    # what is no escape was left as it was
    return text.split(_MARK) if text.count("=") == query.count(b"%3D") + query.count(b"%3d") else None
