"""Reads events: by dotted paths, the first of several paths, and tables from a service's names to paths. Pure.

Nothing here raises, whatever clients send: a value of another kind counts as missing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from shared.events.event import JSON

Table = Mapping[str, Sequence[str]]
"""From a service's name of a field to the paths where an event may have it, the best first."""

EMAIL = ("traits.email", "context.traits.email", "properties.email")
PHONE = ("traits.phone", "context.traits.phone", "properties.phone")
URL = ("properties.url", "context.page.url")
REFERRER = ("properties.referrer", "context.page.referrer")
TITLE = ("properties.title", "context.page.title")
IP = ("context.ip",)
USER_AGENT = ("context.userAgent",)
VALUE = ("properties.total", "properties.revenue", "properties.value", "properties.price")

PAGE_VIEWED, SCREEN_VIEWED = "Page Viewed", "Screen Viewed"
"""Names of pages and screens, for services that know only named events."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAMESPACE = bytes.fromhex("6ba7b8129dad11d180b400c04fd430c8")  # RFC 9562, section 6.6: the namespace of OIDs


def lookup(event: object, path: str) -> Any:
    """Returns the value at a path such as `context.page.url`; None if it leads nowhere."""
    for part in path.split("."):
        if not isinstance(event, dict):
            return None
        event = event.get(part)
    return event


def first(event: JSON, paths: Sequence[str]) -> Any:
    """Returns the first value of several paths that is neither missing nor empty."""
    for path in paths:
        value = lookup(event, path)
        if value is not None and value != "":
            return value
    return None


def filled(event: JSON, table: Table) -> JSON:
    """Returns the fields of a table that the event has."""
    return {name: value for name, paths in table.items() if (value := first(event, paths)) is not None}


def as_numbers(found: JSON, *keys: str) -> JSON:
    """Returns fields; some of them become numbers if they came as text."""
    return found | {key: value for key in keys if (value := number(found.get(key))) is not None}


def text(value: object) -> str:
    """Returns a text, or a number as text; empty for any other value."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else ""


def first_text(event: JSON, paths: Sequence[str]) -> str:
    """Returns the first text of several paths; empty if there is none."""
    return next((found for path in paths if (found := text(lookup(event, path)))), "")


def number(value: object) -> int | float | Decimal | None:
    """Returns a number, also one that came as text, as prices often do."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,15}(\.\d{1,9})?\s*", value, re.ASCII):
        return float(value) if "." in value else int(value)
    return None


def first_number(event: JSON, paths: Sequence[str]) -> int | float | Decimal | None:
    """Returns the first number of several paths."""
    return next((found for path in paths if (found := number(lookup(event, path))) is not None), None)


def objects(value: object) -> list[JSON]:
    """Returns the objects of an array, such as products."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def object_at(event: JSON, path: str) -> JSON:
    """Returns a copy of the object at a path; an empty one if there is none.

    `traits` of an identify without any are those of its context, where RudderStack's SDKs for browsers and devices write them.
    """
    found = lookup(event, path)
    if path == "traits" and not found and event.get("type") == "identify":
        found = lookup(event, "context.traits")
    return dict(found) if isinstance(found, dict) else {}


def user_id(event: JSON) -> str:
    """Returns the user id, if known."""
    return text(event.get("userId"))


def anonymous_id(event: JSON) -> str:
    """Returns the id of the browser or device."""
    return text(event.get("anonymousId"))


def person(event: JSON) -> str:
    """Returns the id by which a service with one id knows a person."""
    return user_id(event) or anonymous_id(event)


def name_of(event: JSON) -> str:
    """Returns the event's name: its own, or ours for pages and screens; empty if it has none."""
    kind = event.get("type")
    if kind == "page":
        return PAGE_VIEWED
    return SCREEN_VIEWED if kind == "screen" else text(event.get("event"))


def properties_of(event: JSON) -> JSON:
    """Returns the properties; a page or screen adds its `name` and `category`, and a page its address."""
    found = object_at(event, "properties")
    if event.get("type") in ("page", "screen"):
        for key in ("name", "category"):
            if text(event.get(key)):
                found.setdefault(key, event[key])
    if event.get("type") == "page":
        for key in ("url", "path", "title", "referrer", "search"):
            value = lookup(event, f"context.page.{key}")
            if text(value):
                found.setdefault(key, value)
    return found


def as_uuid(key: str) -> str:
    """Returns a UUID for an id: the id itself if it is one, else one made from it by name (RFC 9562, version 5)."""
    if _UUID.fullmatch(key.lower()):
        return key.lower()
    digest = bytearray(hashlib.sha1(_NAMESPACE + key.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    made = digest.hex()
    return f"{made[:8]}-{made[8:12]}-{made[12:16]}-{made[16:20]}-{made[20:]}"


def price(event: JSON, currency: object) -> JSON:
    """Returns what an event is worth: `value`, a number, and `currency` in capitals; each if the event has it."""
    found: JSON = {"currency": currency.upper()} if isinstance(currency, str) else {}
    value = first_number(event, VALUE)
    return found if value is None else found | {"value": value}


def products(event: JSON) -> list[JSON]:
    """Returns the products of an event; an event about one product holds it in its properties."""
    found = objects(lookup(event, "properties.products"))
    if not found and lookup(event, "properties.product_id") is not None:
        return [object_at(event, "properties")]
    return found
