"""What connections get from a router beside a real broker: every frame, events by condition, each message id once."""

from __future__ import annotations

import pytest

from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.events.outcome import DropReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.telemetry.metrics import Telemetry
from tests.support.router import put, reading, routing, snapshot, state_of, until

# each frame is a synced write, and a busy disk takes its time
pytestmark = pytest.mark.timeout(240)


async def test_frames_go_to_every_connection_of_the_site_as_they_are(broker: Broker, telemetry: Telemetry) -> None:
    first = await put(broker, ["a", "b"])
    async with routing(broker, telemetry, snapshot({"one": {}, "two": {}})), reading(broker, "one", "two") as (one, two):
        second = await put(broker, ["c"])
        await until(lambda: len(one.ids) == len(two.ids) == 3)
    stored = await broker.js.get_msg(topology.EVENTS, first)
    assert one.ids == two.ids == ["a", "b", "c"]
    assert one.seqs == two.seqs == [first, second]
    assert one.payloads[0] == two.payloads[0] == stored.data
    assert len(set(one.lanes + two.lanes)) == 1
    assert one.lanes[0].startswith("live-")
    assert (await state_of(broker)).position == second


async def test_conditions_choose_events_and_a_frame_with_none_sends_nothing(broker: Broker, telemetry: Telemetry) -> None:
    config = snapshot(
        {
            "pages": {"where": {"field": "type", "eq": "page"}},
            "big": {"where": [{"field": "type", "eq": "track"}, {"field": "properties.total", "gt": 10}]},
            "all": {},
        }
    )
    async with routing(broker, telemetry, config), reading(broker, "pages", "big", "all") as (pages, big, everything):
        await put(broker, ["t1"], properties={"total": 5})
        await put(broker, ["p1", "p2"], type="page")
        await put(broker, ["t2"], properties={"total": 50})
        await until(lambda: len(everything.ids) == 4 and pages.ids == ["p1", "p2"] and big.ids == ["t2"])
    assert len(pages.seqs) == len(big.seqs) == 1
    assert telemetry.value("router_events_dropped_total", connection="big", reason=DropReason.FILTERED) == 3


async def test_a_body_that_a_condition_cannot_read_is_counted_and_its_neighbour_goes_on(
    broker: Broker, telemetry: Telemetry
) -> None:
    request = RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="k", kind="server")
    frame = pack("shop", [request], [Head("good", "track"), Head("bad", "track")], [b'{"properties":{"x":1}}', b"[1]"])
    rule = {"where": {"field": "properties.x", "eq": 1}}
    async with routing(broker, telemetry, snapshot({"wh": rule})), reading(broker, "wh") as (wh,):
        await broker.publisher.publish(topology.events_subject("shop"), encode_frame(frame), msg_id="1")
        await until(lambda: wh.ids == ["good"])
        await until(lambda: telemetry.value("router_filter_errors_total", connection="wh") == 1)


async def test_a_message_id_is_delivered_once_also_within_a_frame_and_over_a_restart(
    broker: Broker, telemetry: Telemetry
) -> None:
    config = snapshot({"one": {}})
    async with reading(broker, "one") as (one,):
        async with routing(broker, telemetry, config):
            await put(broker, ["a", "b", "a"])
            await put(broker, ["b", "c"])
            await put(broker, ["a", "c"])
            await until(lambda: len(one.ids) >= 3)
        await put(broker, ["c", "d"])
        async with routing(broker, telemetry, config):
            await put(broker, ["d", "a", "e"])
            await until(lambda: "e" in one.ids)
            await until(lambda: telemetry.value("router_events_forwarded_total", connection="one") == 5)
            assert telemetry.value("router_events_dropped_total", connection="one", reason=DropReason.DUPLICATE) == 7
            await until(lambda: telemetry.value("router_dedupe_ids", site="shop") == 5)
            await until(lambda: telemetry.value("router_lag_frames", site="shop") == 0)
            assert (
                telemetry.value("account_unrouted_events", site="shop")
                == telemetry.value("router_oldest_seconds", site="shop")
                == 0
            )
    assert one.ids == ["a", "b", "c", "d", "e"]
    assert one.repeats == 0


async def test_without_a_window_repeats_pass(broker: Broker, telemetry: Telemetry) -> None:
    async with routing(broker, telemetry, snapshot({"one": {}}, dedupe_window="0s")), reading(broker, "one") as (one,):
        await put(broker, ["a", "a"])
        await put(broker, ["a"])
        await until(lambda: len(one.ids) == 3)
