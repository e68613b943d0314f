"""Tracking plans: what an event may cost. No clock is asked: the weights of schemas and events are compared."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from router.plans.expressions import character_units
from router.plans.judged import judge
from router.plans.weight import ERROR, FREE, allowed, weigh
from shared.errors import ConfigError
from shared.events.frame import Head
from tests.unit.router.test_plans import asked, plan_of

NESTED: dict[str, Any] = {"patternProperties": {"k": {}}}
for _ in range(10):
    NESTED = {"allOf": [NESTED], "unevaluatedProperties": False}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"a": {"type": "array", "items": schema}}}


HOSTILE = [
    (items({"multipleOf": 0.01}), {"a": [1e300] * 20_000}),
    (items({"properties": {"price": {"multipleOf": 0.01}}}), {"a": [{"price": 1e300}] * 10_000}),
    (items({"anyOf": [{"type": "string"}] * 900 + [{"type": "integer"}]}), {"a": [1] * 100_000}),
    (items({"$ref": "#/$defs/x"}) | {"$defs": {"x": {"enum": [f"a{n}" for n in range(10_000)]}}}, {"a": ["zz"] * 20_000}),
    (items({"enum": [{"a": n} for n in range(2000)]}), {"a": [{"a": -1}] * 2000}),
    ({"properties": {"a": {"pattern": "(?:.{0,30}a){30}!"}}}, {"a": "1a" * 100_000}),
    ({"patternProperties": {"(?:[ab]{0,23}a){23}!": {}}}, {"ab" * 2000: 1}),
    (NESTED, {f"k{n}": 1 for n in range(500)}),
]
NATURAL = [
    (items({"properties": {"price": {"multipleOf": 0.01}}}), {"a": [{"price": 19.99}] * 1000}),
    (items({"enum": ["EUR", "USD", "GBP"]}), {"a": ["EUR"] * 40_000}),
    (items({"anyOf": [{"type": "string"}, {"type": "integer"}]}), {"a": [1] * 100_000}),
    ({"properties": {"sku": {"enum": [f"a{n}" for n in range(20_000)]}}}, {"sku": "a19999"}),
    (
        {"properties": {"mail": {"pattern": r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}\.[A-Za-z]{2,24}$"}}},
        {"mail": "a" * 300},
    ),
    ({"properties": {"url": {"pattern": r"^https?://[^\s/$.?#].[^\s]*$"}}}, {"url": "https://" + "a" * 100_000}),
    ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, {"a": [[n] for n in range(10_000)]}),
    ({"properties": {f"k{n}": {"type": "integer"} for n in range(500)}}, {f"k{n}": 1 for n in range(500)}),
]


@pytest.mark.parametrize(("schema", "properties"), HOSTILE)
def test_an_event_that_may_take_long_is_not_validated_and_follows_the_plan(schema: dict[str, Any], properties: Any) -> None:
    for action in ("report", "drop", "dead_letter"):
        plan = plan_of(events={"Order": {"schema": schema}}, on_violation=action, unplanned_properties="allow")
        verdict = asked(plan, properties)
        assert verdict is not None
        assert [each.rule for each in verdict.violations] == ["costly"]
        assert verdict.action == action


@pytest.mark.parametrize(("schema", "properties"), NATURAL)
def test_events_as_people_send_them_are_validated(schema: dict[str, Any], properties: Any) -> None:
    verdict = asked(plan_of(events={"Order": {"schema": schema}}), properties)
    assert verdict is None or "costly" not in {each.rule for each in verdict.violations}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (items({"enum": [{"a": n} for n in range(10_000)]}), "one value of an array would be compared with up to"),
        ({"properties": {"a": {"anyOf": [{"type": "string"}] * 1001}}}, "1001 branches of `anyOf` and `oneOf`; at most 1000"),
    ],
)
def test_a_schema_that_takes_long_for_one_value_is_refused(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan_of(events={"Order": {"schema": schema}})
    assert told in refused.value.problems[0].message


def test_faults_of_a_small_event_are_not_all_asked_for_where_each_makes_an_error_of_every_branch() -> None:
    wide = weigh(items({"anyOf": [{"type": "string"}] * 500}))
    assert not wide.errors
    assert weigh(items({"anyOf": [{"type": "string"}] * 3})).errors
    assert wide.rounds(wide.of({"a": [1] * 90}, 200), 200, 10) * 500 * ERROR <= 4 * allowed(200)


def test_only_events_beyond_a_size_are_weighed_themselves() -> None:
    plain = weigh({"properties": {"total": {"type": "number"}, "items": {"type": "array", "items": {"type": "string"}}}})
    assert plain.cheap_bytes == float("inf")
    plan = plan_of(events={"Order": {"schema": items({"multipleOf": 5})}})
    many = {"a": [1e300] * 20_000}
    assert judge(plan, Head("m", "track", "Order"), {"properties": many}, len(msgspec.json.encode(many))) is not None
    assert plan.events["Order"].weight.of(many, 10**6) <= 2 * allowed(10**6), "the weighing ends where it is too much"
    assert allowed(0) == FREE


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        (r"\S", 1, 2),
        ("^[a-z[:digit:]\\]]+$", 1, 5),
        (r"^(?:\d{1,3}\.){3}\d{1,3}$", 50, 150),
        ("(?:.{0,30}a){30}", 4000, 6000),
        ("[ab]*a[ab]{200}", 100, 120),
        ("(?P<name>a{2}|b)c{x}", 1, 10),
        ("((((", 1, 5),
        (")]}*", 1, 5),
    ],
)
def test_the_places_of_an_expression_are_counted(pattern: str, least: float, most: float) -> None:
    assert least <= character_units(pattern) <= most
