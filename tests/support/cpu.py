"""Prints which files of tests cost most: `pytest -p tests.support.cpu -n 4 tests/faults`.

On a busy machine the time of a test says little. This adds up the CPU seconds of the tests' own process and of all that it started; servers that
tests share are with the first file that asks for them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import Any

import psutil
import pytest

SHOWN = 25

_costs: dict[str, list[float]] = {}
"""By file: CPU seconds, and seconds that passed."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measures a test with its fixtures."""
    spent, at = _spent(), time.monotonic()
    try:
        return (yield)
    finally:
        _add(item.nodeid.partition("::")[0], _spent() - spent, time.monotonic() - at)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands what a worker measured to the process that prints."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["cpu"] = _costs


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what a worker measured."""
    for file, (cpu, passed) in getattr(node, "workeroutput", {}).get("cpu", {}).items():
        _add(file, cpu, passed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the files that cost most."""
    total = sum(cpu for cpu, _ in _costs.values())
    terminalreporter.section(f"{total:.0f} CPU seconds of tests")
    for file, (cpu, passed) in sorted(_costs.items(), key=lambda each: -each[1][0])[:SHOWN]:
        terminalreporter.line(f"{cpu:7.1f} s of CPU in {passed:6.1f} s  {file}")


def _add(file: str, cpu: float, passed: float) -> None:
    known = _costs.setdefault(file, [0.0, 0.0])
    known[0] += cpu
    known[1] += passed


def _spent() -> float:
    """Returns the CPU seconds of this process and all below it, dead ones that were waited for too."""
    here = psutil.Process()
    total = sum(here.cpu_times()[:4])
    for child in here.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:4])
    return total
