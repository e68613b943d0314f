"""Gauges of sites and connections that several routers of this process work on: each shard sets its part, and the metric is their sum.

Over processes Prometheus adds up. A site with one router sets its gauges itself.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from shared.telemetry.metrics import Telemetry
from shared.telemetry.names import CounterName, GaugeName

_LARGEST: Final = frozenset(
    {"router_lag_frames", "router_oldest_seconds", "account_unrouted_events", "router_connection_stopped"}
)
"""Of these the metric is the largest part."""

Labels = tuple[tuple[str, str], ...]


class Parts:
    """The parts of this process, by metric, labels and shard."""

    def __init__(self) -> None:
        self.values: defaultdict[tuple[GaugeName, Labels], dict[str, float]] = defaultdict(dict)


class ShardTelemetry(Telemetry):
    """The process's telemetry, for one shard.

    Args:
        whole: of the process; this one writes into the same instruments.
        parts: of the process.
        shard: the name of the shard.
    """

    def __init__(self, whole: Telemetry, parts: Parts, shard: str) -> None:
        self.__dict__.update(whole.__dict__)
        self._parts = parts
        self._shard = shard

    def gauge(self, name: GaugeName, value: float, **labels: str) -> None:
        """Sets this shard's part."""
        place = (name, tuple(sorted(labels.items())))
        self._parts.values[place][self._shard] = value
        self._show(place)

    def forget(self, *names: CounterName | GaugeName, **labels: str) -> None:
        """Takes this shard's parts away."""
        for place, parts in list(self._parts.values.items()):
            name, of = place
            if self._shard in parts and (not names or name in names) and labels.items() <= dict(of).items():
                del parts[self._shard]
                self._show(place)

    def _show(self, place: tuple[GaugeName, Labels]) -> None:
        (name, labels), parts = place, self._parts.values[place]
        if parts:
            super().gauge(name, (max if name in _LARGEST else sum)(parts.values()), **dict(labels))
        else:
            del self._parts.values[place]
            super().forget(name, **dict(labels))
