"""How long an answer of HTTP asks to wait before the next request. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"\d+(\.\d*)?", re.ASCII)
"""Shopify writes `2.0`, which RFC 9110 does not know."""


def retry_after(headers: Mapping[str, str], at: float) -> float | None:
    """Returns how many seconds `Retry-After` asks to wait; None if it does not say, or if its value is neither a number nor a date.

    A date is compared with the answer's own `Date`, so that clocks need not agree (RFC 9110, section 10.2.3).

    Args:
        headers: by names in lower case, or in any case if the mapping does not care.
        at: when the answer came (epoch seconds).
    """
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text[:100]), 999_999_999.0)
    when = http_date(text)
    if when is None:
        return None
    now = http_date(headers.get("date", ""))
    return max(0.0, when - (at if now is None else now))


def http_date(text: str) -> float | None:
    """Returns the epoch seconds of a date of HTTP; None if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
