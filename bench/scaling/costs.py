"""What events cost at each stage, as `python -m bench.whole.scale measure` found it. Pure, but for the file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("costs.json")
STAGES = ("ingest", "broker", "router", "loader", "destination")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the whole path with one connection, as fast as it goes.

    `cpu_us`: CPU microseconds an event, by stage. `syncs`: messages that the broker synced, an event. `written`: bytes that the broker wrote
    to its disk, an event. `rate`: events/s from the first request to the last committed row. `others`: share of the machine that other
    programs and the sender used.
    """

    per_request: int
    cpu_us: dict[str, float]
    syncs: float
    written: float
    rate: float
    others: float


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """Events came at `rate` a second for `seconds`; for the first `away` of them no loader ran.

    `caught_up`: seconds from the loader's start until nothing older than two seconds waited. `cpu_us`: as in `Sample`, of the whole run.
    """

    rate: float
    seconds: float
    away: float
    caught_up: float
    cpu_us: dict[str, float]
    others: float


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one measurement found. `body`: bytes of an event's JSON. `synced_a_second`: messages that one broker synced a second."""

    at: str
    machine: str
    cores: int
    body: int
    samples: list[Sample]
    outage: Outage
    synced_a_second: float

    def cpu_us(self, stage: str, per_request: float) -> float:
        """Returns CPU microseconds an event: a part for the event and a part for its request, fitted to the samples."""
        return _fitted([(1 / each.per_request, each.cpu_us[stage]) for each in self.samples], 1 / per_request)

    def syncs(self, per_request: float) -> float:
        """Returns synced messages an event, between those of the samples."""
        return _fitted([(1 / each.per_request, each.syncs) for each in self.samples], 1 / per_request)

    def written(self, per_request: float) -> float:
        """Returns bytes an event that one broker writes."""
        return _fitted([(1 / each.per_request, each.written) for each in self.samples], 1 / per_request)


def read(file: Path = FILE) -> Costs:
    """Returns what the newest measurement wrote."""
    return msgspec.json.decode(file.read_bytes(), type=Costs)


def _fitted(points: Sequence[tuple[float, float]], at: float) -> float:
    """Returns the value at `at` between the nearest points, and beyond them that of the last one."""
    ordered = sorted(points)
    if at <= ordered[0][0]:
        return ordered[0][1]
    for (low, below), (high, above) in pairwise(ordered):
        if at <= high:
            return below + (above - below) * (at - low) / (high - low)
    return ordered[-1][1]
