"""Texts of parameters as values of their columns. A text that is no such value stays text, so that no value is lost. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d{1,17}(?:\.\d{0,17})?|\.\d{1,17})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})", re.ASCII)
_MILLISECONDS = re.compile(r"\d{1,15}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 253_402_300_799_999


def moment(text: Any) -> datetime | None:
    """Returns milliseconds since 1970 as a time, None for other values."""
    if type(text) is not str or not _MILLISECONDS.fullmatch(text) or int(text) > _LATEST:
        return None
    return _EPOCH + timedelta(milliseconds=int(text))


def size(text: Any) -> tuple[int, int] | None:
    """Returns the numbers of `1920x1080`, None for other values."""
    found = _SIZE.fullmatch(text) if type(text) is str else None
    return None if found is None else (int(found[1]), int(found[2]))


def _integer(text: Any) -> Any:
    return int(text) if type(text) is str and _INTEGER.fullmatch(text) else text


def _number(text: Any) -> Any:
    return float(text) if type(text) is str and _NUMBER.fullmatch(text) else text


def _flag(text: Any) -> Any:
    return {"1": True, "0": False}.get(text, text) if type(text) is str else text


def _time(text: Any) -> Any:
    found = moment(text)
    return text if found is None else found


def _text(text: Any) -> Any:
    return text


READERS: Mapping[str, Callable[[Any], Any]] = {
    "bigint": _integer,
    "double": _number,
    "boolean": _flag,
    "timestamp": _time,
    "text": _text,
}
"""What reads the text of a column's kind."""
