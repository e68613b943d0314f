"""The catalogue as dbt sources, JSON Schema, TypeScript types, and a tracking plan that the events it is made of meet."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec

from penstock.control.catalogue.dbt import sources
from penstock.control.catalogue.forms import json_schemas, tracking_plan, typescript
from penstock.control.catalogue.read import SeenEvent, _event
from router.catalogue.details import add_sample
from router.plans.compiled import compile_plan
from router.plans.judged import judge
from shared.catalogue.stored import EventDetails, NameCount
from shared.events.frame import Head
from shared.project.read import decode_project
from shared.project.tracking import TrackingPlan
from shared.reading.decode import decode

EVENTS: list[dict[str, Any]] = [
    {
        "type": "track",
        "event": "Order Completed",
        "properties": {
            "total": number / 2 if number % 2 else number,
            "coupon": None,
            "products": [{"sku": "a", "price": 1}],
            "a-b": "x",
        },
        "context": {"page": {"url": "https://x"}, "userAgent": "x"},
    }
    for number in range(30)
] + [{"type": "identify", "traits": {"email": "a@b.c", "address": {"city": "x"}}}]


def seen() -> list[SeenEvent]:
    details: dict[tuple[str, str], EventDetails] = {}
    for event in EVENTS:
        name = (event["type"], event.get("event", ""))
        found = details.setdefault(name, EventDetails(*name))
        add_sample(found, event, 1.0, key="web", room=1000, people=[], with_sample=True)
    return [_event("shop", NameCount(*name, 1.0, 2.0, 30, {0: 30}), each) for name, each in details.items()]


def test_a_tracking_plan_of_the_catalogue_can_be_applied_and_the_events_meet_it() -> None:
    document = tracking_plan(seen())
    plan = compile_plan("p", decode(document, TrackingPlan, "tracking_plans.p"))
    for event in EVENTS:
        assert judge(plan, Head("m", event["type"], event.get("event")), event, 200) is None
    broken = {"properties": {"total": "much", "new": 1}}
    verdict = judge(plan, Head("m", "track", "Order Completed"), broken, 200)
    assert verdict is not None
    assert {each.rule for each in verdict.violations} == {"type", "unplanned_property", "required"}
    assert document["events"]["Order Completed"]["schema"]["required"] == ["a-b", "coupon", "products", "total"]
    assert "required" not in document["identify"]["schema"], "one sample tells little"


def test_the_json_schema_is_one_and_knows_the_events() -> None:
    schema = json_schemas(seen())
    jsonschema.Draft202012Validator.check_schema(schema)
    total = schema["$defs"]["Order Completed"]["properties"]["total"]
    assert total == {"type": "number"}
    jsonschema.Draft202012Validator({**schema, "$ref": "#/$defs/identify"}).validate(EVENTS[-1]["traits"])


def test_types_of_typescript_have_an_interface_for_each_event() -> None:
    assert typescript(seen()) == TYPESCRIPT


def test_types_keep_the_letters_of_every_script() -> None:
    names = ["Größe 🦊 注文", "हिन्दी नाम", "1. Schritt", "a\u2028b", "🦊", "𠮷野家"]
    text = typescript([_event("shop", NameCount("track", name, 1.0, 2.0, 1, {}), EventDetails("track", name)) for name in names])
    interfaces = [line.split()[2] for line in text.splitlines() if line.startswith("export interface")]
    assert interfaces == ["Größe注文", "हिन्दीनाम", "Event1Schritt", "AB", "Event", "野家", "TrackEvents"]
    assert '  "Größe 🦊 注文": Größe注文;' in text
    assert '  "a\\u2028b": AB;' in text


def test_no_name_that_a_client_makes_up_leaves_its_comment_or_hides_a_type_of_the_file() -> None:
    event = seen()[0]
    named = [msgspec.structs.replace(event, event=name) for name in ("**// ; evil() /*", "Record", "Array", "Track Events")]
    text = typescript(named)
    assert all(line.count("*/") <= 1 for line in text.splitlines())
    assert [line.split()[2] for line in text.splitlines() if line.startswith("export interface")] == [
        "Evil",
        "Record_",
        "Array_",
        "TrackEvents_",
        "TrackEvents",
    ]


TYPESCRIPT = """\
// what a site has sent: written by `penstock catalog types`

/** Order Completed */
export interface OrderCompleted {
  "a-b": string;
  coupon: null;
  products: Array<{
    price?: number;
    sku?: string;
  }>;
  total: number;
}

/** identify */
export interface Identify {
  address?: {
    city?: string;
  };
  email?: string;
}

export interface TrackEvents {
  "Order Completed": OrderCompleted;
}
"""


def test_sources_of_dbt_have_the_names_that_the_loader_gives() -> None:
    project = decode_project(
        {
            "sites": {"shop": {}},
            "destinations": {"wh": {"type": "postgres", "dsn": "postgresql://localhost/x", "schema": "events"}},
            "connections": {"c": {"site": "shop", "destination": "wh"}},
        }
    )
    (source,) = sources(project, seen(), "shop")["sources"]
    assert (source["name"], source["schema"]) == ("shop", "events")
    tables = {table["name"]: [column["name"] for column in table["columns"]] for table in source["tables"]}
    assert set(tables) == {"tracks", "order_completed", "identifies"}
    assert {"total", "coupon", "products", "a_b", "context_page_url", "context_user_agent", "received_at"} <= set(
        tables["order_completed"]
    )
    assert {"email", "address_city"} <= set(tables["identifies"])
