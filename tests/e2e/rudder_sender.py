"""Sends every kind of call with rudder-sdk-python and prints what it sent and what went wrong, as one JSON object.

A script of its own, because the package lies in a folder of its own: `python rudder_sender.py BASE_URL KEY ROUNDS GZIP`.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import rudderstack.analytics as analytics


def main() -> None:
    base, key, rounds, gzip = sys.argv[1:]
    problems: list[str] = []
    analytics.write_key, analytics.dataPlaneUrl, analytics.gzip = key, base, gzip == "gzip"
    analytics.on_error = lambda error, items: problems.append(f"{error} ({len(items)} events)")
    sent: list[str] = []

    def new() -> dict[str, Any]:
        sent.append(f"m-{len(sent)}")
        return {"message_id": sent[-1]}

    for number in range(int(rounds)):
        user = f"user-{number % 7}"
        analytics.track(user, "Order Completed", {"total": number * 1.5, "items": [{"sku": f"é-{number}"}]}, **new())
        analytics.identify(user, {"plan": "pro", "born": datetime(2000, 1, 1, tzinfo=UTC)}, **new())
        analytics.page(user, "Docs", "Home", {"url": "https://shop.example.com/"}, **new())
        analytics.screen(user, "App", "Cart", **new())
        analytics.group(user, "g1", {"size": 3}, **new())
        analytics.alias(f"old-{number}", user, **new())
    analytics.flush()
    analytics.shutdown()
    print(json.dumps({"delivered": sent, "problems": problems}))


if __name__ == "__main__":
    main()
