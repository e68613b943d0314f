"""What processes cost: CPU seconds and memory by process, and how much of the machine other programs used meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil


@dataclass(slots=True)
class Cost:
    """CPU seconds, the largest and the last resident size in MB of one named group of processes; `own…`: of its first process alone."""

    cpu_seconds: float = 0.0
    own_cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    own_peak_mb: float = 0.0
    curve_mb: list[float] = field(default_factory=list)


class Meter:
    """Samples named processes and their children from `__enter__` to `__exit__`."""

    def __init__(self, processes: Mapping[str, int], every_seconds: float = 0.5) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._every = every_seconds
        self._stop = threading.Event()
        self.costs = {name: Cost() for name in processes}
        self.wall_seconds = 0.0
        self.others_share = 0.0
        """Share of the machine that processes other than ours used."""

    def __enter__(self) -> Meter:
        self._began = time.monotonic()
        self._before = {name: _cpu(process) for name, process in self._processes.items()}
        self._own_before = {name: _own_cpu(process) for name, process in self._processes.items()}
        self._machine = _busy()
        self._own = time.process_time()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.wall_seconds = time.monotonic() - self._began
        total = time.process_time() - self._own
        for name, process in self._processes.items():
            self.costs[name].cpu_seconds = _cpu(process) - self._before[name]
            self.costs[name].own_cpu_seconds = _own_cpu(process) - self._own_before[name]
            total += self.costs[name].cpu_seconds
        busy = _busy() - self._machine
        self.others_share = max(0.0, busy - total) / max(1e-9, self.wall_seconds * (psutil.cpu_count() or 1))

    def _sample(self) -> None:
        while not self._stop.wait(self._every):
            for name, process in self._processes.items():
                size = _memory(process)
                cost = self.costs[name]
                cost.peak_mb = max(cost.peak_mb, size)
                cost.own_peak_mb = max(cost.own_peak_mb, _own_memory(process))
                cost.curve_mb.append(size)


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for member in _family(process):
        try:
            times = member.cpu_times()
        except psutil.Error:
            continue
        # children_user and children_system count those that ended meanwhile
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _own_cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _own_memory(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.Error:
        return 0.0


def _memory(process: psutil.Process) -> float:
    total = 0.0
    for member in _family(process):
        try:
            info = member.memory_info()
            total += (info.rss - getattr(info, "shared", 0)) if member.pid != process.pid else info.rss
        except psutil.Error:
            continue
    return total / 1e6


def _busy() -> float:
    times = psutil.cpu_times()
    return float(
        times.user
        + times.system
        + times.nice
        + getattr(times, "irq", 0)
        + getattr(times, "softirq", 0)
        + getattr(times, "steal", 0)
    )
