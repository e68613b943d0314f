"""Events to measure with: always the same for the same seed, ids apart.

`flat` is the plain one: about 800 bytes and 30 columns in the `single_table` layout. `mixed` is a page/track/identify mix with
bodies of 2 to 5 KB.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

Event = dict[str, Any]
_WORDS = ["river", "gate", "lock", "weir", "mill", "pond", "turbine", "race", "channel", "intake", "basin", "spill"]


def flat(number: int, chance: random.Random, run: str) -> Event:
    """An event of about 800 bytes that fills 30 columns."""
    return {
        "type": "track",
        "event": "Order Completed",
        "messageId": f"{run}-{number:09d}",
        "userId": f"user-{chance.randrange(100_000)}",
        "anonymousId": f"{chance.getrandbits(64):016x}",
        "timestamp": "2026-03-01T12:00:00.123Z",
        "context": {
            "library": {"name": "analytics-node", "version": "3.1.0"},
            "page": {"url": f"https://shop.example.com/p/{chance.randrange(5000)}", "path": "/p", "title": chance.choice(_WORDS)},
            "locale": "en-GB",
            "timezone": "Europe/London",
            "campaign": {"source": chance.choice(_WORDS), "medium": "cpc"},
        },
        "properties": {
            "order_id": f"o-{number}",
            "total": round(chance.uniform(1, 500), 2),
            "currency": "EUR",
            "quantity": chance.randrange(1, 9),
            "coupon": chance.choice(_WORDS),
            "gift": chance.random() < 0.1,
            "shipping": round(chance.uniform(0, 20), 2),
            "tax": round(chance.uniform(0, 50), 2),
            "category": chance.choice(_WORDS),
            "warehouse": chance.choice(_WORDS),
            "payment": {"method": "card", "brand": "visa"},
            "placed_at": "2026-03-01T11:59:58Z",
            "note": " ".join(chance.choices(_WORDS, k=24)),
        },
    }


def mixed(number: int, chance: random.Random, run: str) -> Event:
    """A page, track or identify call of 2 to 5 KB."""
    common: Event = {
        "messageId": f"{run}-{number:09d}",
        "userId": f"user-{chance.randrange(100_000)}",
        "anonymousId": f"{chance.getrandbits(64):016x}",
        "timestamp": "2026-03-01T12:00:00.123Z",
        "context": {
            "library": {"name": "analytics.js", "version": "1.84.3"},
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0 Safari/537.36",
            "page": {
                "url": "https://shop.example.com/" + "/".join(chance.choices(_WORDS, k=12)),
                "referrer": "https://www.example.org/",
            },
            "screen": {"width": 1920, "height": 1080, "density": 2},
            "locale": "en-GB",
        },
    }
    text = " ".join(chance.choices(_WORDS, k=chance.randrange(230, 680)))
    kind = chance.random()
    if kind < 0.5:
        return {
            **common,
            "type": "page",
            "name": "Product",
            "properties": {"title": "Product", "text": text, "depth": number % 7},
        }
    if kind < 0.85:
        products = [{"sku": f"s{index}", "price": index * 1.5, "quantity": index} for index in range(chance.randrange(1, 8))]
        properties = {"order_id": f"o-{number}", "total": 12.5, "products": products, "note": text}
        return {
            **common,
            "type": "track",
            "event": chance.choice(["Order Completed", "Product Added", "Checkout Started"]),
            "properties": properties,
        }
    return {
        **common,
        "type": "identify",
        "traits": {"name": "Ada", "plan": "pro", "bio": text, "address": {"city": "Leeds", "zip": "LS1"}},
    }


KINDS: dict[str, Callable[[int, random.Random, str], Event]] = {"flat": flat, "mixed": mixed}


def bodies(kind: str, count: int, run: str, seed: int = 1) -> list[bytes]:
    """Returns `count` events as JSON."""
    chance = random.Random(seed)
    make = KINDS[kind]
    return [msgspec.json.encode(make(number, chance, run)) for number in range(count)]
