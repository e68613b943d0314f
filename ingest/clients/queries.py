"""Reads the query of an address: names and values, decoded. Pure.

Decoding text by text in Python is dear. A query of names and values by turns, without oddities, is decoded and cut as a whole in C:
`%` is to an address what `=` is to quoted-printable, so its decoder does.
"""

from __future__ import annotations

from binascii import a2b_qp
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_plus

PRINTABLE = bytes(range(0x20, 0x7F))
_PLAIN = bytes(set(PRINTABLE) - set(b"&="))
_MARK = "\1"
"""Stands for `&` and `=` while a query is decoded: an escape may mean these, too."""
_TO_QUOTED = bytes.maketrans(b"%=&+", b"=\1\1 ")


def parse_query(query: str) -> Mapping[str, str]:
    """Reads a query; if a name comes twice the last counts."""
    if query.isascii():
        raw = query.encode()
        marks = raw.translate(None, _PLAIN)
        if marks == b"=" + b"&=" * (len(marks) // 2):
            texts = query.replace("&", "=").split("=") if "%" not in query and "+" not in query else _decoded(raw)
            if len(texts) == len(marks) + 1:  # else `%01` stands in it, or a wrong escape
                turns = iter(texts)
                return dict(zip(turns, turns, strict=True))
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):  # the limit of a line, 16 KiB, bounds it
        name, _, value = pair.partition("=")
        if "%" in pair or "+" in pair:
            name, value = unquote_plus(name), unquote_plus(value)
        found[name] = value
    return found


def _decoded(query: bytes) -> Sequence[str]:
    """Returns the names and values of a query of printable characters by turns, none if one of its escapes is odd."""
    decoded = a2b_qp(query.translate(_TO_QUOTED))
    # an escape becomes two bytes shorter; a wrong one stays as it was, or loses one byte
    if len(query) - len(decoded) != 2 * query.count(b"%"):
        return ()
    try:
        return decoded.decode().split(_MARK)
    except UnicodeDecodeError:
        return ()
