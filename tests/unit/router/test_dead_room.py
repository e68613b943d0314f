"""Shares of a DEAD that is nearly full: those who hold most make room, and no sender takes the room of others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.room.dead import shares

SUBJECTS = st.sampled_from(["dead.ingest.a", "dead.ingest.b", "dead.loader.a", "dead.router.a", "dead.loader.b"])


def test_the_largest_site_makes_room_and_the_others_lose_nothing() -> None:
    sizes = {"dead.ingest.loud": 900, "dead.ingest.quiet": 20, "dead.loader.c": 60}
    assert shares(sizes, 700) == {"dead.ingest.loud": 620, "dead.ingest.quiet": 20, "dead.loader.c": 60}


def test_letters_of_the_edge_have_half_and_the_rest_what_is_left() -> None:
    assert shares({"dead.ingest.a": 900, "dead.loader.c": 500, "dead.router.c": 300}, 1000) == {
        "dead.ingest.a": 500,
        "dead.loader.c": 250,
        "dead.router.c": 250,
    }
    assert shares({"dead.ingest.a": 100, "dead.loader.c": 5000}, 1000) == {"dead.ingest.a": 100, "dead.loader.c": 900}


@given(st.dictionaries(SUBJECTS, st.integers(0, 10_000)), st.integers(0, 20_000))
def test_shares_fit_the_room_and_waste_none_of_it(sizes: dict[str, int], target: int) -> None:
    kept = shares(sizes, target)
    assert kept.keys() == sizes.keys()
    assert all(0 <= kept[subject] <= size for subject, size in sizes.items())
    assert sum(kept.values()) <= target
    assert sum(kept.values()) >= min(target, sum(sizes.values())) - 2 * len(sizes)
