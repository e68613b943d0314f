"""The server's facts about the sender of a request: address, user agent, place, and whether it is a bot. Once per request.

User agents and places are looked up once and remembered, because a few of them send nearly all requests. Both databases are
optional: an unknown user agent has no facts, and without a MaxMind file there are no places.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from shared.errors import ConfigError, Problem

MAX_USER_AGENT = 512
"""Longer ones are cut: no browser's is so long, every event of a request carries it, and many expressions parse it."""

MAX_FACT = 128
"""Longer names of browsers, systems and devices are cut: none is honest."""

REMEMBERED_AGENTS = 5_000
REMEMBERED_PLACES = 20_000

PARSING_SHARE = 0.1
"""The share of a core that parsing unknown user agents may take. An honest one costs 15 µs, a hostile one a millisecond."""

PARSING_BURST_SECONDS = 0.2

_BOT = re.compile(
    r"(?<!cu)bots?\b|crawl(?:er|ing)?\b|spider\b|slurp|headless|phantomjs|lighthouse|pingdom|(?<!cu)bot[-_]|"
    r"(?:bing|link|ur[il]|web ?|page)preview|google web preview|https?://\S*bot",
    re.IGNORECASE,
)
_PLATFORM = re.compile(r"\((?:Linux|Android|Windows|Macintosh|X11|iP)[^()]*\)", re.IGNORECASE)
"""The device's name, which may be any word; a bot names itself elsewhere."""


class Agent(NamedTuple):
    """A parsed user agent."""

    facts: dict[str, str] | None
    bot: bool
    skipped: bool = False
    """True: it was not parsed, because too many unknown ones came at once."""


ReadAgent = Callable[[str], Agent]
ReadLocation = Callable[[str], dict[str, Any] | None]


class ParsingBudget:
    """Bounds the share of time for unknown user agents: a client can send a new one with every request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent = 0.0
        self._at = clock()

    def allows(self) -> bool:
        """Whether another one may be parsed now."""
        now = self._clock()
        self._spent = max(0.0, self._spent - (now - self._at) * PARSING_SHARE)
        self._at = now
        return self._spent < PARSING_BURST_SECONDS

    def spend(self) -> None:
        """Spends the time since `allows`."""
        now = self._clock()
        self._spent += now - self._at
        self._at = now


def agent_reader(clock: Callable[[], float] = time.perf_counter) -> ReadAgent:
    """Returns a function from User-Agent headers to their facts; loads ua-parser's expressions (about 0.1 s)."""
    # imported here: the compiled expressions take 25 MB, which tools that only read the contract do not need
    from ua_parser import Parser
    from ua_parser.loaders import load_lazy_builtins
    from ua_parser.regex import Resolver

    parser = Parser(Resolver(load_lazy_builtins()))
    parser.parse("Mozilla/5.0")  # compiles the expressions
    budget = ParsingBudget(clock)

    @lru_cache(REMEMBERED_AGENTS)
    def read(text: str) -> Agent:
        if not budget.allows():
            raise _OutOfTime
        result = parser.parse(text)
        budget.spend()
        facts: dict[str, str] = {}
        if result.user_agent is not None:
            facts["browser"] = result.user_agent.family
            facts["browserVersion"] = _version(result.user_agent.major, result.user_agent.minor, result.user_agent.patch)
        if result.os is not None:
            facts["os"] = result.os.family
            facts["osVersion"] = _version(result.os.major, result.os.minor, result.os.patch)
        spider = False
        if result.device is not None:
            spider = result.device.family == "Spider"
            facts["device"] = result.device.family
            facts["deviceBrand"] = result.device.brand or ""
            facts["deviceModel"] = result.device.model or ""
        return Agent({name: value[:MAX_FACT] for name, value in facts.items() if value} or None, spider or names_bot(text))

    def read_within_time(text: str) -> Agent:
        text = text[:MAX_USER_AGENT]
        try:
            return read(text)
        except _OutOfTime:  # not remembered, so a later request may parse it
            return Agent(None, names_bot(text), skipped=True)

    return read_within_time


class _OutOfTime(Exception):
    """Raised when no time is left for unknown user agents."""


def names_bot(user_agent: str) -> bool:
    """Whether a user agent calls itself a bot. The device's name does not count: CUBOT is a maker of phones."""
    return _BOT.search(_PLATFORM.sub("", user_agent, count=1)) is not None


@contextlib.contextmanager
def location_reader(path: str | None) -> Iterator[ReadLocation]:
    """Opens a MaxMind file; yields a function from addresses to places.

    Raises:
        ConfigError: the file cannot be read, or maxminddb is not installed.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        import maxminddb
    except ImportError as exc:
        problem = Problem("PENSTOCK_INGEST_GEO_FILE", "needs maxminddb; install it with: pip install 'penstock[geo]'")
        raise ConfigError([problem]) from exc
    try:
        reader = maxminddb.open_database(path)
    except (OSError, maxminddb.InvalidDatabaseError) as exc:
        raise ConfigError([Problem("PENSTOCK_INGEST_GEO_FILE", f"{path} cannot be read: {exc}")]) from exc

    @lru_cache(REMEMBERED_PLACES)
    def read(address: str) -> dict[str, Any] | None:
        try:
            found = reader.get(address)
        except (ValueError, maxminddb.InvalidDatabaseError):
            return None
        return _place(found) if isinstance(found, dict) else None

    with reader:
        yield read


def _version(*parts: str | None) -> str:
    return ".".join(part for part in parts if part)


def _place(record: dict[str, Any]) -> dict[str, Any] | None:
    """Flattens an entry of a City, Country or ASN database, with English names."""
    place: dict[str, Any] = {}
    country = record.get("country") or record.get("registered_country") or {}
    region = (record.get("subdivisions") or [{}])[0]
    location = record.get("location") or {}
    values = {
        "country": country.get("iso_code"),
        "countryName": _name(country),
        "continent": (record.get("continent") or {}).get("code"),
        "region": region.get("iso_code"),
        "regionName": _name(region),
        "city": _name(record.get("city") or {}),
        "postalCode": (record.get("postal") or {}).get("code"),
        "latitude": location.get("latitude"),
        "longitude": location.get("longitude"),
        "timezone": location.get("time_zone"),
        "asn": record.get("autonomous_system_number"),
        "organization": record.get("autonomous_system_organization"),
    }
    place = {name: value for name, value in values.items() if value is not None}
    return place or None


def _name(entry: dict[str, Any]) -> str | None:
    name = (entry.get("names") or {}).get("en")
    return name if isinstance(name, str) else None
