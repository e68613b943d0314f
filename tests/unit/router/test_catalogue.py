"""The catalogue in memory: exact counts, bounds, masked samples."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from router.catalogue.details import MOST_PROPERTIES, MOST_SENDERS, add_sample, forget, mask
from router.catalogue.names import KEPT_DAYS, MOST_NAMES, Names
from router.rules.arrival import Arrival
from shared.catalogue.stored import EventDetails, SiteNames, pack_value, unpack_details, unpack_names
from shared.events.frame import Head, RequestContext, encode_frame, pack, with_names

DAY = 86_400.0


def arrival(seq: int, names: list[str], *, day: int = 0, told: bool = True) -> Arrival:
    heads = [Head(f"m{seq}-{index}", "track", name) for index, name in enumerate(names)]
    frame = pack("shop", [RequestContext(0, "segment", "web")], heads, [b"{}"] * len(heads))
    return Arrival(seq, day * DAY, encode_frame(with_names(frame) if told else frame))


def totals(names: Names) -> dict[str, int]:
    return {each.event: each.total for each in names.stored().names}


def test_each_frame_counts_once_whether_it_tells_its_names_or_its_heads_do() -> None:
    names = Names(SiteNames())
    assert names.note(arrival(1, ["a", "b", "a"])) == [("track", "a"), ("track", "b")]
    assert names.note(arrival(1, ["a", "b", "a"])) == []
    assert names.note(arrival(2, ["a"], told=False)) == []
    assert totals(names) == {"a": 3, "b": 1}
    assert names.position == 2


def test_days_are_kept_for_a_month_and_the_total_for_good() -> None:
    names = Names(SiteNames())
    for day in range(KEPT_DAYS + 5):
        names.note(arrival(day + 1, ["a"], day=day))
    (count,) = names.stored().names
    assert count.total == KEPT_DAYS + 5
    assert len(count.days) <= KEPT_DAYS
    assert (count.first_at, count.last_at) == (0.0, (KEPT_DAYS + 4) * DAY)


def test_names_that_clients_make_up_are_bounded_and_counted_together() -> None:
    names = Names(SiteNames())
    for seq in range(30):
        names.note(arrival(seq + 1, [f"made up {seq}-{index}" for index in range(50)]))
    stored = names.stored()
    assert len(stored.names) == MOST_NAMES
    assert stored.others == 30 * 50 - MOST_NAMES
    names.note(arrival(31, ["x" * 5000]))
    assert names.stored().others == 30 * 50 - MOST_NAMES + 1


def test_what_is_stored_is_read_again_and_counting_goes_on() -> None:
    names = Names(SiteNames(incarnation="i"))
    names.note(arrival(7, ["a", "b"]))
    again = Names(unpack_names(pack_value(names.stored())))
    assert again.note(arrival(7, ["a", "b"])) == []
    again.note(arrival(8, ["a"]))
    assert (totals(again), again.position, again.incarnation) == ({"a": 2, "b": 1}, 8, "i")


EVENT: dict[str, Any] = {
    "type": "track",
    "properties": {
        "total": 12.5,
        "who": "Jane Doe 7",
        "ok": True,
        "items": [{"sku": "A-1"}, {"sku": None}],
        "deep": {"a": {"b": {"c": {"d": 1}}}},
    },
    "context": {"library": {"name": "analytics.js", "version": "2.1"}},
}


def sampled(event: dict[str, Any], details: EventDetails | None = None, **more: Any) -> EventDetails:
    found = details or EventDetails("track", "Order")
    options: dict[str, Any] = {"key": "web", "room": 1000, "people": ["d1"], "with_sample": True, **more}
    add_sample(found, event, 5.0, **options)
    return found


def test_a_sample_has_types_senders_and_the_shape_of_values_only() -> None:
    found = sampled(EVENT)
    assert {path: each.types for path, each in found.properties.items() if path.startswith("properties")} == {
        "properties.total": {"number": 1},
        "properties.who": {"string": 1},
        "properties.ok": {"boolean": 1},
        "properties.items": {"array": 1},
        "properties.items[]": {"object": 2},
        "properties.items[].sku": {"string": 1, "null": 1},
        "properties.deep": {"object": 1},
        "properties.deep.a": {"object": 1},
        "properties.deep.a.b": {"object": 1},
        "properties.deep.a.b.c": {"object": 1},
    }
    assert found.sample["properties.who"] == "Aaaa Aaa 9"
    assert found.sample["properties.total"] == "99.9"
    assert found.sample["properties.ok"] is True
    assert (found.keys, found.libraries, found.people) == ({"web": 5.0}, {"analytics.js 2.1": 5.0}, ["d1"])
    assert b"Jane" not in msgspec.msgpack.encode(found)
    assert unpack_details(pack_value(found)) == found
    forget(found)
    assert (found.sample, found.people) == ({}, [])
    assert sampled(EVENT, with_sample=False).sample == {}


def test_hostile_events_are_bounded() -> None:
    found = sampled({"properties": {f"p{number}": number for number in range(5000)}})
    assert len(found.properties) == MOST_PROPERTIES
    assert found.left_out == 5000 - MOST_PROPERTIES
    assert len(sampled({"properties": {"a": 1, "b": 2}}, room=1).properties) == 1
    assert sampled({"properties": {"k" * 10_000: 1}}).properties == {}
    for number in range(100):
        sampled({}, found, key=f"key-{number}")
    assert len(found.keys) == MOST_SENDERS


@given(st.text(max_size=100))
def test_no_letter_or_digit_of_a_value_is_kept(text: str) -> None:
    assert {each for each in mask(text) if each.isalnum() and each.isascii()} <= {"a", "A", "9"}
