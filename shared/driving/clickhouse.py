"""What a ClickHouse server's errors say: their code stands at the beginning of their words. Pure."""

from __future__ import annotations

import re

_CODE = re.compile(r"Code: (\d+)\. ")
_ECHO = re.compile(r"DB::Exception: |\s*\(version [^)]*\)?\)?\s*$|: While executing \w+(?=\.)|Stack trace:.*", re.DOTALL)
_MOST_WORDS = 1000


class ServerError(Exception):
    """What the server answered instead of doing what it was asked; its own words."""


def code_of(error: BaseException | str) -> int | None:
    """Returns the code of a server's error, None where it is none."""
    match = _CODE.search(str(error))
    return int(match[1]) if match else None


def words_of(error: BaseException | str) -> str:
    """Returns the server's words without what repeats itself or stands for its own developers."""
    words = " ".join(_ECHO.sub("", _CODE.sub("", str(error), count=1)).split())
    return words if len(words) <= _MOST_WORDS else words[:_MOST_WORDS] + "…"
