"""What the server knows of the sender of a request: address, user agent, place, whether it is a bot. Once per request.

User agents and places are looked up once and remembered, because the same few send nearly everything. Both databases are
optional to the caller: a user agent nobody knows has no facts, and without a MaxMind file there are no places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from shared.errors import ConfigError, Problem

MAX_USER_AGENT = 1024
"""Longer ones are cut: no browser's is, and each is parsed by many expressions."""

REMEMBERED_AGENTS = 5_000
REMEMBERED_PLACES = 20_000

_BOT_WORDS = ("bot", "crawl", "spider", "slurp", "headless", "phantomjs", "lighthouse", "pingdom", "uptimerobot", "preview")


class Agent(NamedTuple):
    """A parsed user agent."""

    facts: dict[str, str] | None
    bot: bool


ReadAgent = Callable[[str], Agent]
ReadPlace = Callable[[str], dict[str, Any] | None]


def agent_reader() -> ReadAgent:
    """Returns a function from User-Agent headers to their facts; loads ua-parser's expressions (about 0.1 s)."""
    # imported here: the compiled expressions take 25 MB, which tools that only read the contract need not pay
    from ua_parser import Parser
    from ua_parser.loaders import load_lazy_builtins
    from ua_parser.regex import Resolver

    parser = Parser(Resolver(load_lazy_builtins()))

    @lru_cache(REMEMBERED_AGENTS)
    def read(text: str) -> Agent:
        result = parser.parse(text)
        facts: dict[str, str] = {}
        if result.user_agent is not None:
            facts["browser"] = result.user_agent.family
            facts["browserVersion"] = _version(result.user_agent.major, result.user_agent.minor, result.user_agent.patch)
        if result.os is not None:
            facts["os"] = result.os.family
            facts["osVersion"] = _version(result.os.major, result.os.minor, result.os.patch)
        bot = False
        if result.device is not None:
            bot = result.device.family == "Spider"
            facts["device"] = result.device.family
            facts["deviceBrand"] = result.device.brand or ""
            facts["deviceModel"] = result.device.model or ""
        lower = text.lower()
        bot = bot or any(word in lower for word in _BOT_WORDS)
        return Agent({name: value for name, value in facts.items() if value} or None, bot)

    return lambda text: read(text[:MAX_USER_AGENT])


@contextlib.contextmanager
def place_reader(path: str | None) -> Iterator[ReadPlace]:
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
    """Flattens what City, Country and ASN databases hold, with English names."""
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
