"""A day of a cluster in steps of a second: a curve of load, capacities of the stages, queues between them, a destination that is away. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from bench.scaling.costs import Costs
from bench.scaling.model import SECONDS_A_DAY, Load, Machine, Plan

_Rate = Callable[[int], float]


class Stage(NamedTuple):
    """Events that a stage takes a second, in one process or many."""

    name: str
    capacity: float


class Found(NamedTuple):
    """What the day showed. Queues in events; ages in seconds."""

    loaded: float
    left: float
    most_waiting: dict[str, float]
    oldest: float
    caught_up: float
    """Seconds from the end of the outage until the loader had nothing older than two seconds; 0 without an outage."""


def curve(load: Load) -> _Rate:
    """Returns events/s at a second of the day: quiet at night, and at `peak` times the mean at noon."""
    mean = load.events_a_day / SECONDS_A_DAY
    # a power of a half wave whose mean over the day is 1 and whose top is `peak`
    power = _power(load.peak)
    scale = load.peak

    def rate(second: int) -> float:
        return float(mean * scale * math.sin(math.pi * second / SECONDS_A_DAY) ** power)

    return rate


def stages(load: Load, costs: Costs, found: Plan, machine: Machine) -> list[Stage]:
    """Returns the capacities of a plan's processes, each with `machine.busy` of a core."""
    made = []
    for name, times in (("ingest", 1), ("router", load.connections), ("loader", load.connections)):
        seconds = costs.cpu_us(name, load.per_request) / 1e6 * times
        made.append(Stage(name, found.processes[name] * machine.busy / seconds))
    return made


def simulate(rate: _Rate, seconds: int, path: list[Stage], away: tuple[int, int] = (0, 0)) -> Found:
    """Lets a day pass.

    Args:
        rate: events/s that clients send at each second.
        seconds: how long.
        path: the stages in order; the last one loads.
        away: the last stage does nothing from the first second to before the second.
    """
    waiting = [0.0] * len(path)
    most = [0.0] * len(path)
    came, loaded, oldest, caught_up = 0.0, 0.0, 0.0, 0.0
    behind = 0  # the second whose events are loaded next
    arrived: list[float] = []
    for second in range(seconds):
        came += rate(second)
        arrived.append(came)
        moved = rate(second)
        for number, stage in enumerate(path):
            waiting[number] += moved
            last = number == len(path) - 1
            able = 0.0 if last and away[0] <= second < away[1] else stage.capacity
            moved = min(waiting[number], able)
            waiting[number] -= moved
            most[number] = max(most[number], waiting[number])
        loaded += moved
        while behind < second and arrived[behind] <= loaded + 1e-6:
            behind += 1
        age = second - behind
        oldest = max(oldest, age)
        if not caught_up and second >= away[1] > 0 and age <= 2:
            caught_up = second - away[1]
    return Found(
        loaded=loaded,
        left=came - loaded,
        most_waiting={stage.name: each for stage, each in zip(path, most, strict=True)},
        oldest=oldest,
        caught_up=caught_up,
    )


def _power(peak: float) -> float:
    """Returns the power to which a half wave has a mean of 1/peak."""
    low, high = 0.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2
        steps = 2000
        mean = sum(math.sin(math.pi * (each + 0.5) / steps) ** middle for each in range(steps)) / steps
        low, high = (middle, high) if mean > 1 / peak else (low, middle)
    return (low + high) / 2
