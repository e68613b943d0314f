"""`where` against a naive evaluator of the same sentences, and its errors."""

from __future__ import annotations

import fnmatch
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.rules.where import compile_where
from shared.errors import ConfigError
from shared.events.event import facts_of, materialise
from shared.events.frame import Head, RequestContext
from shared.reading.document import parse_yaml
from shared.rules.operators import EXAMPLES, OPERATORS

REQUEST = RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="k", ip="10.0.0.1", geo={"country": "NO"})

# -- a naive evaluator: walks the conditions for every event, from the event as JSON


def dig(event: Any, keys: list[str]) -> Any:
    for key in keys:
        if isinstance(event, dict):
            event = event.get(key)
        elif isinstance(event, list) and key.isdigit() and int(key) < len(event):
            event = event[int(key)]
        else:
            return None
    return event


def moment(value: Any) -> datetime | None:
    if isinstance(value, str) and len(value) >= 19 and "T" in value:
        parsed = datetime.fromisoformat(value)
        return parsed - (parsed.utcoffset() or timedelta()) if parsed.tzinfo else parsed
    return None


def naked(value: Any) -> Any:
    at = moment(value)
    return at.replace(tzinfo=None) if at else value


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(value: Any, operand: Any) -> bool:
    if isinstance(value, bool) or isinstance(operand, bool):
        return value is operand
    if number(value) and number(operand):
        return bool(value == operand)
    return isinstance(value, str) and isinstance(operand, str) and (value == operand or naked(value) == naked(operand))


def compare(value: Any, operand: Any) -> int | None:
    if number(value) and number(operand):
        return int(value > operand) - int(value < operand)
    if isinstance(value, str) and isinstance(operand, str):
        if moment(value) and moment(operand):
            value, operand = naked(value), naked(operand)
        return int(value > operand) - int(value < operand)
    return None


def holds(name: str, operand: Any, value: Any) -> bool:
    order = compare(value, operand) if name in ("gt", "gte", "lt", "lte") else None
    match name:
        case "eq":
            return value is not None and same(value, operand)
        case "ne":
            return value is None or not same(value, operand)
        case "in":
            return value is not None and any(same(value, item) for item in operand)
        case "not_in":
            return value is None or not any(same(value, item) for item in operand)
        case "gt":
            return order is not None and order > 0
        case "gte":
            return order is not None and order >= 0
        case "lt":
            return order is not None and order < 0
        case "lte":
            return order is not None and order <= 0
        case "contains":
            if isinstance(value, str):
                return isinstance(operand, str) and operand in value
            return isinstance(value, list) and any(same(item, operand) for item in value)
        case "starts_with":
            return isinstance(value, str) and value[: len(operand)] == operand
        case "ends_with":
            return isinstance(value, str) and (not operand or value[-len(operand) :] == operand)
        case "matches":
            return isinstance(value, str) and fnmatch.fnmatchcase(value, operand)
        case "exists":
            return bool((value is not None) is operand)
        case "type":
            kinds = {str: "string", bool: "boolean", int: "number", float: "number", dict: "object", list: "array"}
            return bool(kinds.get(type(value)) == operand)
    raise AssertionError(name)


def judge(where: Any, event: dict[str, Any]) -> bool:
    if isinstance(where, list):
        return all(judge(part, event) for part in where)
    if "all" in where:
        return all(judge(part, event) for part in where["all"])
    if "any" in where:
        return any(judge(part, event) for part in where["any"])
    if "not" in where:
        return not judge(where["not"], event)
    value = dig(event, where["field"].split("."))
    return all(holds(name, operand, value) for name, operand in where.items() if name != "field")


# -- generated conditions and events over few words, so that they meet

words = st.sampled_from(
    ["", "a", "ab", "b", "track", "page", "*", "2024-01-02T03:04:05Z", "2024-01-02T04:04:05+01:00", "2024-05-01T00:00:00"]
)
scalars = words | st.integers(-2, 2) | st.sampled_from([0.5, 1.0, 2**70, -0.0]) | st.booleans()
fields = st.sampled_from(
    ["type", "event", "userId", "anonymousId", "properties.x", "properties.y.z", "properties.l.0", "none", "properties.l"]
)
conditions = st.one_of(
    st.fixed_dictionaries({"field": fields, "eq": scalars}),
    st.fixed_dictionaries({"field": fields, "ne": scalars}),
    st.fixed_dictionaries({"field": fields, "in": st.lists(scalars, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"field": fields, "not_in": st.lists(scalars, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"field": fields, "gt": words | st.integers(-2, 2) | st.floats(-2, 2)}),
    st.fixed_dictionaries({"field": fields, "gte": words | st.integers(-2, 2), "lt": words | st.integers(-2, 2)}),
    st.fixed_dictionaries({"field": fields, "lte": words | st.integers(-2, 2)}),
    st.fixed_dictionaries({"field": fields, "contains": scalars}),
    st.fixed_dictionaries({"field": fields, "starts_with": words, "ends_with": words}),
    st.fixed_dictionaries({"field": fields, "matches": st.text(alphabet="ab*?[]-!t", max_size=6)}),
    st.fixed_dictionaries({"field": fields, "exists": st.booleans()}),
    st.fixed_dictionaries({"field": fields, "type": st.sampled_from(["string", "number", "boolean", "object", "array"])}),
)
wheres = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)
values = st.none() | scalars
bodies = st.fixed_dictionaries(
    {},
    optional={
        "event": words,
        "userId": words,
        "anonymousId": words,
        "properties": st.none()
        | words
        | st.fixed_dictionaries(
            {},
            optional={"x": values, "y": values | st.fixed_dictionaries({"z": values}), "l": st.lists(values, max_size=3)},
        ),
    },
)


@settings(max_examples=250)
@given(where=wheres, body=bodies, kind=st.sampled_from(["track", "page"]))
def test_a_compiled_predicate_says_what_the_sentences_say(where: Any, body: dict[str, Any], kind: str) -> None:
    predicate = compile_where(where)
    assert predicate is not None
    head = Head("m1", kind, body.get("event"), body.get("userId"), body.get("anonymousId"))
    encoded, facts = msgspec.json.encode(body), facts_of(REQUEST)
    event = materialise(encoded, head, facts)
    expected = judge(where, msgspec.json.decode(msgspec.json.encode(event)))
    assert predicate.on_event(head, event) is expected
    if predicate.view is not None:
        assert predicate.on_event(head, predicate.view.read(encoded, head, facts)) is expected
    verdict = predicate.on_head(head)
    assert verdict in (expected, None)
    if not predicate.needs_body:
        assert verdict is expected


HEAD = Head("m1", "track", "Order Completed", "u1", None)


def passes(where: Any, event: dict[str, Any]) -> bool:
    predicate = compile_where(where)
    assert predicate is not None
    body = msgspec.json.encode(event)
    return predicate.on_event(HEAD, materialise(body, HEAD, facts_of(REQUEST)))


def test_conditions_on_the_head_need_no_body_and_decide_mixed_ones_where_they_can() -> None:
    head_only = compile_where([{"field": "type", "in": ["track"]}, {"not": {"field": "userId", "exists": False}}])
    assert head_only is not None
    assert not head_only.needs_body
    assert head_only.head_fields == {"type", "userId"}
    assert head_only.on_head(HEAD) is True
    mixed = compile_where([{"field": "properties.total", "gt": 0}, {"field": "type", "eq": "page"}])
    assert mixed is not None
    assert mixed.needs_body
    assert mixed.on_head(HEAD) is False
    assert mixed.on_head(Head("m", "page")) is None
    either = compile_where({"any": [{"field": "properties.total", "gt": 0}, {"field": "type", "eq": "track"}]})
    assert either is not None
    assert either.on_head(HEAD) is True


def test_no_conditions_let_everything_pass() -> None:
    assert compile_where(None) is None
    assert compile_where([]) is None


def test_what_the_server_knows_can_be_asked_for_and_its_times_are_text() -> None:
    assert passes({"field": "context.geo.country", "eq": "NO"}, {})
    assert passes({"field": "receivedAt", "eq": "2023-11-14T22:13:20Z", "starts_with": "2023-11", "type": "string"}, {})
    assert passes({"field": "timestamp", "gte": "2023-11-14", "lt": "2023-11-14T23:13:21+00:00"}, {})


def test_a_key_that_holds_a_dot_is_named_by_a_list() -> None:
    assert passes({"field": ["properties", "a.b"], "eq": 1}, {"properties": {"a.b": 1}})
    assert not passes({"field": "properties.a.b", "eq": 1}, {"properties": {"a.b": 1}})


def test_numbers_and_truth_values_and_text_are_never_equal() -> None:
    for operand, value in ((1, True), (True, 1), (1, "1"), ("1", 1), (0, False), ("true", True)):
        assert not passes({"field": "properties.x", "eq": operand}, {"properties": {"x": value}})
        assert not passes({"field": "properties.x", "in": [operand]}, {"properties": {"x": value}})
        assert passes({"field": "properties.x", "ne": operand}, {"properties": {"x": value}})


def test_an_expression_is_matched_anywhere_in_linear_time() -> None:
    where = {"field": "properties.url", "regex": "^https?://[^/]*\\.example\\.com/"}
    assert passes(where, {"properties": {"url": "https://shop.example.com/x"}})
    assert not passes(where, {"properties": {"url": "https://example.com.evil/"}})
    assert not passes(where, {"properties": {"url": 5}})
    assert not passes({"field": "properties.url", "regex": "(a+)+$"}, {"properties": {"url": "a" * 100_000 + "b"}})


def test_half_a_surrogate_pair_does_not_match_an_expression_and_raises_nothing() -> None:
    predicate = compile_where({"field": "properties.x", "regex": "."})
    assert predicate is not None
    assert predicate.on_event(HEAD, {"properties": {"x": "\ud800"}}) is False


def test_a_pattern_of_many_stars_answers() -> None:
    assert not passes({"field": "properties.x", "matches": "*a" * 200 + "b"}, {"properties": {"x": "a" * 20_000}})


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("type", "w: expected a condition or a list of conditions, got a text; for example `{field: type, in: [track, page]}`"),
        ({}, "w.field: expected a path such as properties.total, got nothing"),
        ({"field": "type"}, "w: expected an operator beside `field`"),
        ({"field": "a..b", "eq": 1}, "w.field: expected a path such as properties.total, got 'a..b'"),
        ({"field": "a", "equals": 1}, "w.equals: unknown operator; known: eq, ne"),
        (
            [{"field": "a", "eq": 1}, {"field": "a", "gt": True}],
            "w[1].gt: expected a number or a text, got true or false; for example `gt: 100`",
        ),
        ({"field": "a", "gt": float("nan")}, "w.gt: expected a finite number"),
        ({"field": "a", "eq": None}, "w.eq: null equals nothing; write exists: false"),
        ({"field": "a", "eq": {"b": 1}}, "w.eq: expected a text, a number, true or false, got a mapping"),
        ({"field": "a", "in": []}, "w.in: expected a list of at least one value"),
        ({"field": "a", "in": "abc"}, "w.in: expected a list of at least one value, got a text; for example `in: [track, page]`"),
        ({"field": "a", "starts_with": 1}, "w.starts_with: expected a text, got a whole number"),
        ({"field": "a", "regex": "("}, "w.regex: not an RE2 expression: missing )"),
        ({"field": "a", "matches": "a" * 1001}, "w.matches: expected a pattern of at most 1000 characters"),
        ({"field": "a", "exists": "yes"}, "w.exists: expected true or false, got a text; for example `exists: true`"),
        ({"field": "a", "type": "text"}, "w.type: expected one of string, number"),
        (
            {"all": {"field": "a", "eq": 1}},
            "w.all: expected a list of conditions, got a mapping; for example `all: [{field: type, in: [track, page]}]`",
        ),
        ({"any": []}, "w.any: expected at least one condition"),
        ({"not": {"all": [{"any": [{"field": "a", "eq": []}]}]}}, "w.not.all[0].any[0].eq: expected a text, a number"),
        ({"any": [{"field": "a", "eq": 1}], "field": "b"}, "w: `any` stands alone in its condition, but there is also field"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_place(where: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_where(where, "w")
    assert str(caught.value).startswith(problem)


def test_a_misspelt_field_is_one_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        compile_where({"feild": "type", "eq": 1}, "w")
    assert [str(problem) for problem in caught.value.problems] == ["w.feild: unknown key; did you mean `field`?"]


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        compile_where([{"field": "a", "gt": []}, {"field": 1, "eq": 1}, {"not": 3}], "connections.x.where")
    assert [problem.path for problem in caught.value.problems] == [
        "connections.x.where[0].gt",
        "connections.x.where[1].field",
        "connections.x.where[2].not",
    ]


def test_endless_nesting_is_refused() -> None:
    where: Any = {"field": "a", "eq": 1}
    for _ in range(1000):
        where = {"not": where}
    with pytest.raises(ConfigError, match="nest deeper than 32"):
        compile_where(where)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_example_of_an_operator_is_right(name: str) -> None:
    condition = parse_yaml(f"{{field: properties.a, {EXAMPLES[name]}}}", "example")
    assert list(condition) == ["field", name]
    assert compile_where(condition) is not None
