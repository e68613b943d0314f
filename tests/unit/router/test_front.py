"""The front of a site: what it remembers of verdicts, and for how long."""

from __future__ import annotations

from router.forwarding.front import Front


def test_verdicts_are_known_from_the_start_on_up_to_the_front() -> None:
    front = Front(10, 0.0)
    assert not front.knows(10)
    front.advance(12, 1.0, 5, [0, 3])
    front.advance(15, 2.0, 7, [])
    assert [front.knows(seq) for seq in (10, 12, 15, 16)] == [False, True, True, False]
    assert front.repeated(12) == [0, 3]
    assert front.repeated(15) == ()
    assert (front.seq, front.at_seconds, front.events) == (15, 2.0, 12)


def test_the_oldest_verdicts_are_forgotten_at_the_limit_and_that_is_known() -> None:
    front = Front(0, 0.0, max_verdicts=10)
    for seq in range(1, 8):
        front.advance(seq, float(seq), 5, [0, 1, 2])
    assert [front.knows(seq) for seq in range(1, 8)] == [False] * 4 + [True] * 3
    assert front.repeated(7) == [0, 1, 2]
