"""Golden cases of the layouts."""

from __future__ import annotations

import pkgutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import loader.rows.layouts
from loader.contract.warehouse import Kind
from loader.rows.layouts import LAYOUTS
from tests.unit.loader.shaping import RECEIVED, STAMP, Desk, Row, capabilities, kinds_of

CONTEXT = {"ip": "203.0.113.7", "page": {"url": "https://example.com/"}}


def segment(*events: dict[str, Any], **options: Any) -> dict[str, list[Row]]:
    loaded = Desk({"layout": "segment", **options}).load(*events)
    assert not loaded.dead
    return {table: loaded.rows(table) for table in loaded.tables}


def usual(number: int = 0, **more: Any) -> Row:
    return {"id": f"m{number}", "received_at": RECEIVED, "timestamp": RECEIVED, "uuid_ts": STAMP.loaded_at, **more}


def test_every_layout_of_the_folder_is_listed() -> None:
    folder = Path(loader.rows.layouts.__file__).parent
    modules = {path.name for path in pkgutil.iter_modules([str(folder)])} - {"contract", "pages"}
    assert modules == set(LAYOUTS)


def test_a_track_is_a_row_of_tracks_and_a_row_of_its_event() -> None:
    tables = segment(
        {
            "type": "track",
            "event": "Order Completed",
            "userId": "u1",
            "anonymousId": "a1",
            "originalTimestamp": "2026-09-01T11:59:00Z",
            "context": CONTEXT,
            "properties": {"orderID": "o1", "total": 9.5, "lines": [{"sku": "x"}], "shipping": {"city": "Ulm"}},
            "integrations": {"All": True},
        }
    )
    common = usual(
        user_id="u1",
        anonymous_id="a1",
        event="order_completed",
        event_text="Order Completed",
        context_ip="203.0.113.7",
        context_page_url="https://example.com/",
        original_timestamp=datetime(2026, 9, 1, 11, 59, tzinfo=UTC),
        timestamp=datetime(2026, 9, 1, 11, 59, tzinfo=UTC),
    )
    assert tables == {
        "tracks": [common],
        "order_completed": [{**common, "order_id": "o1", "total": 9.5, "lines": '[{"sku":"x"}]', "shipping_city": "Ulm"}],
    }


def test_an_identify_is_a_row_of_identifies_and_the_latest_traits_of_its_user() -> None:
    tables = segment(
        {"type": "identify", "userId": "u1", "traits": {"email": "a@x", "address": {"city": "Ulm"}, "id": 7}, "context": CONTEXT},
        {"type": "identify", "userId": "u1", "traits": {"email": None, "plan": "pro"}},
        {"type": "identify", "anonymousId": "a1", "traits": {"email": "b@x"}},
    )
    context = {"context_ip": "203.0.113.7", "context_page_url": "https://example.com/"}
    suffixed = next(name for name in tables["identifies"][0] if name.startswith("id_"))
    assert tables["identifies"] == [
        usual(0, user_id="u1", email="a@x", address_city="Ulm", **{suffixed: 7}, **context),
        usual(1, user_id="u1", plan="pro"),
        usual(2, anonymous_id="a1", email="b@x"),
    ]
    user = {"id": "u1", "received_at": RECEIVED, "uuid_ts": STAMP.loaded_at, "email": "a@x", "address_city": "Ulm", "plan": "pro"}
    assert tables["users"] == [{**user, suffixed: 7}]


@pytest.mark.parametrize("own", [{}, {"traits": {}}, {"traits": None}])
def test_an_identify_without_traits_has_those_of_its_context_as_rudderstacks_browser_sdk_sends_them(own: dict[str, Any]) -> None:
    traits = {"email": "a@x", "address": {"city": "Ulm"}}
    tables = segment(
        {"type": "identify", "userId": "u1", **own, "context": {"traits": traits}},
        {"type": "identify", "userId": "u2", "traits": {"plan": "pro"}, "context": {"traits": {"email": "b@x"}}},
        {"type": "identify", "userId": "u3", "context": {"traits": "none"}},
        {"type": "group", "groupId": "g1", "userId": "u1", "context": {"traits": traits}},
    )
    user = {"received_at": RECEIVED, "uuid_ts": STAMP.loaded_at}
    known = {"email": "a@x", "address_city": "Ulm"}
    assert tables["users"] == [{"id": "u1", **known, **user}, {"id": "u2", "plan": "pro", **user}, {"id": "u3", **user}]
    assert tables["accounts"] == [{"id": "g1", **user}]
    of_context = {f"context_traits_{name}": value for name, value in known.items()}
    assert tables["identifies"][0] == usual(0, user_id="u1", **known, **of_context)
    assert tables["groups"] == [usual(3, user_id="u1", group_id="g1", **of_context)]


def test_users_are_merged_by_user_whatever_deduplicate_says() -> None:
    loaded = Desk({"layout": "segment", "deduplicate": False, "primary_key": ["order_id"]}).load(
        {"type": "identify", "userId": "u1", "traits": {"a": 1}}
    )
    loads = {ready.load.table: ready.load for ready in loaded.finished.ready}
    users = loads["users"]
    assert (users.write, users.key, users.cursor, users.coalesce) == ("merge", ("id",), "received_at", True)
    assert loads["identifies"].write == "append"
    assert next(patch for patch in loaded.fitted.patches if patch.table == "users").primary_key == ("id",)


@pytest.mark.parametrize("kind", ["page", "screen"])
def test_pages_and_screens_have_their_properties_name_and_category(kind: str) -> None:
    tables = segment(
        {"type": kind, "name": "Home", "category": "Docs", "properties": {"name": "Home", "category": "Docs", "url": "/"}},
        {"type": kind, "properties": {"name": "Only inside"}},
    )
    assert tables == {kind + "s": [usual(0, name="Home", category="Docs", url="/"), usual(1, name="Only inside")]}


def test_a_page_whose_two_names_differ_keeps_both() -> None:
    (row,) = segment({"type": "page", "name": "One", "properties": {"name": "Two"}})["pages"]
    assert row["name"] == "One"
    assert [value for name, value in row.items() if name.startswith("name_")] == ["Two"]


def test_groups_and_aliases_have_their_ids() -> None:
    tables = segment(
        {"type": "group", "userId": "u", "groupId": "g", "traits": {"name": "Acme"}},
        {"type": "alias", "userId": "u", "previousId": "p"},
    )
    assert tables == {
        "groups": [usual(0, user_id="u", group_id="g", name="Acme")],
        "accounts": [{"id": "g", "received_at": RECEIVED, "uuid_ts": STAMP.loaded_at, "name": "Acme"}],
        "aliases": [usual(1, user_id="u", previous_id="p")],
    }


def test_an_unknown_type_has_a_table_of_its_name() -> None:
    assert segment({"type": "Page Leave", "properties": {"depth": 3}}) == {"page_leave": [usual(0, depth=3)]}


@pytest.mark.parametrize("name", ["Tracks", "users", "Pages", "identifies", "SCREENS", "groups", "aliases", "Accounts"])
def test_an_event_named_like_a_built_in_table_gets_a_table_of_its_own(name: str) -> None:
    tables = segment({"type": "track", "event": name, "userId": "u", "properties": {"x": 1}}, {"type": "identify", "userId": "u"})
    assert set(tables) == {"tracks", "identifies", "users", name.lower() + "_"}
    assert tables[name.lower() + "_"][0]["x"] == 1
    assert tables["tracks"][0]["event"] == name.lower()


def test_names_that_fold_to_one_share_a_table() -> None:
    tables = segment(
        *({"type": "track", "event": name, "properties": {"n": 1}} for name in ("Order Done", "orderDone", "order done"))
    )
    assert [row["event_text"] for row in tables["order_done"]] == ["Order Done", "orderDone", "order done"]


def test_no_property_masks_a_column_of_the_layout_and_none_is_lost() -> None:
    names = (
        "id",
        "userId",
        "user_id",
        "received_at",
        "event",
        "event_text",
        "uuid_ts",
        "timestamp",
        "_unmapped_data",
        "_loaded_at",
    )
    loaded = Desk({"layout": "segment"}).load(
        {"type": "track", "event": "E", "userId": "u", "properties": {name: f"client {name}" for name in names}}
    )
    (row,) = loaded.rows("e")
    assert {key: row[key] for key in ("id", "user_id", "event", "event_text")} == {
        "id": "m0", "user_id": "u", "event": "e", "event_text": "E",
    }  # fmt: skip
    assert sorted(value for value in row.values() if str(value).startswith("client")) == sorted(
        f"client {name}" for name in names
    )


def test_no_top_level_key_masks_a_column_of_the_layout() -> None:
    (row,) = segment({"type": "track", "event": "E", "userId": "u", "user_id": "x", "id": "y", "event_text": "z", "extra": 1})[
        "e"
    ]
    assert (row["user_id"], row["id"], row["event_text"], row["extra"]) == ("u", "m0", "E", 1)
    assert {"x", "y", "z"} <= set(row.values())


def test_ids_are_text_and_times_are_timestamps_whatever_is_sent() -> None:
    desk = Desk({"layout": "segment"})
    loaded = desk.load({"type": "track", "event": "E", "userId": 17, "originalTimestamp": "yesterday", "properties": {}})
    kinds = kinds_of(desk.live["e"])
    assert (kinds["user_id"], kinds["original_timestamp"]) == (Kind.TEXT, Kind.TIMESTAMP)
    assert loaded.rows("e")[0]["user_id"] == "17"
    assert loaded.unmapped("e") == [{"original_timestamp": "yesterday"}]


@pytest.mark.parametrize("properties", ["text", 5, ["a"], True])
def test_properties_that_are_no_object_are_a_column(properties: Any) -> None:
    (row,) = segment({"type": "track", "event": "E", "properties": properties})["e"]
    assert row["properties"] == ('["a"]' if properties == ["a"] else properties)


def test_a_template_replaces_the_tables_of_every_event() -> None:
    tables = segment(
        {"type": "track", "event": "E", "properties": {"a": 1}},
        {"type": "identify", "userId": "u", "traits": {"b": 2}},
        table="all of {{ site }}",
    )
    assert tables == {
        "all_of_shop": [usual(0, type="track", event="e", event_text="E", a=1), usual(1, type="identify", user_id="u", b=2)]
    }


def test_a_template_cannot_put_messages_into_the_table_of_users() -> None:
    tables = segment({"type": "track", "event": "E"}, table="users")
    assert set(tables) == {"users_"}


def test_single_table_lifts_properties_and_gathers_traits() -> None:
    loaded = Desk({"layout": "single_table"}).load(
        {
            "type": "track",
            "event": "Order Done",
            "userId": "u",
            "properties": {"total": 1, "user_id": "p"},
            "context": {"ip": "i"},
        },
        {"type": "identify", "userId": "u", "traits": {"plan": "pro"}, "context": {"traits": {"city": "Ulm"}}},
        {"type": "page", "name": "Home", "properties": {"name": "Home", "path": "/"}},
    )
    rows = loaded.rows()
    common = {"received_at": RECEIVED, "timestamp": RECEIVED}
    suffixed = next(name for name in rows[0] if name.startswith("user_id_"))
    assert list(loaded.tables) == ["events"]
    assert rows == [
        {
            "message_id": "m0",
            "type": "track",
            "event": "Order Done",
            "user_id": "u",
            "total": 1,
            suffixed: "p",
            "context_ip": "i",
            **common,
        },
        {
            "message_id": "m1",
            "type": "identify",
            "user_id": "u",
            "context_traits_plan": "pro",
            "context_traits_city": "Ulm",
            **common,
        },
        {"message_id": "m2", "type": "page", "name": "Home", "path": "/", **common},
    ]


def test_passthrough_flattens_the_event_as_it_is() -> None:
    (row,) = Desk().load({"type": "track", "event": "E", "properties": {"a": 1}, "integrations": {"All": False}}).rows()
    assert row == {
        "message_id": "m0", "type": "track", "event": "E", "properties_a": 1, "integrations_all": False,
        "received_at": RECEIVED, "timestamp": RECEIVED,
    }  # fmt: skip


def test_original_names_keep_the_spelling_of_keys() -> None:
    desk = Desk({"original_names": True, "deduplicate": True})
    loaded = desk.load({"userId": "u", "someKey": {"Other Key": 1}})
    assert {"messageId", "receivedAt", "userId", "someKey_Other Key"} <= set(loaded.rows()[0])
    assert loaded.finished.ready[0].load.key == ("messageId",)


@pytest.mark.parametrize(("layout", "key"), [("segment", "id"), ("single_table", "message_id"), ("passthrough", "message_id")])
@pytest.mark.parametrize("primary_key", [None, ["message_id"]])
def test_the_message_id_is_the_key_by_default_whatever_the_layout_calls_it(
    layout: str, key: str, primary_key: list[str] | None
) -> None:
    loaded = Desk({"layout": layout, "deduplicate": True, "primary_key": primary_key}).load({"type": "page"})
    assert loaded.finished.ready[0].load.key == (key,)
    assert loaded.fitted.patches[0].primary_key == (key,)
    assert loaded.finished.ready[0].load.cursor == "received_at"


def test_tables_the_warehouse_takes_for_one_are_one() -> None:
    desk = Desk({"original_names": True, "table": "{{ event.where }}"}, capabilities(case="lower"))
    loaded = desk.load({"where": "Orders"}, {"where": "ORDERS"})
    assert [len(rows) for rows in loaded.tables.values()] == [2]


def test_an_event_of_a_type_of_its_own_has_its_properties_and_traits_at_the_top() -> None:
    loaded = Desk({"layout": "segment"}).load(
        {"type": "Device Seen", "userId": "u", "properties": {"a": 1, "both": 1}, "traits": {"b": 2, "both": 2}}
    )
    (row,) = loaded.rows("device_seen")
    assert (row["a"], row["b"], row["both"], row["user_id"]) == (1, 2, 1, "u")
    assert "type" not in row
    assert 2 in [value for name, value in row.items() if name.startswith("both_")]


ODD: list[Any] = [
    "found",
    ["found"],
    {"inside": "found"},
    {"user_id": "found"},
    [[{"deep": "found"}]],
    {"": "found"},
    {"!": {"?": "found"}},
]
PLACES = [
    "context",
    "properties",
    "traits",
    "event",
    "userId",
    "groupId",
    "name",
    "category",
    "timestamp",
    "sentAt",
    "channel",
    "_seq",
    "uuid_ts",
]


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("kind", ["track", "page", "identify", "group", "alias", "Custom"])
def test_a_value_is_found_again_wherever_it_was_sent_and_whatever_it_is(layout: str, kind: str) -> None:
    sent = [{"type": kind, place: odd} for place in PLACES for odd in ODD]
    sent += [
        {"type": kind, place: {"name": "other", "id": "found"}, "name": "x", "id": "y"} for place in ("properties", "traits")
    ]
    loaded = Desk({"layout": layout}).load(*sent)
    assert not loaded.dead
    keys = {"segment": "id", "jitsu_legacy": "eventn_ctx_event_id", "snowplow": "event_id", "webhook": "_id"}
    key = keys.get(layout, "message_id")
    found = {row[key] for table in loaded.tables for row in loaded.rows(table) if "found" in str(row)}
    assert [event for number, event in enumerate(sent) if f"m{number}" not in found] == []
