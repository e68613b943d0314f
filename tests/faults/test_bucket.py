"""Files in S3 while loaders are killed, a loader freezes and another takes over, and the server stops answering."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import Bucket, Place
from tests.faults.project import QUICK, ROUNDS, batch, project
from tests.faults.test_frozen import succeeded, taken_by
from tests.faults.test_kills import kill_and_start
from tests.support.s3 import S3Server, moto_server
from tests.support.sender import Sender
from tests.support.stack import stack


@pytest.fixture
def mortal_s3() -> Iterator[S3Server]:
    """A server of this test's own, to freeze."""
    with moto_server() as server:
        yield server


@pytest.mark.timeout(240 * ROUNDS)
async def test_killed_and_frozen_loaders_and_a_server_that_hangs_lose_and_double_nothing(
    tmp_path: Path, mortal_s3: S3Server, chance: random.Random
) -> None:
    bucket = Bucket(mortal_s3)
    places: dict[str, Place] = {"c": bucket}
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": batch("lake")}, {"lake": bucket.destination}))
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader", "loader-2")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for _ in range(ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                await kill_and_start(running, await taken_by(running, "loader.c"), chance)
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                os.kill(mortal_s3.pid, signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(2, 6))
                os.kill(mortal_s3.pid, signal.SIGCONT)
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                frozen = await taken_by(running, "loader.c")
                running.freeze(frozen)
                await succeeded(running, "loader.c", frozen)
                await asyncio.sleep(chance.uniform(0.2, 2.0))
                running.thaw(frozen)
            await asyncio.sleep(1)
        await verify(running, books, places)
    assert await bucket.rows()
