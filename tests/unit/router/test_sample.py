"""Sampling by user."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.rules.sample import is_kept, place
from shared.events.frame import Head


@given(user=st.text(), smaller=st.floats(0, 1), larger=st.floats(0, 1))
def test_a_larger_share_keeps_everybody_a_smaller_one_kept(user: str, smaller: float, larger: float) -> None:
    smaller, larger = sorted((smaller, larger))
    head = Head("m", "track", None, user)
    assert not is_kept(head, smaller) or is_kept(head, larger)
    assert is_kept(head, 1.0)


def test_all_events_of_a_user_share_one_fate_and_the_share_is_kept() -> None:
    users = [f"user-{index}" for index in range(20_000)]
    kept = [user for user in users if is_kept(Head("m1", "track", None, user), 0.1)]
    assert all(is_kept(Head("m2", "page", None, user, "anonymous"), 0.1) for user in kept)
    assert 1800 < len(kept) < 2200


def test_a_place_is_the_same_on_every_machine() -> None:
    assert place("user-1") == 0x7E264614 / 2**32
