"""The edge asks a real broker which of its messages are stored."""

from __future__ import annotations

import time

from ingest.intake.lookup import stored_ids
from shared.jetstream.broker import Broker


async def test_ids_are_found_on_their_subject_whatever_lies_between(broker: Broker) -> None:
    subject, began = "events.shop.0", time.time()
    assert await stored_ids(broker, subject, {"a"}, began) == set()
    for number in range(1500):
        await broker.nc.publish(subject, b"x", headers={"Nats-Msg-Id": f"other-{number}"})
    for msg_id in ("a", "b"):
        await broker.publisher.publish(subject, b"x", msg_id=msg_id)
    await broker.publisher.publish("events.other.0", b"x", msg_id="c")
    assert await stored_ids(broker, subject, {"a", "b", "c", "d"}, began) == {"a", "b"}
    assert await stored_ids(broker, subject, {"a"}, began + 3600) == set()
    assert await stored_ids(broker, "dead.ingest.shop", {"a"}, began) == set()
