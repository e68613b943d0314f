"""Tracking plans: what is found, what becomes of an event, which schemas are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.plans.compiled import Plan, compile_plan
from router.plans.judged import MOST_NAMES, Verdict, judge
from router.plans.strip import strip
from router.problems.violations import MOST_GROUPS, frame_of
from router.rules.match import Matched, match
from shared.errors import ConfigError
from shared.events.event import facts_of, materialise
from shared.events.frame import Head, RequestContext, decode_frame, encode_frame
from shared.events.outcome import DropReason
from shared.project.tracking import TrackingPlan
from shared.reading.decode import decode
from tests.unit.router.test_match import arrive, rules_of
from tests.unit.router.test_match import frame_of as frame_with

ORDER = {
    "type": "object",
    "required": ["total"],
    "properties": {
        "total": {"type": "number", "minimum": 0},
        "currency": {"enum": ["EUR", "USD"]},
        "products": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
    },
}


def plan_of(**options: Any) -> Plan:
    return compile_plan("p", decode({"events": {"Order": {"schema": ORDER}}, **options}, TrackingPlan, "tracking_plans.p"))


def asked(plan: Plan, properties: Any, event: str = "Order", kind: str = "track", key: str = "properties") -> Verdict | None:
    given = {} if properties is None else {key: properties}
    return judge(plan, Head("m", kind, event), given, len(msgspec.json.encode(given)))


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"total": 1}, []),
        ({"total": 1, "currency": "EUR", "products": [{"price": 2}]}, []),
        (None, ["properties.total: required, expected a value, got nothing"]),
        ({"total": "x@y.z"}, ['properties.total: type, expected "number", got string']),
        ({"total": -1}, ["properties.total: minimum, expected 0, got integer"]),
        ({"total": 1, "currency": "ZZZ"}, ['properties.currency: enum, expected ["EUR","USD"], got string']),
        (
            {"total": 1, "products": [{"price": 1}, {"price": "a"}]},
            ['properties.products[].price: type, expected "number", got string'],
        ),
        (
            {"total": 1, "x": 1, "y": None},
            ["properties.x: unplanned_property, got integer", "properties.y: unplanned_property, got null"],
        ),
        ([1], ['properties: type, expected "object", got array']),
    ],
)
def test_faults_are_named_by_place_and_rule_and_no_value_of_the_event_is_told(properties: Any, told: list[str]) -> None:
    verdict = asked(plan_of(), properties)
    assert [str(each) for each in verdict.violations] == told if verdict else told == []
    assert verdict is None or verdict.action == "report"


@pytest.mark.parametrize(
    ("options", "properties", "event", "action"),
    [
        ({"on_violation": "dead_letter"}, {"total": "a"}, "Order", "dead_letter"),
        ({"on_violation": "drop"}, {"total": "a", "x": 1}, "Order", "drop"),
        ({"unplanned_properties": "strip"}, {"total": "a", "x": 1}, "Order", "strip"),
        ({"unplanned_properties": "allow", "on_violation": "drop"}, {"total": 1, "x": 1}, "Order", None),
        ({"unplanned_properties": "dead_letter"}, {"total": 1, "x": 1}, "Order", "dead_letter"),
        ({"unplanned_events": "allow"}, {}, "Other", None),
        ({"unplanned_events": "drop"}, {}, "Other", "drop"),
        ({"unplanned_events": "dead_letter"}, {}, "Order", "report"),
        ({"events": {"Order": {"schema": ORDER, "on_violation": "drop"}}}, {}, "Order", "drop"),
        ({"events": {"Order": {}}, "on_violation": "drop"}, {"anything": 1}, "Order", None),
    ],
)
def test_the_worst_action_of_an_events_faults_decides(
    options: dict[str, Any], properties: Any, event: str, action: str | None
) -> None:
    verdict = asked(plan_of(**options), properties, event)
    assert (verdict.action if verdict else None) == action


def test_traits_and_pages_have_rules_of_their_own_and_other_types_none() -> None:
    rule = {"schema": {"properties": {"email": {"type": "string"}}}}
    plan = plan_of(identify=rule, group=rule, page=rule)
    for kind, key in (("identify", "traits"), ("group", "traits"), ("page", "properties")):
        assert asked(plan, {"email": 1}, kind=kind, key=key) is not None
        assert asked(plan, {"email": "a"}, kind=kind, key=key) is None
    assert judge(plan, Head("m", "identify", None), {"context": {"traits": {"email": 1}}}, 40) is not None
    assert asked(plan, {"email": 1}, kind="screen") is None
    assert asked(plan, {"email": 1}, kind="alias") is None


def test_stripping_takes_out_what_is_at_fault_and_keeps_the_bytes_of_all_else() -> None:
    plan = plan_of(on_violation="strip", unplanned_properties="strip")
    body = rb'{"type":"track","big":12345678901234567890.10,"properties":{"total":1.50,"currency":"ZZZ","x":{"y":1},"products":[{"price":"a","n":"\u00e9"},{"price":2}]}}'
    verdict = asked(plan, msgspec.json.decode(body)["properties"])
    assert verdict is not None
    assert verdict.action == "strip"
    left = strip(body, verdict.without)
    assert (
        left
        == rb'{"type":"track","big":12345678901234567890.10,"properties":{"total":1.50,"products":[{"n":"\u00e9"},{"price":2}]}}'
    )
    assert asked(plan, msgspec.json.decode(left)["properties"]) is None


@pytest.mark.parametrize(
    ("body", "path", "left"),
    [
        ({"userId": "u"}, ("context", "traits", "email"), {"plan": "pro"}),
        ({"userId": "u", "context": None}, ("context", "traits", "email"), {"plan": "pro"}),
        ({"userId": "u", "context": {"page": 1}}, ("context", "traits"), None),
        ({"userId": "u", "context": {"traits": {"email": 2}}}, ("context", "traits", "email"), {}),
        ({"userId": "u", "context": {"traits": {"email": 2}}}, ("context", "traits"), None),
        ({"userId": "u", "context": [1]}, ("context", "traits"), None),
    ],
)
def test_what_is_stripped_does_not_come_back_from_the_context_of_the_batch(
    body: dict[str, Any], path: tuple[str, ...], left: Any
) -> None:
    context = {"traits": {"email": 1, "plan": "pro"}, "locale": "de"}
    facts = facts_of(
        RequestContext(
            received_at=0, protocol="segment", key="k", kind="server", defaults=msgspec.json.encode({"context": context})
        )
    )
    event = materialise(strip(msgspec.json.encode(body), [path], facts.fallback_context), Head("m", "identify"), facts)
    assert (event["context"]["traits"], event["context"]["locale"], event["userId"]) == (left, "de", "u")


def test_a_required_property_is_a_planned_one() -> None:
    schema = {"required": ["sku"], "properties": {"total": {"type": "number"}}}
    plan = plan_of(events={"Order": {"schema": schema, "on_violation": "dead_letter"}})
    assert asked(plan, {"sku": "a", "total": 1}) is None
    told = asked(plan, {"sku": "a", "note": "b"})
    assert told is not None
    assert (told.action, [each.field for each in told.violations]) == ("report", ["properties.note"])


def test_what_cannot_be_stripped_is_reported() -> None:
    plan = plan_of(on_violation="strip")
    missing = asked(plan, {})
    assert missing is not None
    assert (missing.action, missing.violations[0].action) == ("report", "report")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["total", "currency", "products", "price", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["total", "currency", "products", "x", "y"]), json_values, max_size=5))
def test_no_event_makes_the_judge_fail_and_stripped_events_have_no_fault_but_missing_values(properties: dict[str, Any]) -> None:
    plan = plan_of(on_violation="strip", unplanned_properties="strip")
    body = msgspec.json.encode({"properties": properties})
    verdict = asked(plan, properties)
    if verdict is not None and verdict.action == "strip":
        again = asked(plan, msgspec.json.decode(strip(body, verdict.without))["properties"])
        assert again is None or {each.rule for each in again.violations} == {"required"}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nope"}, "type: "),
        ({"properties": {"a": {"pattern": "("}}}, 'properties.a.pattern: "(" is not a "regex"'),
        ({"properties": {"a": {"pattern": "x{1000}{1000}"}}}, "properties.a.pattern"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "properties.a.pattern"),
        (
            {"properties": {"a": {"$ref": "https://example.com/x"}}},
            "properties.a refers to 'https://example.com/x'; write references as",
        ),
        ({"properties": {"a": {"$ref": "#"}}}, "#.properties.a refers to itself by '#'"),
        ({"$ref": "#/$defs/gone"}, "it refers to '#/$defs/gone', which is not there"),
        (deep(100), "it nests deeper than 64"),
        (
            {
                "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}},
                "$ref": "#/$defs/d0",
            },
            "its references, followed, give more than 20000 schemas",
        ),
    ],
)
def test_a_schema_that_is_none_or_without_bounds_is_refused_with_its_place(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan_of(events={"Order": {"schema": schema}})
    assert refused.value.problems[0].path == "tracking_plans.p.events.Order.schema"
    assert told in refused.value.problems[0].message


def test_a_hostile_text_takes_no_longer_with_an_expression_that_would_backtrack() -> None:
    plan = plan_of(events={"Order": {"schema": {"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}}})
    assert asked(plan, {"a": "a" * 200_000 + "!"}) is not None


def test_a_fault_in_each_element_of_a_long_array_is_one_violation_and_many_unplanned_properties_are_bounded() -> None:
    plan = plan_of(on_violation="strip", unplanned_properties="strip")
    hostile = {
        "total": 1,
        "currency": "ZZZ",
        "products": [{"price": "a"}] * 50_000,
        **{f"x{number}": 1 for number in range(5000)},
    }
    verdict = asked(plan, hostile)
    assert verdict is not None
    assert len(verdict.violations) == MOST_NAMES + 2
    left = strip(msgspec.json.encode({"properties": hostile}), verdict.without)
    found = msgspec.json.decode(left)["properties"]
    assert found == {"total": 1}


def test_a_revision_of_a_plan_stays_while_its_content_stays() -> None:
    assert plan_of().revision == plan_of().revision
    assert plan_of().revision != plan_of(on_violation="drop").revision


DOCUMENT = {
    "events": {
        "Order": {"schema": ORDER, "on_violation": "dead_letter", "unplanned_properties": "strip"},
        "Noise": {"schema": {"required": ["x"]}, "on_violation": "drop"},
    }
}
EVENTS: list[dict[str, Any]] = [
    {"event": "Order", "properties": {"total": 1}},
    {"event": "Order", "properties": {"total": "a"}},
    {"event": "Order", "properties": {"total": 2, "x": 1}},
    {"event": "Noise"},
    {"event": "Other"},
    {"type": "page"},
]


def test_a_frame_is_judged_once_and_each_connection_gets_what_the_plan_leaves() -> None:
    rules = rules_of(site={"tracking_plan": "p"}, plans={"p": DOCUMENT}, where={"field": "properties.x", "exists": False})
    arrival = arrive(frame_with(EVENTS))
    matched = match(rules, arrival)
    assert matched == Matched([0, 2, 4, 5], {DropReason.TRACKING_PLAN: 1}, 0, [1])
    bodies = decode_frame(arrival.payload_of(matched.indexes)).bodies()
    assert [msgspec.json.decode(body).get("properties") for body in bodies] == [{"total": 1}, {"total": 2}, None, None]
    frame = decode_frame(arrival.payload_of(None))
    assert msgspec.json.decode(frame.bodies()[2])["properties"] == {"total": 2}


def test_a_site_without_a_plan_opens_no_frame() -> None:
    arrival = arrive(frame_with(EVENTS))
    assert match(rules_of(plans={"p": DOCUMENT}), arrival).indexes is None
    assert arrival._frame is None


def test_equal_violations_of_a_frame_are_one_event_with_a_count_and_many_kinds_are_bounded() -> None:
    rules = rules_of(site={"tracking_plan": "p"}, plans={"p": DOCUMENT})
    gate = rules.gate
    assert gate is not None
    assert gate.plan is not None
    many = [{"event": f"Other {number}"} for number in range(100)]
    arrival = arrive(frame_with([*EVENTS, {"event": "Order", "properties": {"total": "b"}}, *many]))
    match(rules, arrival)
    assert arrival.gated is not None
    frame = frame_of(
        plan=gate.plan,
        site="shop",
        place="i.7",
        at_seconds=1.0,
        project_revision=3,
        heads=arrival.heads,
        verdicts=arrival.gated.verdicts,
    )
    rows = [msgspec.json.decode(body)["properties"] for body in decode_frame(encode_frame(frame)).bodies()]
    assert len(rows) == MOST_GROUPS
    assert sum(row["count"] for row in rows) == 105
    wrong = next(row for row in rows if row["rule"] == "type")
    assert (wrong["count"], wrong["message_ids"], wrong["action"]) == (2, ["m1", "m6"], "dead_letter")
    assert wrong["plan_revision"] == gate.plan.revision
    assert rows[-1]["rule"] == "others"
    assert len({head.message_id for head in frame.heads}) == len(rows)


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({}, "report"),
        ({"on_violation": "drop"}, "drop"),
        ({"unplanned_properties": "allow", "on_violation": "report"}, "report"),
        ({"unplanned_properties": "strip"}, "dead_letter"),
        ({"on_violation": "dead_letter"}, "dead_letter"),
    ],
)
def test_an_event_too_deep_for_its_faults_to_be_told_follows_the_plan(options: dict[str, Any], action: str) -> None:
    inner: Any = 1
    for _ in range(300):
        inner = {"x": inner}
    assert asked(plan_of(**options), {"total": 1, "products": []}) is None
    verdict = asked(plan_of(**options), {"total": inner})
    assert verdict is not None
    assert [str(each) for each in verdict.violations] == ["properties: unreadable, expected fewer levels"]
    assert (verdict.action, verdict.without) == (action, ())
