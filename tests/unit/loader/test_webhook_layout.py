"""Layout `webhook`: what the edge makes of deliveries, as rows of a table for each webhook."""

from __future__ import annotations

import json
from typing import Any

from ingest.protocols import webhook
from tests.unit.ingest.webhooks.deliveries import delivery, desk, parsed
from tests.unit.loader.shaping import RECEIVED, STAMP, Desk, Row


def loaded(body: object, /, *more: object, **options: Any) -> tuple[list[Row], Desk]:
    """Returns the rows of deliveries in the order of their coming, and the desk that shaped them."""
    events = []
    for each in (body, *more):
        found = parsed(webhook.parse(delivery(each), desk(type="open", **options)))
        for head, written in zip(found.heads, found.bodies, strict=True):
            event = json.loads(bytes(written))
            event["context"]["ip"] = "203.0.113.0"
            events.append({**event, "messageId": head.message_id})
    here = Desk({"layout": "webhook"})
    result = here.load(*events)
    assert not result.dead
    assert set(result.tables) == {"hook"}
    return result.rows("hook"), here


def own(index: int = 0, id_: str = "hook:1", event: str = "hook") -> Row:
    return {
        "_id": id_,
        "_index": index,
        "_created": RECEIVED,
        "_ip": "203.0.113.0",
        "_event": event,
        "_fivetran_synced": STAMP.loaded_at,
    }


def test_an_unpacked_payload_has_a_column_for_each_member_and_json_for_objects() -> None:
    body = {
        "id": "1",
        "kind": "sold",
        "orderTotal": 9.5,
        "customer": {"name": "Ann", "tags": []},
        "lines": [{"sku": "x"}],
        "none": None,
    }
    rows, _ = loaded(body, message_id=["id"], event=["kind"])
    assert rows == [
        {
            **own(event="sold"),
            "id": "1",
            "kind": "sold",
            "order_total": 9.5,
            "customer": '{"name":"Ann","tags":[]}',
            "lines": '[{"sku":"x"}]',
        }
    ]


def test_a_packed_payload_is_one_json_value_of_any_kind() -> None:
    rows, _ = loaded([{"id": "1", "a": {"b": 1}}, {"id": "2"}], format="packed", message_id=["id"])
    assert rows == [
        {**own(), "data": '{"id":"1","a":{"b":1}}'},
        {**own(1, "hook:2"), "data": '{"id":"2"}'},
    ]
    rows, _ = loaded('[7, "text", [1], true]', format="packed")
    assert [row["data"] for row in rows] == ["7", '"text"', "[1]", "true"]


def test_members_that_are_named_as_the_layouts_columns_are_kept_beside_them() -> None:
    rows, _ = loaded({"_id": "mongo", "_created": "once", "id": "1"}, message_id=["id"])
    (row,) = rows
    assert row["_id"] == "hook:1"
    assert sorted(value for key, value in row.items() if key.startswith(("_id_", "_created_"))) == ["mongo", "once"]


def test_an_event_of_another_protocol_goes_to_a_table_of_its_type() -> None:
    result = Desk({"layout": "webhook"}).load(
        {
            "type": "track",
            "event": "Bought",
            "messageId": "m",
            "properties": {"total": 5},
            "userId": "u",
            "traits": {"a": 1},
            "context": {"os": "x"},
        }
    )
    (row,) = result.rows("track")
    assert (row["_id"], row["_event"], row["total"], row["_user_id"]) == ("m", "Bought", 5, "u")
    assert json.loads(row["_rest"]) == {"traits": {"a": 1}, "context": {"os": "x"}}
