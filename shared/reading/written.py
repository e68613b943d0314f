"""Types of columns that are written as text, as in CSV: a column has a type only if each of its values does. Pure.

`Guess` looks at all values of a column first, batch by batch, and then says which type they all fit; `as_type` converts them. A
number is one only if its value comes back: `007`, `+7` and `1e3` stay text, and so does a number with more digits than a double
has. Times need no guess: the loader finds them in text (`loader/types/moments.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Written = Literal["boolean", "integer", "number", "text"]

_PATTERNS: dict[Written, str] = {
    "boolean": r"^(?i:true|false)$",
    "integer": r"^(?:0|-?[1-9][0-9]{0,17})$",
    "number": r"^-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?$",
}
_DIGITS = 15
"""Of a number: a double gives back so many."""


class Guess:
    """What the values of one column can be."""

    def __init__(self) -> None:
        self._left: list[Written] = ["boolean", "integer", "number"]
        self._empty = True

    def look(self, values: pa.ChunkedArray) -> None:
        """Takes more values of the column, as text; nulls say nothing."""
        values = values.drop_null()
        if not len(values):
            return
        self._empty = False
        self._left = [kind for kind in self._left if _all_are(kind, values)]

    @property
    def kind(self) -> Written:
        """The narrowest type that all values fit; text if there were none."""
        return "text" if self._empty or not self._left else self._left[0]


def as_type(values: pa.ChunkedArray, kind: Written) -> pa.ChunkedArray:
    """Returns values of a column, as its guess allows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    match kind:
        case "boolean":
            return pc.equal(pc.utf8_lower(values), "true")
        case "integer":
            return values.cast(pa.int64())
        case "number":
            return values.cast(pa.float64())
        case "text":
            return values.cast(pa.string())


def _all_are(kind: Written, values: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(values, _PATTERNS[kind])).as_py():
        return False
    if kind != "number":
        return True
    digits = pc.utf8_length(pc.replace_substring_regex(values, r"^-?0*\.?0*|[.-]", ""))
    return bool(pc.max(digits).as_py() <= _DIGITS)
