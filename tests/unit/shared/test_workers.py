"""Workers follow the project: one for each key, under a lease, changed, cancelled or ended as the service says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared import workers
from shared.errors import ConfigError, Problem, Transient
from shared.jetstream.lease import Lease
from shared.project.model import Project
from shared.project.snapshot import ConfigSnapshot, ConfigWatcher
from shared.service import ServiceContext
from shared.telemetry.health import Health
from shared.workers import Workers


class Bench:
    """A service whose workers note what happens to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.notes: list[str] = []
        self.leases: dict[str, Lease] = {}
        self.wanted: Mapping[str, str] = {}
        self.health, self.config, self.draining = Health(), ConfigWatcher(), asyncio.Event()
        self.errors: list[Exception] = []
        context = SimpleNamespace(health=self.health, config=self.config, draining=self.draining, broker=None, instance="me")
        monkeypatch.setattr(workers, "hold", self._hold)
        monkeypatch.setattr(workers, "AGAIN_SECONDS", 0.0)
        self.workers: Workers[str] = Workers(
            cast("ServiceContext", context), what="site", prefix="router", lease_seconds=2.0,
            wanted=self._look, make=lambda key, definition: _Worker(self, key, definition), **options,
        )  # fmt: skip

    def _look(self, snapshot: ConfigSnapshot) -> Mapping[str, str]:
        if snapshot.revision == 99:
            raise ConfigError([Problem("sites", "wrong")])
        return self.wanted

    @contextlib.asynccontextmanager
    async def _hold(self, _broker: object, name: str, _owner: str, _seconds: float) -> AsyncIterator[Lease]:
        self.leases[name] = Lease(name, 1)
        yield self.leases[name]

    def apply(self, revision: int, **wanted: str) -> None:
        self.wanted = wanted
        self.config.replace(ConfigSnapshot(revision, Project()))

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError(self.notes)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.workers.run())
        try:
            yield
        finally:
            self.draining.set()
            await task


class _Worker:
    def __init__(self, bench: Bench, key: str, definition: str) -> None:
        self._bench, self._key, self._definition = bench, key, definition

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        self._bench.notes.append(f"{self._key} begins {self._definition}")
        if self._bench.errors:
            raise self._bench.errors.pop(0)
        try:
            await ending.wait()
        except asyncio.CancelledError:
            self._bench.notes.append(f"{self._key} is cancelled")
            raise
        self._bench.notes.append(f"{self._key} ends in order")

    def change(self, definition: str) -> bool:
        if not definition.startswith("soft"):
            return False
        self._bench.notes.append(f"{self._key} becomes {definition}")
        return True


async def test_workers_follow_the_project_and_end_in_order_when_the_service_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    async with bench.running():
        bench.apply(1, a="1", b="1")
        await bench.until(lambda: len(bench.notes) == 2)
        bench.apply(2, a="soft 2", b="2")
        await bench.until(lambda: "b begins 2" in bench.notes)
        bench.apply(99)  # wrong: the last good one stays
        await bench.until(lambda: bool(bench.health.problems))
        assert list(bench.workers.keys) == ["a", "b"]
    assert bench.notes == [
        "a begins 1", "b begins 1", "a becomes soft 2", "b is cancelled", "b begins 2", "a ends in order", "b ends in order",
    ]  # fmt: skip


@pytest.mark.parametrize(("in_order", "end"), [(True, "a ends in order"), (False, "a is cancelled")])
async def test_a_key_that_leaves_the_project(monkeypatch: pytest.MonkeyPatch, in_order: bool, end: str) -> None:
    bench = Bench(monkeypatch, in_order=in_order)
    async with bench.running():
        bench.apply(1, a="1")
        await bench.until(lambda: len(bench.notes) == 1)
        bench.apply(2)
        await bench.until(lambda: end in bench.notes and not bench.workers.keys)


async def test_a_service_that_drains_while_a_worker_is_cancelled_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, leaves, may_leave = Bench(monkeypatch), asyncio.Event(), asyncio.Event()

    async def work(self: _Worker, _lease: Lease, _ending: asyncio.Event) -> None:
        self._bench.notes.append(f"{self._key} begins {self._definition}")
        try:
            await asyncio.Event().wait()
        finally:
            leaves.set()
            await may_leave.wait()

    monkeypatch.setattr(_Worker, "work", work)
    async with asyncio.timeout(60):
        async with bench.running():
            bench.apply(1, a="1")
            await bench.until(lambda: bench.notes == ["a begins 1"])
            bench.apply(2)
            await leaves.wait()
            bench.draining.set()
            await asyncio.sleep(0)
            may_leave.set()


async def test_a_worker_that_fails_begins_again_and_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.errors = [Transient("away"), KeyError("a defect")]
    async with bench.running():
        bench.apply(1, a="1", b="1")
        await bench.until(lambda: len(bench.notes) == 4)
        assert sorted(bench.notes) == ["a begins 1", "a begins 1", "b begins 1", "b begins 1"]


async def test_a_worker_whose_lease_is_lost_is_cancelled_and_takes_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    async with bench.running():
        bench.apply(1, a="1")
        await bench.until(lambda: len(bench.notes) == 1)
        bench.leases["router.a"].lost.set()
        await bench.until(lambda: len(bench.notes) == 3)
        assert bench.notes == ["a begins 1", "a is cancelled", "a begins 1"]


async def test_a_change_in_the_middle_of_a_look_leads_to_another_look(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [asyncio.Event()]
    bench = Bench(monkeypatch, moved=lambda: turns[-1].wait())

    class Wanted(dict[str, str]):
        """A look at the project, in which another part of the process changes what is wanted."""

        def items(self) -> Any:
            bench.wanted = {"a": "1", "b": "1"}
            turns[-1].set()
            turns.append(asyncio.Event())
            return super().items()

    async with bench.running():
        bench.apply(1)
        bench.wanted = Wanted(a="1")
        await bench.until(lambda: set(bench.notes) == {"a begins 1", "b begins 1"})
