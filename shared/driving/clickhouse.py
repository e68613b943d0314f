"""What a ClickHouse server's errors say: their code stands at the beginning of their words. And what holds for its address. Pure."""

from __future__ import annotations

import re

from shared.errors import NotConnected, PenstockError, SetupError

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


def of_connection(error: BaseException, what: str) -> PenstockError | None:
    """Returns our error for one of the way to the server; None for another one.

    Args:
        what: failed, for the message.
    """
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return NotConnected(f"{what}: no answer within the timeout; see connect_timeout and statement_timeout")
    if "Certificate" in name or "SSL" in name:
        return SetupError(f"{what}: {error}; check the server's certificate, and that `url` names its port for HTTPS")
    if isinstance(error, OSError) or type(error).__module__.startswith("aiohttp"):
        return NotConnected(f"{what}: {str(error) or name}; check `url`, and that the server runs")
    return None


def check_url(url: str) -> None:
    """Checks the option `url`.

    Raises:
        ValueError: it is not that of an HTTP interface, or says more than the address.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("url: expected an address such as http://host:8123; the native protocol's port 9000 is another one")
    if "@" in url or "?" in url:  # not quoted: a password may stand in it
        raise ValueError("url: write user, password and settings as options of their own")
