"""What functions and identity remember of a person."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from functions_runtime.host.store import names_person
from functions_runtime.rules.visitor import Kept, Stay, Visitor, decode_visitor, encode_visitor, open_visitor, without_people
from shared.events.frame import Head, RequestContext

NAMES = frozenset({"jane", "u.17@example.com"})


@pytest.mark.parametrize(
    ("key", "value", "hers"),
    [
        ("jane", 1, True),
        ("seen:jane", 1, True),
        ("u.17@example.com/last", 1, True),
        ("seen:janet", 1, False),
        ("jane-doe", 1, False),
        ("n", {"who": ["jane"]}, True),
        ("n", {"who": "janet"}, False),
        ("n", "not jane", False),
    ],
)
def test_a_value_is_of_a_person_by_its_key_or_a_text(key: str, value: Any, hers: bool) -> None:
    assert names_person(msgspec.json.encode([key, 0, value]), NAMES) is hers


def test_a_value_that_cannot_be_read_is_left_alone() -> None:
    assert not names_person(b"jane", NAMES)


def test_a_visitor_forgets_one_user_and_keeps_the_others() -> None:
    request = RequestContext(1, "segment", "k")
    hers, others = (Kept(1, Head("m", "page", None, user), request, b"{}") for user in ("jane", None))
    visitor = Visitor("device", [Stay(1, 2, "jane"), Stay(3, 4, "joe")], [hers, others])
    left = without_people(visitor, NAMES)
    assert left == Visitor("device", [Stay(3, 4, "joe")], [others])
    assert without_people(left, NAMES) == left
    assert without_people(Visitor("jane", [Stay(3, 4, "joe")], [others]), NAMES) is None
    assert without_people(Visitor("device", [Stay(1, 2, "jane")], []), NAMES) is None
    assert open_visitor(encode_visitor(visitor)) == visitor
    assert decode_visitor(encode_visitor(visitor), "other") is None
