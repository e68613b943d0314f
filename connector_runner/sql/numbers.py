"""Texts and numbers of Arrow that a database sends in a rougher form. Pure but for Arrow."""

from __future__ import annotations

from typing import Any

_DIGITS = 38
"""Of the decimals that most destinations hold."""


def whole_numbers(texts: Any) -> Any:
    """Returns whole numbers from their digits, of up to 39: decimals of 38 digits, or of 39 where one needs them."""
    import pyarrow as pa

    try:
        return texts.cast(pa.decimal128(_DIGITS, 0))
    except pa.ArrowInvalid:
        return texts.cast(pa.decimal256(_DIGITS + 1, 0))


def texts_of(values: Any) -> Any:
    """Returns bytes as text; bytes that are no UTF-8 become U+FFFD."""
    import pyarrow as pa

    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        replaced = [None if each is None else each.decode(errors="replace") for each in values.to_pylist()]
        return pa.array(replaced, pa.string())
