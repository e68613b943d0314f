"""Privacy rules: which fields they find, and what becomes of them."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

import pytest

from functions_runtime.rules.privacy import NONCE_BYTES, compile_rules, decrypted
from shared.project.functions import PrivacyRule


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
