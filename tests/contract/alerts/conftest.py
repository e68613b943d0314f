"""What every channel is tried with: options that are complete, and messages of each sort."""

from __future__ import annotations

from typing import Any

import msgspec

from router.alerts.contract import Item, Message

SECRET = "s3cr3t-0123456789"
OPTIONS: dict[str, dict[str, Any]] = {
    "slack": {"url": f"https://hooks.slack.com/services/T0/B0/{SECRET}"},
    "teams": {"url": f"https://prod.example.com/workflows/x?sig={SECRET}"},
    "pagerduty": {"routing_key": SECRET, "source": "penstock.example.com"},
    "webhook": {"url": "https://ops.example.com/in", "headers": {"Authorization": f"Bearer {SECRET}"}, "secret": f"{SECRET}-key"},
    "email": {
        "host": "mail.example.com",
        "to": ["ops@example.com", "Second <second@example.com>"],
        "sender": "Penstock <alerts@example.com>",
        "user": "ops",
        "password": SECRET,
    },
}
"""By channel: options with a secret in each place that may hold one."""

AT = 1_800_000_000.0
FAILING = Item(
    key="connection shop-wh",
    kind="connection",
    status="failing",
    severity="critical",
    title="connection shop-wh: failing",
    why="destination wh: connection refused; <!channel> [x](http://evil.example)",
    next="penstock check wh",
    since=AT - 7500,
    times=3,
)
DEAD = Item(
    key="dead loader shop-wh",
    kind="dead",
    status="failing",
    severity="warning",
    title="dead letters of connection shop-wh (loader)",
    why="12 since 2027-01-15 08:00:00 UTC: 12 too_deep",
    next="penstock dead list --stage loader --connection shop-wh",
    since=AT - 60,
    again=True,
    sample={"reason": "too_deep", "event": "Order <b> *x* `y` ~z~ @here http://evil.example", "messageId": "m1"},
)
RECOVERED = msgspec.structs.replace(
    FAILING, key="connection app-lake", status="recovered", title="connection app-lake: failing", next="", times=0, ended=AT
)
LEFT = msgspec.structs.replace(RECOVERED, key="connection old", title="connection old: stuck", note="it left the project")
MESSAGES = {
    "one": Message(id="id-one", alert="oncall", at=AT, items=[FAILING]),
    "some": Message(id="id-some", alert="oncall", at=AT, items=[FAILING, DEAD, RECOVERED, LEFT]),
    "storm": Message(
        id="id-storm", alert="oncall", at=AT, items=[FAILING] * 3, more={"failing": 480, "recovered": 2}, unlisted=470
    ),
    "test": Message(id="id-test", alert="oncall", at=AT, items=[], test=True),
}
