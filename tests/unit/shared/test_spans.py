"""Trails in headers, which spans leave a process, and how many."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.trace import SpanKind

from shared.telemetry.tracing.spans import (
    ERRORS_A_SECOND,
    MOST_LINKS,
    Allowance,
    Span,
    Tracing,
    Trail,
    current_headers,
    current_trail,
    read_trail,
)

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Sent:
    """Takes what leaves."""

    def __init__(self, ratio: float = 1.0, a_second: float = 1000.0) -> None:
        self.spans: list[Span] = []
        self.lost = 0
        self.tracing = Tracing(self.spans.append, self._lose, ratio=ratio, a_second=a_second)

    def _lose(self) -> None:
        self.lost += 1

    def begin(self, **how: object) -> Span:
        return self.tracing.begin("x", SpanKind.INTERNAL, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PARENT, True),
        (PARENT.replace("00-4", "01-4") + "-more", True),  # a later version may have more behind it
        (PARENT + "-more", False),
        (PARENT.replace("00-4", "ff-4"), False),
        (PARENT.upper(), False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        ("x" * 100_000, False),
        ("", False),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(text: str, found: bool) -> None:
    trail = read_trail({"traceparent": text})
    assert (trail is not None) == found
    if trail is not None:
        assert trail.headers["traceparent"] == PARENT


def test_a_trail_goes_through_headers_and_a_tracestate_that_no_header_may_hold_does_not() -> None:
    trail = Trail(5, 7, sampled=False, state="vendor=1")
    assert read_trail(trail.headers) == trail
    for state in (
        "a=" + "x" * 600,
        "a=1\r\nNats-Msg-Id: 1",
        "a=\udce4",
        "no member",
        "A=1",
        "a=1,,",
        ",".join(f"m{n}=1" for n in range(33)),
    ):
        read = read_trail({"traceparent": PARENT, "tracestate": state})
        assert read is not None
        assert "tracestate" not in read.headers


def test_a_share_of_traces_is_sampled_and_no_more_than_a_number_a_second() -> None:
    sampled = sum(Sent(0.25).begin(may_begin=True).trail.sampled for _ in range(4000))
    assert 700 < sampled < 1300
    few = Sent(1.0, a_second=3)
    assert sum(few.begin(may_begin=True).trail.sampled for _ in range(100)) < 100
    assert not any(Sent(1.0).begin().trail.sampled for _ in range(10))  # where no trace may begin
    assert Sent(0.0).begin(always=True).trail.sampled


def test_a_clients_wish_is_followed_within_a_bound_of_its_own() -> None:
    now = [0.0]
    sent = Sent(0.0, a_second=2)
    sent.tracing._asked = Allowance(2, lambda: now[0])
    parent = read_trail({"traceparent": PARENT})
    assert [sent.tracing.decide(parent) is not None for _ in range(4)] == [True, True, False, False]
    now[0] += 1.0
    trail = sent.tracing.decide(parent)
    assert trail is not None
    assert parent is not None
    assert (trail.trace_id, trail.sampled) == (parent.trace_id, True)


def test_clients_that_ask_for_every_trace_take_none_from_the_others() -> None:
    sent = Sent(1.0, a_second=2)
    parent = read_trail({"traceparent": PARENT})
    for _ in range(1000):
        sent.tracing.decide(parent)
    assert sent.tracing.decide() is not None


def test_a_clock_that_is_put_back_makes_no_span_that_ends_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent()
    now = [2_000_000_000]
    monkeypatch.setattr("time.time_ns", lambda: now[0])
    with sent.tracing.within(sent.begin(may_begin=True)):
        now[0] = 1_000_000_000
    assert [(span.started_ns, span.ended_ns) for span in sent.spans] == [(2_000_000_000, 2_000_000_000)]


def test_a_span_that_is_not_sampled_leaves_only_if_it_failed_and_so_many_at_most() -> None:
    sent = Sent(0.0)
    with sent.tracing.within(sent.begin()):
        pass
    assert not sent.spans
    for _ in range(100):
        with pytest.raises(ValueError, match="no"), sent.tracing.within(sent.begin()):
            raise ValueError("no")
    assert len(sent.spans) + sent.lost == 100
    assert ERRORS_A_SECOND <= len(sent.spans) < 100
    assert {(span.error, span.what) for span in sent.spans} == {("ValueError", "no")}


async def test_a_span_that_is_cancelled_did_not_fail() -> None:
    sent = Sent(0.0)

    async def work() -> None:
        with sent.tracing.within(sent.begin()):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sent.spans


def test_the_current_span_is_that_of_the_task() -> None:
    sent = Sent()
    assert (current_trail(), current_headers()) == (None, {})
    with sent.tracing.within(sent.begin(may_begin=True)) as outer:
        with sent.tracing.within(sent.begin(parent=current_trail())) as inner:
            assert current_trail() == inner.trail
            assert current_headers() == inner.headers
        assert current_trail() == outer.trail
    assert current_trail() is None
    assert [span.trail.trace_id for span in sent.spans] == [outer.trail.trace_id] * 2
    assert inner.parent == outer.trail


def test_a_batch_is_sampled_with_one_of_its_frames_and_keeps_the_links_that_lead_somewhere() -> None:
    sent = Sent(0.0)
    links = [Trail(number, number, sampled=number > 490) for number in range(1, 501)]
    with sent.tracing.within(sent.begin(links=links)) as span:
        assert span.trail.sampled
    assert len(sent.spans[0].links) == MOST_LINKS
    assert sum(link.sampled for link in sent.spans[0].links) == 10
