"""What keeps one connection's trouble from the others of its process."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from loader.delivery import connection as module
from loader.delivery.connection import ConnectionLoader
from loader.delivery.flow import Definition
from loader.warehouses.duckdb.errors import translate
from shared.errors import Fenced, SetupError, Transient
from shared.jetstream import lease as leases
from shared.project.model import Connection, Site
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
        self.instance = "me"

    def count(self, name: str, **labels: str) -> None:
        self.counted.append(f"{name} {labels.get('result') or labels['plugin']}")


async def test_an_error_nobody_expected_is_tried_again_and_does_not_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.001))
    monkeypatch.setattr(module, "SETUP_RETRY_SECONDS", (0.001, 0.001))
    context = Context()
    errors: list[Exception] = [KeyError("oops"), SetupError("no disk"), RecursionError()]

    class Loader(ConnectionLoader):
        async def _session(self, epoch: int) -> None:
            if errors:
                raise errors.pop(0)
            context.draining.set()

    definition = Definition(Connection(site="shop", destination="wh"), Site(), {})
    loader = Loader(
        cast("ServiceContext", context), "c", definition, cast("Any", None), cast("Any", None), sweeper=cast("Any", None)
    )
    await loader._persist(1)
    assert context.health.said == [
        "connection c: unexpected KeyError: 'oops'",
        "connection c: no disk",
        "connection c: unexpected RecursionError: ",
    ]
    assert len(context.counted) == 3


async def test_an_error_that_a_plug_in_does_not_know_is_counted_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001, 0.001))
    context = Context()
    errors: list[Exception] = [translate(Exception("odd"), "loading"), Transient("known"), translate(Exception("odd"), "loading")]

    class Loader(ConnectionLoader):
        async def _session(self, epoch: int) -> None:
            if errors:
                raise errors.pop(0)
            context.draining.set()

    definition = Definition(Connection(site="shop", destination="wh"), Site(), {"type": "duckdb"})
    await Loader(
        cast("ServiceContext", context), "c", definition, cast("Any", None), cast("Any", None), sweeper=cast("Any", None)
    )._persist(1)
    assert context.counted.count("driver_errors_unknown_total duckdb") == 2


async def test_a_ledger_of_another_stack_is_told_as_such_and_taken_over_only_when_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SETUP_RETRY_SECONDS", (0.001, 0.001))
    stored: list[int] = []

    async def holder(*_: object) -> str:
        return "me"

    async def raise_above(_broker: object, _name: str, epoch: int, newest: int) -> int:
        stored.append(newest + 1 - epoch)
        return stored[-1]

    monkeypatch.setattr(leases, "holder", holder)
    monkeypatch.setattr(module, "raise_above", raise_above)
    epochs: list[int] = []

    class Loader(ConnectionLoader):
        async def _session(self, epoch: int) -> None:
            epochs.append(epoch)
            if epoch < 99:
                if len(epochs) == 3:
                    self._claims = True
                raise Fenced("a newer epoch", 99)
            context.draining.set()

    context = Context()
    definition = Definition(Connection(site="shop", destination="wh"), Site(), {})
    loader = Loader(
        cast("ServiceContext", context), "c", definition, cast("Any", None), cast("Any", None), sweeper=cast("Any", None)
    )
    await loader._persist(7)
    assert epochs == [7, 7, 7, 100]
    assert stored == [93]
    assert len(context.health.said) == 2
    assert "PENSTOCK_LOADER_CLAIM=c" in context.health.said[0]
