"""Texts of headers as they can be stored. Pure."""

from __future__ import annotations

import msgspec


def text_of(header: str | None) -> str | None:
    """Returns a header as text that can be stored: bytes that are not UTF-8 come as lone surrogates, and become U+FFFD."""
    if header is None or header.isascii():
        return header
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def of_sender(address: str | None) -> bytes | None:
    """Returns what every event of a webhook gets of its sender, to be merged under it (`contract.Parsed.defaults`)."""
    return None if address is None else b'{"context":{"ip":%s}}' % msgspec.json.encode(address)
