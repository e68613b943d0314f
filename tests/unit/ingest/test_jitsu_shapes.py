"""Shapes of classic events: what they give is what the rewriting of one event gives, byte for byte, within bounds of memory."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.contract import Parsed
from ingest.judge.forms.rewrite import Members
from ingest.judge.mend import Fault
from ingest.protocols import jitsu_classic
from ingest.protocols.jitsu_classic import shapes
from ingest.protocols.jitsu_classic.events import OF_CONTEXT, OF_SENDER, to_event
from ingest.protocols.jitsu_classic.shapes import SIGHTINGS, Shapes
from tests.unit.ingest.desks import CountingDesk, post, project

ENOUGH = 2 * SIGHTINGS
"""After so many events alike the shape is learned: first its members, then their values."""
NAMES = (
    *sorted(OF_CONTEXT),
    *OF_SENDER,
    "total",
    "type",
    "event",
    "context",
    "properties",
    "traits",
    "é",
    "",
    'a"b',
    "~slot1",
    ":912345",
)
USER = ("id", "internal_id", "anonymous_id", "hashed_anonymous_id", "email", "plan", "~slot0")
TEXTS = (
    '"x"', '"identify"', '"pageview"', '"order"', '"\\u0069dentify"', '""', '" "', "null", "5", "-0.50", "912345", "1e999", "true", "[]",
    "{}", '{"a":1}', '{"a": null}', '{"campaign":"c","source":"s"}', '{"ga":"1","campaign":{"x":912345}}', '"1920x1080"', '"0x0"', '"01x5"',
    '"~slot1"', '{"~slot1":0}', '"\\u007eslot1"', '[{"a":"b\\"c"}]', '"ä"', '"longer than null"',
)  # fmt: skip

_encode = msgspec.json.encode
_members = msgspec.json.Decoder(Members).decode
_values = st.sampled_from(TEXTS)
_users = st.dictionaries(st.sampled_from(USER), st.just('"some text"') | _values, max_size=4).map(
    lambda user: "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in user.items()) + "}"
)


@st.composite
def events_alike(draw: st.DrawFn) -> list[bytes]:
    """Events with the same members in the same order: one often, then others."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=8))
    if draw(st.integers(0, 9)):
        names = ["event_type", *(name for name in names if name not in ("event_type", "eventn_ctx"))]

    common = {"event_type": st.sampled_from(['"order"', '"pageview"']), "user": _users, "src": st.just('"jitsu"')}
    odd = draw(st.integers(0, 4)) == 0

    def event() -> bytes:
        values = [draw(_values if odd or name not in common else common[name]) for name in names]
        return ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in zip(names, values, strict=True)) + "}").encode()

    often = event()
    return [*[often] * ENOUGH, *(event() for _ in range(draw(st.integers(0, 6)))), often]


def rewritten(event: bytes) -> bytes | None:
    """Returns what the rewriting of one event gives, None if that is a fault."""
    found = to_event(_members(event))
    return None if isinstance(found, Fault) else _encode(found)


@given(events_alike())
@example([b'{"event_type":"a","user":{"id":"u"},"total":1}'] * ENOUGH + [b'{"event_type":"a","user":{"id":""},"total":null}'])
@example(
    [b'{"event_type":"a","vp_size":"800x600","n":900001}'] * ENOUGH + [b'{"event_type":"a","vp_size":"912345x900003","n":{}}']
)
@example([b'{"event_type":"a","api_key":"k","src":"~slot1"}'] * ENOUGH + [b'{"event_type":"a","api_key":"other","src":"~slot1"}'])
@example([b'{"event_type":"a","utm":912345,"n":1}'] * ENOUGH)
def test_a_shape_gives_the_bytes_of_the_rewriting_or_nothing(events: list[bytes]) -> None:
    known = Shapes(to_event)
    for event in events:
        assert known.rewritten(_members(event)) in (None, rewritten(event))


SDK: dict[str, Any] = {
    "event_id": "e-1", "user": {"anonymous_id": "a1", "email": "e@x"}, "ids": {"ga": "1"}, "utc_time": "2026-09-01T12:00:00.000000Z",
    "user_agent": "M", "url": "https://a/", "screen_resolution": "1920x1080", "vp_size": "800x600", "utm": {"campaign": "c"},
    "click_id": {}, "src": "jitsu", "event_type": "order", "total": 9.5,
}  # fmt: skip
CHANGES: tuple[dict[str, Any], ...] = (
    {"event_id": "e-22"}, {"user": {"anonymous_id": "b", "email": "f"}}, {"ids": {"ga": "2", "fbp": [1]}}, {"vp_size": "0x1"}, {"total": None},
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_events_of_an_sdk_are_rewritten_by_their_shape(change: dict[str, Any]) -> None:
    known = Shapes(to_event)
    for _ in range(ENOUGH):
        known.rewritten(_members(_encode(SDK)))
    event = _encode({**SDK, **change})
    assert known.rewritten(_members(event)) == rewritten(event) is not None


@pytest.mark.parametrize(("route", "said"), [("/api/v1/event", SDK), ("/api/v1/s2s/event", {**SDK, "src": "", "utm": {}})])
def test_batches_are_the_same_before_and_after_their_shape_is_known(route: str, said: dict[str, Any]) -> None:
    said = {name: value for name, value in said.items() if value != ""} | {f"only on {route}": 1}
    events = [{**said, "event_id": f"e-{number}", "total": number} for number in range(5)]
    odd: list[Any] = [
        {"user": {}},
        {**said, "user": {"id": [7]}},
        {**said, "user": {}, "event_id": None},
        5,
        {**said, "event_type": ""},
    ]
    body = _encode([*events, *odd, *events])

    def judged() -> Parsed:
        found = jitsu_classic.parse(post(route, body, query={"token": "web"}), CountingDesk(project()))
        assert isinstance(found, Parsed)
        return found

    first = judged()
    for _ in range(SIGHTINGS):
        judged()
    again = judged()
    assert (again.heads, again.bodies, again.rejects) == (first.heads, first.bodies, first.rejects)
    assert [each.position for each in first.rejects] == [6, 8]


def test_memory_is_bounded_whatever_shapes_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "MOST_OUTLINES", 8)
    monkeypatch.setattr(shapes, "MOST_VARIANTS", 4)
    monkeypatch.setattr(shapes, "MOST_COUNTED", 100)
    known = Shapes(to_event)
    for number in range(50):
        for variant in range(10):
            event = _members(_encode({"event_type": f"e{variant}", "event_id": "e-1", f"p{number}": 1}))
            for _ in range(ENOUGH):
                known.rewritten(event)
            assert len(known._young) <= 8  # the bound does not show from outside
            assert len(known._old) <= 8
            assert len(known._counts) <= 100
            assert max(len(each.shapes) for each in (*known._young.values(), *known._old.values())) <= 4
    monkeypatch.setattr(shapes, "MOST_BYTES", 20_000)
    for number in range(50):
        event = _members(_encode({"event_type": "e", **{f"p{number}-{each}": 1 for each in range(50)}}))
        for _ in range(ENOUGH):
            known.rewritten(event)
    assert sum(each.size for each in (*known._young.values(), *known._old.values())) <= 3 * 20_000


@pytest.mark.parametrize(
    "event",
    [
        {"event_type": "x" * shapes.MOST_DECIDING_BYTES},
        {"event_type": "a", "x" * shapes.MOST_NAME_CHARACTERS: 1},
        {"event_type": "a", **{f"p{number}": 1 for number in range(shapes.MOST_NAMES)}},
    ],
)
def test_a_shape_of_many_bytes_is_not_learned(event: dict[str, Any]) -> None:
    known = Shapes(to_event)
    assert {known.rewritten(_members(_encode(event))) for _ in range(2 * ENOUGH)} == {None}
