"""Forgotten ids: exact, without the ids, and no cost where there are none."""

from __future__ import annotations

import json
from typing import NoReturn

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ingest.contract import Admission, Parsed, Reject
from ingest.intake.forgotten import leave_out
from shared.events.frame import Head
from shared.events.outcome import DeadReason
from shared.forget.ids import SALT_BYTES, Forgotten, digest, listed, names_in
from shared.project.model import SiteLimits

SALT = bytes(range(SALT_BYTES))


def forgetting(*names: str, salt: bytes = SALT) -> Forgotten:
    forgotten = Forgotten()
    for name in names:
        forgotten.put(digest(name, salt), listed(name, salt, at=0.0, request="r"))
    return forgotten


def unasked() -> NoReturn:
    raise AssertionError("no body is needed")


@given(st.sets(st.text(min_size=1), max_size=30), st.sets(st.text(min_size=1), max_size=30))
def test_an_id_is_held_if_and_only_if_it_is_on_the_list(names: set[str], others: set[str]) -> None:
    forgotten = forgetting(*names)
    assert bool(forgotten) == bool(names)
    assert {name for name in names | others if forgotten.holds(name)} == names


def test_a_checksum_alone_forgets_no_neighbour() -> None:
    forgotten = forgetting("jane")
    check = listed("jane", SALT, at=0.0, request="").check
    same = [name for number in range(300_000) if listed(name := f"u{number}", SALT, at=0.0, request="").check == check]
    assert same
    assert not any(map(forgotten.holds, same))


def test_the_entry_of_an_id_does_not_hold_it() -> None:
    for name in ("jane@example.com", "4711"):
        stored = digest(name, SALT).encode() + msgspec.json.encode(listed(name, SALT, at=1.0, request="r"))
        assert name.encode() not in stored.replace(SALT.hex().encode(), b"")


def test_an_id_taken_off_the_list_is_held_no_more_and_its_neighbours_are() -> None:
    forgotten = forgetting("jane", "joe")
    forgotten.put(digest("jane", SALT), None)
    assert (forgotten.holds("jane"), forgotten.holds("joe")) == (False, True)
    forgotten.put(digest("joe", SALT), None)
    assert not forgotten


def test_lists_with_several_salts_are_read() -> None:
    forgotten = forgetting("jane")
    other = bytes(SALT_BYTES)
    forgotten.put(digest("joe", other), listed("joe", other, at=0.0, request=""))
    assert (forgotten.holds("jane"), forgotten.holds("joe"), forgotten.holds("jim")) == (True, True, False)


def test_events_are_found_by_every_id_that_they_have() -> None:
    forgotten = forgetting("jane", "device-1", "acme")
    heads = [
        Head("m0", "track", "Order", "jane"),
        Head("m1", "track", "Order", "joe", anonymous_id="device-1"),
        Head("m2", "track", "Order", "joe", anonymous_id="device-2"),
        Head("m3", "alias", None, "joe"),
        Head("m4", "group", None, "joe"),
        Head("m5", "group", None, "joe"),
    ]
    bodies = [b"{}", b"{}", b'{"previousId":"jane"}', b'{"previousId":"jane"}', b'{"groupId":"acme"}', b'{"groupId":"umbrella"}']
    assert forgotten.find(heads, lambda: bodies) == [0, 1, 3, 4]
    assert forgotten.find(heads[:3], unasked) == [0, 1]


def test_ids_in_broken_bytes_are_found() -> None:
    for text in ('{"userId":"j\\u0061ne",', '{"user_id" : "jane"', '[{"a":{"anonymousId":"jane"}}', '{"groupId":"jane"}{{'):
        assert forgetting("jane").is_in(text.encode()), text
    assert names_in(b'{"userId":4711}') == {"4711"}
    assert not forgetting("jane").is_in(b'{"name":"jane"}')


def test_the_edge_leaves_out_events_and_rejects_of_forgotten_people_and_keeps_the_others() -> None:
    admission = Admission(site="shop", key="k", kind="browser", limits=SiteLimits(), require_id=True)
    people = ["jane", "joe", "jane", "jim"]
    parsed = Parsed(
        admission,
        heads=[Head(f"m{number}", "track", "Order", name) for number, name in enumerate(people)],
        bodies=[json.dumps({"userId": name}).encode() for name in people],
        rejects=[
            Reject(4, DeadReason.MALFORMED_JSON, "broken", b'{"userId":"jane",'),
            Reject(5, DeadReason.MALFORMED_JSON, "broken", b'{"userId":"joe",'),
        ],
    )
    assert leave_out(parsed, forgetting("jane")) == 3
    assert [head.message_id for head in parsed.heads] == ["m1", "m3"]
    assert [json.loads(bytes(body))["userId"] for body in parsed.bodies] == ["joe", "jim"]
    assert [reject.position for reject in parsed.rejects] == [5]
