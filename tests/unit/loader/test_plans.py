"""Load plans: an unfinished one is kept whatever else is loaded, and rows that were set aside are loaded once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from loader.contract.warehouse import LoadPlan
from loader.queue.plans import KEPT_LANES, Plans


class Kept:
    """Stands for the bucket `state`."""

    def __init__(self) -> None:
        self.value, self.revision = b"", 0

    async def get(self, _: str) -> Any:
        return SimpleNamespace(value=self.value, revision=self.revision) if self.value else None

    async def put(self, _: str, value: bytes, *, revision: int) -> int:
        assert revision == self.revision
        self.value, self.revision = value, revision + 1
        return self.revision


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    bucket = Kept()
    monkeypatch.setattr("loader.queue.plans.Bucket", lambda *_: bucket)
    return bucket


async def read(_: Kept) -> Plans:
    plans = Plans(cast("Any", None), "c")
    await plans.read()
    return plans


async def test_an_unfinished_plan_outlives_any_number_of_lanes_that_end(kept: Kept) -> None:
    plans = await read(kept)
    await plans.write(LoadPlan("c", "live", 1, 9), done=False)
    for number in range(KEPT_LANES + 10):
        await plans.write_aside("orders", "live", number + 1)
        await plans.write(LoadPlan("c", f"replay.{number}", 1, 1), done=True)
    again = await read(kept)
    assert again.unfinished() == {"live": 9}
    assert len(again.loaded()) == KEPT_LANES + 1
    assert ("orders", "live", 9) in again.asides()


async def test_rows_put_aside_and_loaded_are_known_until_their_frame_cannot_come_again(kept: Kept) -> None:
    plans = await read(kept)
    await plans.write(LoadPlan("c", "live", 1, 9), done=False)
    await plans.write_aside("orders", "live", 5)
    await plans.write_aside("or\nders", "live", 12)
    plans = await read(kept)
    assert plans.asides() == {("orders", "live", 5), ("or\nders", "live", 12)}
    await plans.write(LoadPlan("c", "live", 1, 9), done=True)
    await plans.write_aside("orders", "live", 7)
    assert (await read(kept)).asides() == {("or\nders", "live", 12)}
    assert (await read(kept)).loaded() == {"live": 9}
