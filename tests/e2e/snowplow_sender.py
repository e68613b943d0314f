"""Sends every kind of event with snowplow-tracker and prints the parameters it delivered and what went wrong, as one JSON object.

A script of its own, because the package lies in a folder of its own: `python snowplow_sender.py BASE_URL APP_ID ROUNDS get|post`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from snowplow_tracker import (
    EmitterConfiguration,
    PagePing,
    PageView,
    SelfDescribing,
    SelfDescribingJson,
    Snowplow,
    StructuredEvent,
    Subject,
)


def main() -> None:
    base, app, rounds, method = sys.argv[1:]
    delivered: list[dict[str, Any]] = []
    problems: list[str] = []
    subject = Subject().set_platform("srv").set_user_id("user-1").set_ip_address("192.0.2.77").set_useragent("phone")
    subject.set_network_user_id("5c37a5b7-55fe-4bb8-a6e2-ad4e6ad54ee2").set_domain_user_id("d-1").set_lang("de")
    emitter = EmitterConfiguration(
        batch_size=7, on_success=delivered.extend, on_failure=lambda _, lost: problems.append(f"{len(lost)} events lost")
    )
    tracker = Snowplow.create_tracker("py", base, method, app, subject, emitter_config=emitter)
    for number in range(int(rounds)):
        context = [SelfDescribingJson("iglu:com.acme/user/jsonschema/2-0-1", {"level": number, "name": f"é-{number}"})]
        url = f"https://shop.example.com/{number}?utm_source=news"
        tracker.track(PageView(url, "Home", "https://www.google.com/search?q=shoes", context=context))
        tracker.track(PagePing(url, "Home", min_x=0, max_x=number))
        tracker.track(StructuredEvent("shop", "add", label="l", property_="p", value=number * 1.5))
        order = SelfDescribingJson("iglu:com.acme/order_placed/jsonschema/1-0-0", {"items": [{"sku": f"é-{number}"}]})
        tracker.track(SelfDescribing(order, context=context, true_timestamp=1767225600000 + number))
    tracker.flush()
    Snowplow.remove_tracker(tracker)
    print(json.dumps({"delivered": delivered, "problems": problems}))


if __name__ == "__main__":
    main()
