"""What counts as an id: text with at least one visible character, in the spelling in which everybody downstream compares it. Pure."""

from __future__ import annotations

import unicodedata

_INVISIBLE_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Fillers, which Unicode takes for letters and symbols although nothing is to be seen."""

LOOKED_AT = 32
"""Characters of a text, after its blanks, one of which must be visible: no id hides further inside, and each costs some time."""


def is_visible(text: str | None) -> bool:
    """Tells whether a text shows anything: blanks, control characters and zero-width ones do not."""
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
    """Returns an id as warehouses store it, so that two ids that are one row are one id for the window of duplicates too."""
    return id_.replace("\0", "\ufffd")
