"""Which ids a request to forget holds, and how a receipt counts."""

from __future__ import annotations

import hmac
from typing import Any

import msgspec

from penstock.control.forgetting import with_derived
from shared.forget.person import HIDDEN, Person, hide
from shared.forget.requests import Place
from shared.project.model import Project


def project(*rules: dict[str, Any]) -> Project:
    document = {
        "sites": {"shop": {}},
        "destinations": {"wh": {"type": "local", "path": "/tmp/x"}},
        "connections": {"c": {"site": "shop", "destination": "wh", "privacy": list(rules)}},
    }
    return msgspec.convert(document, Project)


def test_an_id_that_a_privacy_rule_hashes_is_looked_for_by_its_hash_too() -> None:
    hashed = hmac.digest(b"pepper", b"jane", "sha256").hex()
    assert with_derived(project({"field": "userId", "do": "hash", "secret": "pepper"}), ["jane"]) == ["jane", hashed]
    assert with_derived(project({"field": "*", "do": "hash", "secret": "pepper"}), ["jane"]) == ["jane", hashed]


def test_other_rules_make_no_ids() -> None:
    rules = [
        {"field": "userId", "do": "drop"},
        {"field": "anonymousId", "do": "encrypt", "key": "k" * 32},
        {"field": "traits.email", "do": "hash", "secret": "pepper"},
    ]
    assert with_derived(project(*rules), ["jane"]) == ["jane"]
    assert with_derived(project(), ["jane"]) == ["jane"]


def test_rows_that_are_gone_count_as_removed_though_their_worker_died_before_it_said_so() -> None:
    place = Place(where="table")
    place.look(20)
    place.look(0)  # by its successor
    assert (place.found, place.removed, place.left) == (20, 20, 0)
    place.look(3)  # a load that was under way
    assert (place.found, place.removed, place.left) == (23, 20, 3)
    place.look(0)
    assert (place.found, place.removed, place.left) == (23, 23, 0)


def test_a_look_removes_nothing_also_if_rows_go_meanwhile() -> None:
    place = Place(where="table")
    place.look(20, verify=True)
    place.look(18, verify=True)
    assert (place.found, place.removed, place.left) == (18, 0, 18)


def test_receipts_and_logs_repeat_no_id_of_an_error() -> None:
    told = hide("Key (user_id)=(jane@example.com) of u1 in u17, param $1='u1'", ["jane@example.com", "u1"])
    assert told == f"Key (user_id)=({HIDDEN}) of {HIDDEN} in u17, param $1='{HIDDEN}'"


def test_a_line_names_a_person_by_a_whole_word() -> None:
    person = Person(["u.17", "o'hara", "jané"])
    for text in ("saw u.17", "it was u.17.", "u.17. And", '{"who":"u.17"}', "o'hara!", '"jané"'):
        assert person.is_named(text.encode()), text
    for text in ("u.170", "xu.17", "a.u.17", "u.17@example.com", "u", "ohara", "jan"):
        assert not person.is_named(text.encode()), text
