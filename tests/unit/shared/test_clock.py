"""The clock goes on when the machine's clock is set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.clock import Clock

SECOND = 1_000_000_000
HOUR = 3600 * SECOND


class Machine:
    """Two clocks under control."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * SECOND
        self.steady = 5 * SECOND
        self.clock = Clock(lambda: self.wall, lambda: self.steady)

    def passes(self, nanoseconds: int) -> None:
        self.wall += nanoseconds
        self.steady += nanoseconds


@given(st.lists(st.tuples(st.integers(0, HOUR), st.integers(-2 * HOUR, 2 * HOUR))))
def test_wall_time_never_goes_back(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    last = machine.clock.now_ns()
    for passed, set_by in steps:
        machine.passes(passed)
        machine.wall += set_by
        now = machine.clock.now_ns()
        assert now >= max(last, machine.wall)
        last = now


def test_a_clock_set_back_is_met_again_at_half_speed_and_one_set_forward_at_once() -> None:
    machine = Machine()
    machine.wall += HOUR
    assert machine.clock.now_ns() == machine.wall
    machine.wall -= HOUR
    machine.passes(HOUR)
    assert machine.clock.now_ns() == machine.wall + HOUR // 2
    machine.passes(HOUR)
    assert machine.clock.now_ns() == machine.wall
    machine.passes(SECOND)
    assert machine.clock.now_ns() == machine.wall


def test_an_age_is_fixed_at_first_sight_and_a_time_in_the_future_is_now() -> None:
    machine = Machine()
    seen = machine.clock.steady_at(machine.clock.now() - 20)
    assert machine.clock.steady() - seen == 20
    machine.wall -= HOUR
    machine.passes(10 * SECOND)
    assert machine.clock.steady() - seen == 30
    assert machine.clock.steady_at(machine.clock.now() + 3600) == machine.clock.steady()
