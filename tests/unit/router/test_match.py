"""What a connection gets of a frame, against the rules asked one event at a time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules, compile_project
from router.rules.match import Matched, match
from router.rules.sample import is_kept
from router.rules.where import compile_where
from shared.errors import ConfigError, Permanent
from shared.events.frame import Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.outcome import DropReason
from shared.forget.ids import digest, listed
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot

REQUESTS = [
    RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="k"),
    RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="k", defaults=b'{"integrations":{"wh":false}}'),
    RequestContext(
        received_at=1_700_000_000_000_000,
        protocol="segment",
        key="k",
        defaults=b'{"context":{"consent":{"categoryPreferences":{"ads":false}}}}',
    ),
]


def frame_of(events: list[dict[str, Any]], requests: list[int] | None = None) -> bytes:
    heads = [
        Head(
            f"m{index}",
            event.get("type", "track"),
            event.get("event"),
            event.get("userId"),
            None,
            (requests or [0] * 9999)[index],
        )
        for index, event in enumerate(events)
    ]
    return encode_frame(pack("shop", REQUESTS, heads, [msgspec.json.encode(event) for event in events]))


def rules_of(site: dict[str, Any] | None = None, plans: dict[str, Any] | None = None, **options: Any) -> ConnectionRules:
    document = {
        "tracking_plans": plans or {},
        "sites": {"shop": site or {}},
        "destinations": {"wh": {"type": "duckdb"}},
        "connections": {"shop-wh": {"site": "shop", "destination": "wh", **options}},
    }
    return compile_project(ConfigSnapshot(1, decode_project(document)))["shop"].connections["shop-wh"]


def arrive(payload: bytes, repeated: tuple[int, ...] = ()) -> Arrival:
    arrival = Arrival(1, 1_700_000_000.0, payload)
    arrival.repeated = repeated
    return arrival


def test_a_frame_that_passes_whole_is_never_opened_and_its_bytes_go_on_as_they_are() -> None:
    payload = frame_of([{}, {}])
    arrival = arrive(payload)
    matched = match(rules_of(), arrival)
    assert matched.indexes is None
    assert arrival.payload_of(matched.indexes) is payload
    assert arrival._heads is None


def test_conditions_on_heads_open_no_bodies() -> None:
    events = [{"type": "track", "event": name} for name in ("a", "b") for _ in range(30)]
    damaged = decode_frame(frame_of(events))
    damaged.block = b"not compressed data"
    matched = match(rules_of(where={"field": "event", "eq": "b"}, sample=0.999), arrive(encode_frame(damaged)))
    assert matched.indexes is not None
    assert set(matched.indexes) <= set(range(30, 60))
    assert matched.drops[DropReason.FILTERED] == 30


def test_a_damaged_block_is_noticed_when_bodies_are_needed() -> None:
    damaged = decode_frame(frame_of([{}] * 30))
    damaged.block = b"not compressed data"
    with pytest.raises(Permanent, match="cannot be decompressed"):
        match(rules_of(where={"field": "properties.x", "eq": 1}), arrive(encode_frame(damaged)))


def test_a_body_that_cannot_be_read_where_a_rule_needs_it_is_left_out_and_counted() -> None:
    bodies = [b'{"properties":{"x":1}}', b"[1]", b'{"properties":{"x":"\xff"}}', b'{"properties":{"x":1e999}}']
    frame = pack("shop", REQUESTS, [Head(f"m{index}", "track") for index in range(4)], bodies)
    for where in (
        {"field": "properties.x", "eq": 1},
        {"not": {"field": "properties.x", "eq": 2}},
        {"field": "sentAt", "exists": False},
    ):
        matched = match(rules_of(where=where), arrive(encode_frame(frame)))
        assert matched.indexes == [0]
        assert matched.errors == 3
        assert matched.drops == {DropReason.FILTERED: 3}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({}, None),
        ({"integrations": {}}, None),
        ({"integrations": {"All": False}}, None),
        ({"integrations": {"Segment.io": True, "other": False}}, None),
        ({"integrations": {"wh": {"option": False}}}, None),
        ({"integrations": {"wh": False}}, DropReason.INTEGRATIONS),
        ({"integrations": {"shop-wh": False}}, DropReason.INTEGRATIONS),
        ({"integrations": {"nested": {"a": 1}, "duckdb": False}}, DropReason.INTEGRATIONS),
        ({"integrations": {"Warehouses": {"all": False}}}, DropReason.INTEGRATIONS),
        ({"context": {"consent": {"categoryPreferences": {"ads": True, "more": True}}}}, None),
        ({"context": {"consent": {}}}, None),
        ({"context": {"consent": {"categoryPreferences": {}}}}, DropReason.CONSENT),
        ({"context": {"consent": {"categoryPreferences": {"ads": False}}}}, DropReason.CONSENT),
        ({"context": {"consent": {"categoryPreferences": {"ads": "true"}}}}, DropReason.CONSENT),
    ],
)
def test_consent_and_the_integrations_object_are_honoured_where_a_connection_asks_for_them(
    event: dict[str, Any], reason: DropReason | None
) -> None:
    payload = frame_of([event, {}])
    matched = match(rules_of(integrations=True, consent=["ads"]), arrive(payload))
    assert matched.drops == ({} if reason is None else {reason: 1})
    assert matched.indexes == (None if reason is None else [1])
    assert match(rules_of(), arrive(payload)).indexes is None


def test_what_a_batch_says_for_all_of_its_events_counts_and_an_event_may_say_otherwise() -> None:
    payload = frame_of([{}, {"integrations": {"wh": True}}, {}, {}], [1, 1, 2, 0])
    matched = match(rules_of(integrations=True, consent=["ads"]), arrive(payload))
    assert matched.indexes == [1, 3]
    assert matched.drops == {DropReason.INTEGRATIONS: 1, DropReason.CONSENT: 1}


def test_keys_written_in_escapes_are_read_too() -> None:
    body = b'{"\\u0069ntegrations":{"wh":false}}'
    payload = encode_frame(pack("shop", REQUESTS, [Head("m0", "track")], [body]))
    assert match(rules_of(integrations=True), arrive(payload)).indexes == []


events = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["track", "page"])},
        optional={
            "event": st.sampled_from(["a", "b"]),
            "userId": st.sampled_from(["u1", "u2", "u3", "u4"]),
            "properties": st.fixed_dictionaries({"x": st.integers(0, 2)}),
            "integrations": st.fixed_dictionaries({"wh": st.booleans()}),
        },
    ),
    max_size=40,
)
wheres = st.sampled_from(
    [
        None,
        {"field": "type", "eq": "track"},
        {"field": "userId", "in": ["u1", "u2"]},
        {"field": "properties.x", "gt": 0},
        {"any": [{"field": "properties.x", "eq": 0}, {"field": "event", "eq": "a"}]},
        {"not": [{"field": "properties.x", "eq": 0}, {"field": "userId", "exists": True}]},
    ]
)


@settings(max_examples=100)
@given(events=events, where=wheres, sample=st.sampled_from([1.0, 0.5]), honours=st.booleans(), data=st.data())
def test_every_event_is_forwarded_or_dropped_for_one_reason(
    events: list[dict[str, Any]], where: Any, sample: float, honours: bool, data: st.DataObject
) -> None:
    repeated = tuple(sorted(data.draw(st.sets(st.integers(0, max(0, len(events) - 1)))))) if events else ()
    arrival = arrive(frame_of(events), repeated)
    matched = match(rules_of(where=where, sample=sample, integrations=honours), arrival)
    predicate = compile_where(where)
    expected = [
        index
        for index, event in enumerate(events)
        if index not in repeated
        and (predicate is None or predicate.on_event(arrival.heads[index], arrival.event(index)))
        and is_kept(arrival.heads[index], sample)
        and not (honours and event.get("integrations", {}).get("wh") is False)
    ]
    got = list(range(len(events))) if matched.indexes is None else matched.indexes
    assert got == expected
    assert sum(matched.drops.values()) == len(events) - len(got)
    assert (matched.indexes is None) == (len(got) == len(events))
    if matched.indexes:
        chosen = decode_frame(arrival.payload_of(matched.indexes))
        assert [head.message_id for head in chosen.heads] == [f"m{index}" for index in got]
        assert chosen.bodies() == [msgspec.json.encode(events[index]) for index in got]


def test_a_project_with_wrong_conditions_is_refused_with_every_place() -> None:
    project = decode_project(
        {
            "sites": {"shop": {}},
            "destinations": {"wh": {"type": "duckdb"}},
            "connections": {
                "a": {"site": "shop", "destination": "wh", "where": [{"field": "type", "gt": []}]},
                "b": {"site": "shop", "destination": "wh", "where": "all"},
            },
        }
    )
    with pytest.raises(ConfigError) as refused:
        compile_project(ConfigSnapshot(0, project))
    assert [problem.path for problem in refused.value.problems] == ["connections.a.where[0].gt", "connections.b.where"]


def test_events_of_forgotten_people_go_nowhere_and_are_counted_once() -> None:
    salt = bytes(32)
    rules = rules_of()
    payload = frame_of([{"userId": "jane"}, {"userId": "joe"}, {"userId": "jane"}])
    assert match(rules, arrive(payload)) == Matched(None, {}, 0)
    rules.forgotten.put(digest("jane", salt), listed("jane", salt, at=0.0, request=""))
    assert match(rules, arrive(payload, repeated=(2,))) == Matched([1], {DropReason.DUPLICATE: 1, DropReason.FORGOTTEN: 1}, 0)
    assert match(rules, arrive(frame_of([{"userId": "joe"}]))) == Matched(None, {}, 0)
