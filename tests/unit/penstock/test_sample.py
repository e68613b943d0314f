"""The sample events: the same story from the same seed, and wrong only where it is meant to be."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

from penstock.demo.sample import sample_events

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def decoded(lines: list[bytes]) -> list[dict[str, object]]:
    events = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            events.append(value)
    return events


def test_the_same_seed_tells_the_same_story() -> None:
    first = list(sample_events(500, run="r", ends_at=AT))
    assert first == list(sample_events(500, run="r", ends_at=AT))
    assert first != list(sample_events(500, run="r", ends_at=AT, seed=1))
    assert len(first) == 500


def test_message_ids_differ_within_a_run_and_between_runs() -> None:
    def ids(run: str) -> set[object]:
        return {event["messageId"] for event in decoded(list(sample_events(1000, run=run, ends_at=AT)))}

    assert len(ids("a")) == len(decoded(list(sample_events(1000, run="a", ends_at=AT))))
    assert not ids("a") & ids("b")


def test_every_kind_of_call_and_of_mistake_is_in_it() -> None:
    lines = list(sample_events(ends_at=AT))
    kinds = Counter(str(event["type"]) for event in decoded(lines))
    assert {"track", "page", "identify", "group", "alias", "purchase"} <= kinds.keys()
    assert kinds["track"] > 1000
    assert kinds["page"] > 1000
    assert any(line.startswith(b'"') for line in lines)
    assert any(line.startswith(b"[") for line in lines)
    assert any(b"NaN" in line for line in lines)
    assert len(decoded(lines)) < len(lines)


def test_types_drift_towards_the_end_only() -> None:
    lines = list(sample_events(ends_at=AT))
    totals = [
        type(event["properties"]["total"])  # type: ignore[index]
        for event in decoded(lines)
        if event.get("event") == "Order Completed"
    ]
    first_text = totals.index(str)
    assert set(totals[:first_text]) <= {float, int}
    assert set(totals[first_text:]) == {str}
    assert first_text > len(totals) / 2


def test_no_time_lies_after_the_end() -> None:
    latest = max(str(event["timestamp"]) for event in decoded(list(sample_events(ends_at=AT))))
    assert latest <= "2026-03-01T12:00:00.000Z"
