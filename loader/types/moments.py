"""Date-times in text: finds the strings that are one, and their values, for whole columns at once.

A string is a date-time only if it is full: RFC 3339, ISO 8601 extended or SQL form, 19 to 35 characters, with seconds. `T`, `t`
or a space between date and time; up to six digits of a second, and three zeros after them; a zone as `Z`, `UTC`, `+02`,
`+0200` or `+02:00`, after a space or none; without a zone it is UTC. Anything that is not a day of the calendar or a time of
the clock (30 February, 25 o'clock, second 60) is text, and so is a time with nanoseconds: no column of ours holds it. `parse_one`
is the rule; the vectorised path must agree with it.

Pure.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loader.types.lattice import TIMESTAMP

SHORTEST, LONGEST = 19, 35

_FULL = (
    r"^(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,6})0{0,3})?"
    r"(?: ?(?:([Zz]|UTC)|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?))?$"
)
_COMMON = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?(?:Z|[+-]\d{2}:\d{2})$"
_FULL_PATTERN = re.compile(_FULL, re.ASCII)
_DATE_PATTERN = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def parse_one(text: str) -> datetime | None:
    """Returns the moment of a full date-time, in UTC, else None."""
    if not SHORTEST <= len(text) <= LONGEST or text.endswith("\n"):
        return None
    match = _FULL_PATTERN.match(text)
    if match is None:
        return None
    date, time, fraction, _, sign, hours, minutes = match.groups()
    zone = f"{sign}{hours}:{minutes or '00'}" if sign else "+00:00"
    try:
        return datetime.fromisoformat(f"{date}T{time}.{fraction or '0':0<6}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_date(text: str) -> datetime | None:
    """Returns midnight UTC of a `2026-09-01`, else None."""
    if len(text) != 10 or not _DATE_PATTERN.match(text):
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def all_moments(texts: pa.StringArray) -> pa.TimestampArray | None:
    """Returns the moments of a column without nulls if every string in it is a full date-time, else None.

    The first or last value decides for nearly every text column.
    """
    if len(texts) == 0 or parse_one(texts[0].as_py()) is None or parse_one(texts[-1].as_py()) is None:
        return None
    if not pc.all(pc.match_substring_regex(texts, _FULL)).as_py():
        return None
    return _cast_all(texts)


def moments(texts: pa.StringArray, dates: bool = True) -> tuple[pa.TimestampArray, NDArray[np.bool_] | None]:
    """Returns the moments of a column without nulls, null if a string is none, and marks of these (None: there are none).

    `dates`: a date alone counts as its midnight in UTC.
    """
    parsed = all_moments(texts)
    if parsed is not None:
        return parsed, None
    values = [parse_one(text) or (parse_date(text) if dates else None) for text in texts.to_pylist()]
    bad = np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
    return pa.array(values, type=TIMESTAMP), bad if bad.any() else None


def _cast_all(texts: pa.StringArray) -> pa.TimestampArray | None:
    """Parses strings in the form of a date-time; None if one of them is no real moment."""
    canonical = texts
    if not pc.all(pc.match_substring_regex(texts, _COMMON)).as_py():
        # Arrow's parser wants one spelling: T, at most six digits, a zone on every value
        canonical = pc.replace_substring_regex(texts, _FULL, r"\1T\2.\3000000\5\6:\7")
        canonical = pc.replace_substring_regex(canonical, r"(\.\d{6})\d*", r"\1")
        canonical = pc.replace_substring_regex(canonical, r"([+-]\d{2}):$", r"\1:00")
        canonical = pc.replace_substring_regex(canonical, r"(\.\d{6}):$", r"\1Z")
    try:
        parsed = pc.cast(canonical, TIMESTAMP)
    except pa.ArrowInvalid:
        return None
    bounds = pc.min_max(parsed.cast(pa.int64())).as_py()
    if bounds["min"] < _EARLIEST or bounds["max"] > _LATEST:
        return None
    return parsed
