"""Sends every kind of call with segment-analytics-python and prints what it sent and what went wrong, as one JSON object.

A script of its own, because two versions of the package are tested: `python segment_sender.py BASE_URL KEY
ROUNDS PAUSE_MILLISECONDS GZIP`.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

import segment.analytics as analytics
from segment.analytics.version import VERSION


def main() -> None:
    host, key, rounds, pause, gzip = sys.argv[1:]
    problems: list[str] = []
    analytics.write_key, analytics.host, analytics.gzip = key, host, gzip == "gzip"
    analytics.max_retries = 20
    analytics.on_error = lambda error, items: problems.append(f"{error} ({len(items)} events)")
    queued: list[bool] = []
    sent: list[str] = []

    def note(answer: tuple[bool, dict[str, str]]) -> None:
        queued.append(answer[0])
        sent.append(answer[1]["messageId"])

    for number in range(int(rounds)):
        user = f"user-{number % 7}"
        note(analytics.track(user, "Order Completed", {"total": number * 1.5, "items": [{"sku": f"é-{number}"}]}))
        note(analytics.identify(user, {"plan": "pro", "born": datetime(2000, 1, 1, tzinfo=UTC)}))
        note(analytics.page(user, "Docs", "Home", {"url": "https://shop.example.com/"}))
        note(analytics.screen(anonymous_id=f"anon-{number}", name="Cart"))
        note(analytics.group(user, "g1", {"size": 3}))
        note(analytics.alias(f"old-{number}", user))
        time.sleep(int(pause) / 1000)
    analytics.flush()
    analytics.shutdown()
    print(json.dumps({"version": VERSION, "queued": all(queued), "delivered": sent, "problems": problems}))


if __name__ == "__main__":
    main()
