"""The order of the router's questions: an event that fails several of them is counted under the first."""

from __future__ import annotations

from typing import Any

import pytest

from router.rules.match import Matched, match
from router.rules.sample import is_kept
from shared.events.frame import Head
from shared.events.outcome import DropReason
from shared.forget.ids import digest, listed
from tests.unit.router.test_match import arrive, frame_of, rules_of

SALT = bytes(32)
SHARE = 0.5
OUT = next(f"u{number}" for number in range(99) if not is_kept(Head("m", "track", None, f"u{number}"), SHARE))
"""A user that the sample leaves out."""

FAULTS: dict[DropReason, dict[str, Any]] = {
    DropReason.DUPLICATE: {},
    DropReason.FORGOTTEN: {},
    DropReason.SITE_FILTERED: {"event": "Noise"},
    DropReason.CONSENT: {"context": {"consent": {"categoryPreferences": {"ads": False}}}},
    DropReason.INTEGRATIONS: {"integrations": {"wh": False}},
    DropReason.FILTERED: {"properties": {"total": 0}},
    DropReason.SAMPLED: {"userId": OUT},
}
"""By reason what an event has that fails the question, in the order of the questions."""
ORDER = list(FAULTS)


@pytest.mark.parametrize("first", range(len(ORDER)), ids=map(str, ORDER))
@pytest.mark.parametrize("where", [{"field": "properties.total", "gt": 0}, {"field": "userId", "ne": OUT}], ids=["body", "head"])
def test_an_event_that_fails_a_question_and_all_later_ones_is_counted_under_the_first(first: int, where: dict[str, Any]) -> None:
    rules = rules_of(
        site={"where": {"field": "event", "ne": "Noise"}},
        consent=["ads"],
        integrations=True,
        where=where,
        sample=SHARE,
    )
    failing: dict[str, Any] = {"event": "Bought", "properties": {"total": 9}}
    for reason in ORDER[first:]:
        failing |= FAULTS[reason]
    failing["userId"] = OUT
    if DropReason.FORGOTTEN in ORDER[first:]:
        rules.forgotten.put(digest(OUT, SALT), listed(OUT, SALT, at=0.0, request=""))
    arrival = arrive(frame_of([failing]), repeated=(0,) if first == 0 else ())
    expected = ORDER[first]
    if expected == DropReason.SAMPLED and where["field"] == "userId":
        expected = DropReason.FILTERED
    assert match(rules, arrival).drops == {expected: 1}


def test_the_site_is_asked_once_for_all_of_its_connections_and_its_filter_fails_closed() -> None:
    rules = rules_of(site={"where": {"field": "properties.x", "eq": 1}})
    arrival = arrive(frame_of([{"properties": {"x": 1}}, {"properties": {"x": 2}}, {}]))
    assert match(rules, arrival) == Matched([0], {DropReason.SITE_FILTERED: 2}, 0)
    gated = arrival.gated
    assert match(rules, arrival).indexes == [0]
    assert arrival.gated is gated


def test_conditions_of_a_site_on_heads_open_no_bodies() -> None:
    arrival = arrive(frame_of([{"event": "a"}, {"event": "b"}]))
    assert match(rules_of(site={"where": {"field": "event", "eq": "a"}}), arrival).indexes == [0]
    assert arrival._bodies is None
