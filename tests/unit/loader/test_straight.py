"""When a merge tries to bring its rows straight into their table."""

from __future__ import annotations

from loader.sql.merge import LONGEST, SHORTEST, Straight, has_key


def test_a_table_with_repeats_is_left_alone_for_longer_each_time() -> None:
    straight = Straight()
    rests: list[int] = []
    assert straight.tries("t")
    for _ in range(10):
        straight.met("t")
        rests.append(0)
        while not straight.tries("t"):
            rests[-1] += 1
    assert rests[:3] == [SHORTEST, 2 * SHORTEST, 4 * SHORTEST]
    assert rests[-1] == LONGEST
    assert straight.tries("other")


def test_an_attempt_that_works_begins_anew() -> None:
    straight = Straight()
    straight.met("t")
    straight.met("t")
    straight.passed("t")
    straight.met("t")
    assert [straight.tries("t") for _ in range(SHORTEST + 1)] == [False] * SHORTEST + [True]


def test_only_a_key_within_the_wanted_one_refuses_its_repeats() -> None:
    assert has_key([("b", "a")], ["a", "b"])
    assert has_key([("a",)], ["a", "b"])
    assert not has_key([("a", "c")], ["a", "b"])
    assert not has_key([], ["a"])
