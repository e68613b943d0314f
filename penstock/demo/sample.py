"""Events of an imaginary shop, for the demo and for trying things out: `python -m penstock.demo.sample 4000 > events.ndjson`.

Visitors come from campaigns and searches, look at pages and products, fill carts, sign up, order. The same seed gives the same
story. Times end at the given moment, and ids begin with `run`, so that a second demo is not a repeat of the first.

Some events are wrong on purpose. A few lack ids, have no known type, or are no objects: the edge keeps them as dead letters. A
few hold NaN, which it mends. And towards the end a release of the web shop changes types: `total` becomes text, `quantity`
becomes a fraction.
"""

from __future__ import annotations

import json
import random
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

SEED = 20260301
EVENTS = 4000
SPAN = timedelta(hours=2)
DRIFT_FROM = 0.75
"""The share of the story after which types drift."""

_PRODUCTS = [
    {"sku": f"{code}-{number}", "name": name, "category": category, "price": price, "brand": brand}
    for number, (code, name, category, price, brand) in enumerate(
        [
            ("TEA", "Darjeeling First Flush", "tea", 18.5, "Hillside"),
            ("TEA", "Smoky Lapsang", "tea", 14.9, "Hillside"),
            ("CUP", "Stoneware Cup", "ware", 12.0, "Kiln & Co"),
            ("POT", "Cast Iron Pot", "ware", 64.0, "Kiln & Co"),
            ("COF", "Ethiopia Guji", "coffee", 16.8, "Røst"),
            ("COF", "House Espresso", "coffee", 13.4, "Røst"),
            ("GRD", "Hand Grinder", "gear", 89.0, "Müller"),
            ("FIL", "Paper Filters 100", "gear", 4.2, "Müller"),
            ("KET", "Gooseneck Kettle", "gear", 119.0, "Takahiro 高広"),
            ("CHO", "Dark Chocolate 74 %", "sweets", 5.9, "Café Ñandú"),
        ],
        start=100,
    )
]
_AGENTS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/134.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/134.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:136.0) Gecko/20100101 Firefox/136.0",
]
_REFERRERS = [
    "https://www.google.com/",
    "https://duckduckgo.com/",
    "https://www.instagram.com/",
    "https://news.example.org/tea",
    "",
]
_CAMPAIGNS = [
    {"source": "newsletter", "medium": "email", "name": "spring-harvest"},
    {"source": "google", "medium": "cpc", "name": "brand", "term": "first flush tea"},
    {"source": "instagram", "medium": "social", "name": "latte-art", "content": "reel-7"},
    None,
    None,
    None,
]
_PLACES = [("de-DE", "Europe/Berlin"), ("en-GB", "Europe/London"), ("fr-FR", "Europe/Paris"), ("pt-BR", "America/Sao_Paulo")]
_NAMES = ["Ada Lovelace", "Björn Ångström", "Chloé Dupont", "李小龙", "Zoë O'Neill", "Nuno Álvares", "Mehmet Yılmaz"]
_PAGES = [
    ("/", "Home"),
    ("/tea", "Tea"),
    ("/coffee", "Coffee"),
    ("/gear", "Gear"),
    ("/about", "About us"),
    ("/journal", "Journal"),
]
_NEVER_JSON = b'{"type": "track", "event": "Cut Off", "anonymousId": "anon-cut", "properties": {"total": 12.'


@dataclass(slots=True)
class _Visitor:
    anonymous_id: str
    agent: str
    locale: str
    zone: str
    referrer: str
    campaign: dict[str, str] | None
    user_id: str | None = None
    path: str = "/"
    title: str = "Home"
    cart: list[dict[str, Any]] = field(default_factory=list)


class _Story:
    def __init__(self, seed: int, run: str, ends_at: datetime, count: int) -> None:
        self.random = random.Random(seed)
        self.run = run
        self.count = count
        self.starts_at = ends_at - SPAN
        self.step = SPAN / max(1, count)
        self.number = 0
        self.orders = 0
        self.mistakes = 0
        self.users = 0
        self.visitors = [self._new_visitor(index) for index in range(max(5, count // 40))]

    @property
    def drifts(self) -> bool:
        return self.number >= self.count * DRIFT_FROM

    def _new_visitor(self, index: int) -> _Visitor:
        pick = self.random.choice
        locale, zone = pick(_PLACES)
        anonymous_id = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        return _Visitor(
            anonymous_id=f"{anonymous_id}-{index}",
            agent=pick(_AGENTS),
            locale=locale,
            zone=zone,
            referrer=pick(_REFERRERS),
            campaign=pick(_CAMPAIGNS),
        )

    def event(self, visitor: _Visitor, type_: str, **fields: Any) -> dict[str, Any]:
        """Returns the parts of every event."""
        at = self.starts_at + self.step * self.number
        self.number += 1
        context: dict[str, Any] = {
            "library": {"name": "analytics.js", "version": "2.11.1"},
            "userAgent": visitor.agent,
            "locale": visitor.locale,
            "timezone": visitor.zone,
            "page": {
                "path": visitor.path,
                "title": visitor.title,
                "url": f"https://shop.example.com{visitor.path}",
                "referrer": visitor.referrer,
                "search": "",
            },
            "screen": {"width": 1440, "height": 900, "density": 2},
        }
        if visitor.campaign:
            context["campaign"] = visitor.campaign
        event: dict[str, Any] = {
            "type": type_,
            "messageId": f"{self.run}-{self.number:06d}",
            "anonymousId": visitor.anonymous_id,
            "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "context": context,
            **fields,
        }
        if visitor.user_id:
            event["userId"] = visitor.user_id
        return event

    def track(self, visitor: _Visitor, name: str, properties: dict[str, Any]) -> dict[str, Any]:
        return self.event(visitor, "track", event=name, properties=properties)


def sample_events(
    count: int = EVENTS, *, run: str = "demo", ends_at: datetime | None = None, seed: int = SEED
) -> Iterator[bytes]:
    """Yields `count` lines: events of the shop, a few of them wrong on purpose.

    Args:
        run: prefix of the message ids.
        ends_at: aware time of the last event; default: now.
    """
    story = _Story(seed, run, ends_at or datetime.now(UTC), count)
    made = 0
    while made < count:
        for event in _visit(story, story.random.choice(story.visitors)):
            yield event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
            made += 1
            if made == count:
                return


def _visit(story: _Story, visitor: _Visitor) -> Iterator[dict[str, Any] | bytes]:
    pick, chance = story.random.choice, story.random.random
    for _ in range(story.random.randint(1, 4)):
        visitor.path, visitor.title = pick(_PAGES)
        yield story.event(visitor, "page", name=visitor.title, properties={"load_ms": story.random.randint(80, 2400)})
        if chance() < 0.6:
            product = pick(_PRODUCTS)
            yield story.track(visitor, "Product Viewed", {**product, "position": story.random.randint(1, 12)})
            if chance() < 0.4:
                quantity: float = story.random.randint(1, 3)
                if story.drifts and product["category"] in ("tea", "coffee"):
                    quantity += 0.5  # sold by weight from now on
                visitor.cart.append({**product, "quantity": quantity})
                yield story.track(visitor, "Product Added", {**product, "quantity": quantity, "cart_size": len(visitor.cart)})
    if visitor.user_id is None and chance() < 0.25:
        yield _sign_up(story, visitor)
        if chance() < 0.1:
            yield story.event(visitor, "alias", previousId=visitor.anonymous_id)
        if chance() < 0.15:
            company = {"name": pick(["Kontor GmbH", "Café Central", "Teehaus & Söhne"]), "seats": story.random.randint(2, 40)}
            yield story.event(visitor, "group", groupId=f"company-{story.random.randint(1, 9)}", traits=company)
    if visitor.cart and chance() < 0.7:
        yield _order(story, visitor)
    if chance() < 0.02:
        yield _mistake(story, visitor)


def _sign_up(story: _Story, visitor: _Visitor) -> dict[str, Any]:
    story.users += 1
    visitor.user_id = f"user-{story.users:05d}"
    name = story.random.choice(_NAMES)
    traits = {
        "name": name,
        "email": f"user{story.users}@example.com",
        "plan": story.random.choice(["free", "club"]),
        "newsletter": story.random.random() < 0.5,
        "address": {"city": story.random.choice(["Berlin", "London", "Lyon", "Recife"]), "postcode": f"{story.users:05d}"},
        "createdAt": (story.starts_at + story.step * story.number).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    return story.event(visitor, "identify", traits=traits)


def _order(story: _Story, visitor: _Visitor) -> dict[str, Any]:
    story.orders += 1
    total = round(sum(float(item["price"]) * float(item["quantity"]) for item in visitor.cart), 2)
    shipping = 0.0 if total > 50 else 4.9
    properties: dict[str, Any] = {
        "order_id": f"order-{story.orders:05d}",
        # after the release of the web shop some totals are text, and some not even a number
        "total": total if not story.drifts else f"{total}" if story.orders % 3 else f"{total} EUR",
        "currency": "EUR",
        "shipping": {"method": story.random.choice(["parcel", "pickup"]), "price": shipping, "express": total > 150},
        "coupon": story.random.choice([None, None, "SPRING10"]),
        "products": visitor.cart,
    }
    visitor.cart = []
    return story.track(visitor, "Order Completed", properties)


def _mistake(story: _Story, visitor: _Visitor) -> dict[str, Any] | bytes:
    """Returns a faulty event; the kinds of faults take turns."""
    nobody = {"anonymousId": None, "userId": None}
    story.mistakes += 1
    kind = story.mistakes % 8
    match kind:
        case 0:
            return {**story.track(visitor, "Checkout Started", {"step": 1}), **nobody}
        case 1:
            return b'"page view of the home page"'
        case 2:
            return b"[1, 2, 3]"
        case 3:
            return {**story.event(visitor, "purchase"), "properties": {"total": 12.5}}
        case 4:
            return {**story.track(visitor, "", {"total": 1})}
        case 5:
            # JSON has no NaN; JavaScript's clients never write it, others do. The edge makes it null.
            return json.dumps(story.track(visitor, "Price Checked", {"price": float("nan"), "currency": "EUR"})).encode()
        case 6:
            return {**story.track(visitor, "Search Performed", {}), "properties": "q=oolong"}
        case _:
            return _NEVER_JSON


def main() -> None:
    """Writes sample events to standard output: `python -m penstock.demo.sample [count] [run]`."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    run = sys.argv[2] if len(sys.argv) > 2 else f"sample-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for line in sample_events(count, run=run):
        sys.stdout.buffer.write(line + b"\n")


if __name__ == "__main__":
    main()
