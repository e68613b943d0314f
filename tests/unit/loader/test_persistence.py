"""What keeps one connection's trouble from the others of its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from loader.queue import persistence as module
from loader.queue.persistence import Persistence
from loader.warehouses.duckdb.errors import translate
from shared.errors import Fenced, PenstockError, SetupError, Transient
from shared.jetstream import lease as leases
from shared.service import ServiceContext


class Health:
    def __init__(self) -> None:
        self.said: list[str] = []

    def bad(self, part: str, why: str) -> None:
        self.said.append(f"{part}: {why}")


class Context:
    """As much of a service as a connection that only fails needs."""

    def __init__(self) -> None:
        self.draining, self.health, self.telemetry, self.broker = asyncio.Event(), Health(), self, self
        self.counted: list[str] = []
        self.failures: list[str] = []
        self.instance = "me"

    def count(self, name: str, **labels: str) -> None:
        self.counted.append(f"{name} {labels['plugin']}")

    async def failed(self, error: PenstockError) -> None:
        self.failures.append(str(error))

    def persistence(self) -> Persistence:
        return Persistence(
            cast("ServiceContext", self),
            what="connection",
            name="c",
            ledger="c",
            lease="loader.c",
            destination={"type": "duckdb"},
            claims=False,
            failed=self.failed,
        )

    def failing(self, errors: list[Exception]) -> Callable[[int], Any]:
        async def session(_: int) -> None:
            if errors:
                raise errors.pop(0)
            self.draining.set()

        return session


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_offset(*_: object) -> int:
        return 0

    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.001))
    monkeypatch.setattr(module, "SETUP_RETRY_SECONDS", (0.001, 0.001))
    monkeypatch.setattr(module, "read_offset", no_offset)


async def test_an_error_nobody_expected_is_tried_again_and_does_not_end_the_process() -> None:
    context = Context()
    await context.persistence().run(1, context.failing([KeyError("oops"), SetupError("no disk"), RecursionError()]))
    assert context.health.said == [
        "connection c: unexpected KeyError: 'oops'",
        "connection c: no disk",
        "connection c: unexpected RecursionError: ",
    ]
    assert len(context.failures) == 3


async def test_an_error_that_a_plug_in_does_not_know_is_counted_for_it() -> None:
    context = Context()
    errors: list[Exception] = [translate(Exception("odd"), "loading"), Transient("known"), translate(Exception("odd"), "loading")]
    await context.persistence().run(1, context.failing(errors))
    assert context.counted == ["driver_errors_unknown_total duckdb"] * 2


async def test_a_ledger_of_another_stack_is_told_as_such_and_taken_over_only_when_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored: list[int] = []

    async def holder(*_: object) -> str:
        return "me"

    async def raise_above(_broker: object, _name: str, epoch: int, newest: int) -> int:
        stored.append(newest + 1 - epoch)
        return stored[-1]

    monkeypatch.setattr(leases, "holder", holder)
    monkeypatch.setattr(module, "raise_above", raise_above)
    epochs: list[int] = []
    context = Context()
    persistence = context.persistence()

    async def session(epoch: int) -> None:
        epochs.append(epoch)
        if epoch < 99:
            if len(epochs) == 3:
                persistence._claims = True
            raise Fenced("a newer epoch", 99)
        context.draining.set()

    await persistence.run(7, session)
    assert epochs == [7, 7, 7, 100]
    assert stored == [93]
    assert len(context.health.said) == 2
    assert "PENSTOCK_LOADER_CLAIM=c" in context.health.said[0]
