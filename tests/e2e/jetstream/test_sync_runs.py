"""A person who asked for a run of a sync gets the answer of that run, also after later runs."""

from __future__ import annotations

import pytest

from penstock.control.syncs.runs import follow_run
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.syncs.records import Ask, RunRecord, Status, encode, run_key, runs_key

ASKED = Ask(id="mine", what="run", at=0.0)


def record(number: int, status: Status, asked: str = "") -> RunRecord:
    return RunRecord(number=number, sync="s", connector="c", destination="d", began=float(number), status=status, asked=asked)


@pytest.mark.parametrize(
    ("runs", "number"),
    [
        ([record(7, "failed", "mine")], 7),
        ([record(7, "failed", "mine"), record(8, "succeeded"), record(9, "running")], 7),
        ([record(7, "interrupted", "mine"), record(8, "succeeded"), record(9, "running")], 8),
        ([record(7, "interrupted", "mine"), record(8, "interrupted"), record(9, "partial")], 9),
    ],
)
async def test_the_run_that_was_asked_for_answers(broker: Broker, runs: list[RunRecord], number: int) -> None:
    *earlier, newest = runs
    bucket = Bucket(broker, topology.STATE_BUCKET)
    await bucket.put(runs_key("s"), encode(earlier[::-1]))
    await bucket.put(run_key("s"), encode(newest))
    seen: list[RunRecord] = []
    found = await follow_run(broker, "s", ASKED, lambda run, _: seen.append(run))
    assert found.number == number
    assert [each.number for each in seen] == [number]
