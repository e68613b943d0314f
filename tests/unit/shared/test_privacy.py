"""Privacy rules: which fields they find, and what becomes of them."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

import pytest

from shared.events import exact
from shared.project.functions import PrivacyRule
from shared.rules.privacy import NONCE_BYTES, compile_rules, decrypted


def applied(event: dict[str, Any], *rules: PrivacyRule) -> dict[str, Any]:
    apply = compile_rules(rules, lambda: os.urandom(NONCE_BYTES))
    assert apply is not None
    apply(event)
    return event


def drop(field: str | list[str]) -> PrivacyRule:
    return PrivacyRule(field=field, do="drop")


@pytest.mark.parametrize(
    ("field", "left"),
    [
        ("a", {"b": {"a": 1, "c": [{"a": 2}, {"d": {"a": 3}}]}}),
        ("b.a", {"a": 0, "b": {"c": [{"a": 2}, {"d": {"a": 3}}]}}),
        ("b.c.a", {"a": 0, "b": {"a": 1, "c": [{}, {"d": {"a": 3}}]}}),
        ("*.a", {"a": 0, "b": {"c": [{"a": 2}, {"d": {"a": 3}}]}}),
        ("**.a", {"b": {"c": [{}, {"d": {}}]}}),
        ("b.**.a", {"a": 0, "b": {"c": [{}, {"d": {}}]}}),
        ("b.*", {"a": 0, "b": {}}),
        ("missing.a", {"a": 0, "b": {"a": 1, "c": [{"a": 2}, {"d": {"a": 3}}]}}),
    ],
)
def test_a_path_finds_its_fields(field: str, left: dict[str, Any]) -> None:
    assert applied({"a": 0, "b": {"a": 1, "c": [{"a": 2}, {"d": {"a": 3}}]}}, drop(field)) == left


def test_a_rule_that_finds_nothing_is_counted() -> None:
    apply = compile_rules([drop("x"), drop("a"), drop("y.z")], bytes)
    assert apply is not None
    assert apply({"a": 1}) == 2
    assert compile_rules([], bytes) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a@b.example", b"a@b.example"),
        (5, b"5"),
        (True, b"true"),
        ({"b": 1, "a": 2}, b'{"a":2,"b":1}'),
        ([1, "x"], b'[1,"x"]'),
        ("é", "é".encode()),
    ],
)
def test_hash_is_of_the_values_text_so_that_it_joins(value: object, text: bytes) -> None:
    made = applied({"v": value}, PrivacyRule(field="v", do="hash", secret="salt"))["v"]
    assert made == hmac.new(b"salt", text, hashlib.sha256).hexdigest()


def test_encrypted_values_come_back_with_their_key_only() -> None:
    rule = PrivacyRule(field="v", do="encrypt", key="secret")
    first, second = (applied({"v": "+49 171"}, rule)["v"] for _ in range(2))
    assert first != second
    assert decrypted(first, "secret") == b"+49 171"
    with pytest.raises(ValueError, match="not encrypted with this key"):
        decrypted(first, "other")


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2::3", "2001:db8:1::"),
        ("not one", None),
        (None, None),
        (5.5, None),
        ({}, None),
    ],
)
def test_truncated_addresses(value: object, left: str | None) -> None:
    assert applied({"ip": value}, PrivacyRule(field="ip", do="truncate")) == {"ip": left}


def test_rules_run_in_order() -> None:
    rename = PrivacyRule(field="a", do="rename", to="b")
    assert applied({"a": 1}, rename, drop("b")) == {}
    assert applied({"a": 1}, drop("b"), rename) == {"b": 1}


@pytest.mark.parametrize("value", [None])
def test_nothing_stays_nothing(value: object) -> None:
    for rule in (PrivacyRule(field="v", do="hash", secret="s"), PrivacyRule(field="v", do="encrypt", key="k")):
        assert applied({"v": value}, rule) == {"v": None}


@pytest.mark.parametrize(
    ("path", "event", "left"),
    [
        ("**.b.**.a", {"b": {"b": {"a": 1}, "a": 2}}, {"b": {"b": {}}}),
        ("**.**.a", {"x": {"y": {"a": 1}}, "a": 2}, {"x": {"y": {}}}),
        ("**.a", {"a": {"a": 1, "b": {"a": 2}}}, {}),
        ("**.a", {"x": [[{"a": 1}], {"y": [{"a": 2, "c": 3}]}]}, {"x": [[{}], {"y": [{"c": 3}]}]}),
        ("*.*", {"a": {"x": 1}, "b": 2, "c": [{"y": 1}]}, {"a": {}, "b": 2, "c": [{}]}),
        (["a.b", "c"], {"a.b": {"c": 1}, "a": {"b": {"c": 2}}}, {"a.b": {}, "a": {"b": {"c": 2}}}),
        (["**", "a.b"], {"x": {"a.b": 1}}, {"x": {}}),
        ("*", {"messageId": "m", "type": "track", "a": 1}, {"messageId": "m", "type": "track"}),
        ("**.type", {"type": "track", "a": {"type": 1}}, {"type": "track", "a": {}}),
    ],
)
def test_a_field_that_a_path_reaches_in_many_ways_is_changed_once(
    path: str | list[str], event: dict[str, Any], left: dict[str, Any]
) -> None:
    assert applied(event, drop(path)) == left


def test_hash_of_a_field_that_a_path_reaches_in_many_ways_is_of_its_value() -> None:
    once = applied({"b": {"b": {"a": "x"}}}, PrivacyRule(field="b.b.a", do="hash", secret="s"))
    assert applied({"b": {"b": {"a": "x"}}}, PrivacyRule(field="**.b.**.a", do="hash", secret="s")) == once


def test_a_deep_event_under_many_wildcards_is_gone_through_once_for_each() -> None:
    event: dict[str, Any] = {"secret": 1}
    for _ in range(3000):
        event = {"a": event}
    compiled = compile_rules([drop("**.a.**.a.**.a.**.secret")], bytes)
    assert compiled is not None
    assert compiled(event) == 0
    while "a" in event:
        event = event["a"]
    assert event == {}


def test_rename_replaces_what_has_the_name_and_no_name_of_the_event() -> None:
    assert applied({"a": 1, "b": 2}, PrivacyRule(field="a", do="rename", to="b")) == {"b": 1}
    event = {"type": "track", "x": {"a": 1, "type": 2}, "a": "spam"}
    assert applied(event, PrivacyRule(field="**.a", do="rename", to="type")) == {"type": "track", "x": {"type": 1}, "a": "spam"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"v":12345678901234567890123}', b"12345678901234567890123"),
        (b'{"v":0.1000000000000000055511151231257827}', b"0.1000000000000000055511151231257827"),
        (b'{"v":1.50}', b"1.5"),
        (b'{"v":{"b":null,"a":[1e2]}}', b'{"a":[100.0],"b":null}'),
    ],
)
def test_hash_of_a_number_is_of_its_digits_whatever_else_is_in_its_event(body: bytes, text: bytes) -> None:
    rule = PrivacyRule(field="v", do="hash", secret="salt")
    expected = hmac.new(b"salt", text, hashlib.sha256).hexdigest()
    assert applied(exact.decode(body), rule)["v"] == expected
    beside = b'{"w":98765432109876543.25,' + body[1:]
    assert applied(exact.decode(beside), rule)["v"] == expected


def test_an_encrypted_value_says_which_key_it_needs_after_a_rotation() -> None:
    old, new = (PrivacyRule(field="v", do="encrypt", key=key) for key in ("old", "new"))
    values = [applied({"v": {"b": 1, "a": None}}, rule)["v"] for rule in (old, new)]
    assert len({value.split(":")[1] for value in values}) == 2
    assert [decrypted(value, key) for value, key in zip(values, ("old", "new"), strict=True)] == [b'{"a":null,"b":1}'] * 2
