"""Ids: a text counts if it has a visible character, in the spelling that all later stages compare. Pure."""

from __future__ import annotations

import unicodedata

_INVISIBLE_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Fillers: Unicode calls them letters and symbols, but they are invisible."""

LOOKED_AT = 32
"""How many characters of a text, after its blanks, are searched for a visible one: each costs time, and no id needs more."""


def is_visible(text: str | None) -> bool:
    """Whether a text has a visible character: blanks, control characters and zero-width ones are none."""
    if not text:
        return False
    if "!" <= text < "\x7f":  # begins with a visible ASCII character, as nearly all do
        return True
    return any(
        each.isprintable()
        and not each.isspace()
        and each not in _INVISIBLE_LETTERS
        and unicodedata.category(each)[0] != "M"  # marks need a letter to stand on
        for each in text.lstrip()[:LOOKED_AT]
    )


def repaired(id_: str) -> str:
    """Returns an id as warehouses store it: two ids of one row must be one id for the window of duplicates too."""
    return id_.replace("\0", "\ufffd")
