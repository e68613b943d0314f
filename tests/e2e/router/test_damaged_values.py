"""Damaged values in the buckets, and values of a later release: the router holds the site that one belongs to, and goes on with the others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from penstock.control.status.status import read_status
from router.alerts.store import LEDGERS, MEMORY_KEY, SILENCES
from router.forwarding.state import SHED_KEY, state_key
from shared.archive.note import PREFIX as ARCHIVES
from shared.errors import Conflict
from shared.events.shards import Shard, layout_key, read_layouts
from shared.forget.requests import REQUESTS as FORGET
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.hold_back import PREFIX as READERS
from shared.jetstream.kv import Bucket
from shared.project.read import decode_project
from shared.streams.removed import OLDER_KEY
from shared.streams.reports import read_reports
from shared.streams.runs import REQUESTS, RUNS, WISHES
from tests.support.nats import NatsServer
from tests.support.router import apply, put, reading, router_process, until

GARBAGE = (b"\xff\x00{", b'{"later": "release"}', b"[]")
OF_STATE = (
    f"{RUNS}r1", f"{REQUESTS}hurt", f"{WISHES}hurt", f"{ARCHIVES}hurt", f"{LEDGERS}x", f"{SILENCES}x", MEMORY_KEY, SHED_KEY, OLDER_KEY,
    "problems.dead", "problems.warnings", state_key("hurt"), "catalog.hurt", "removed.hurt",
)  # fmt: skip
PROJECT: dict[str, Any] = {
    "sites": {"hurt": {}, "well": {}},
    "destinations": {"wh": {"type": "duckdb"}},
    "connections": {name: {"site": name, "destination": "wh"} for name in ("hurt", "well")},
}


async def damage(broker: Broker, value: bytes, *, layout: bool) -> None:
    state, leases = Bucket(broker, topology.STATE_BUCKET), Bucket(broker, topology.LEASE_BUCKET)
    for key in (*OF_STATE, *([layout_key("hurt")] if layout else [])):
        await state.put(key, value)
    for key in ("keeper.shares.hurt.other", f"keeper.given.{Shard(0, 2).key('hurt')}", f"{READERS}x"):
        await leases.put(key, value, ttl_seconds=60)
    await Bucket(broker, topology.FORGOTTEN_BUCKET).put(f"{FORGET}x", value)


async def told(broker: Broker, part: str, *, there: bool = True) -> str:
    """Waits until the router's report names a part, or names it no more."""
    async with asyncio.timeout(60):
        while True:
            reports = [each.report for each in await read_reports(broker, time.time()) if each.service == "router"]
            found = [why for report in reports for where, why in report.problems.items() if where == part]
            if reports and bool(found) is there:
                return found[0] if found else ""
            await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_a_damaged_layout_holds_its_site_alone_and_no_damaged_value_ends_a_router(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await apply(broker, PROJECT)
    await damage(broker, GARBAGE[0], layout=True)
    sent: dict[str, set[str]] = {"hurt": set(), "well": set()}
    with router_process(nats.url, tmp_path / "router.log") as router:
        async with reading(broker, "well", "hurt") as (well, hurt):
            for round_, value in enumerate(GARBAGE):
                await damage(broker, value, layout=True)
                for site, ids in sent.items():
                    ids.add(f"{site}-{round_}")
                    await put(broker, [f"{site}-{round_}"], site=site)
                await until(lambda: set(well.ids) == sent["well"])
            assert "the layout of site hurt" in await told(broker, "layout of hurt")
            assert not hurt.ids
            status = await read_status(broker, decode_project(PROJECT), 1, [], 0.0)
            assert any("layout of site hurt" in why for why in status.problems.values())
            state = Bucket(broker, topology.STATE_BUCKET)
            await state.delete(layout_key("hurt"))
            await state.delete(state_key("hurt"))
            await until(lambda: set(hurt.ids) == sent["hurt"])
            await told(broker, "layout of hurt", there=False)
        assert router.running
    assert not well.twice()
    assert not hurt.twice()


async def test_layouts_that_make_no_sense_are_damaged_too(broker: Broker) -> None:
    state = Bucket(broker, topology.STATE_BUCKET)
    for number, value in enumerate(
        (b'{"splits": []}', b'{"splits": [{"since": 1, "of": 0}]}', b'{"splits": [{"since": 1, "of": 99}]}')
    ):
        await state.put(layout_key(f"s{number}"), value)
    await state.put(layout_key("good"), b'{"splits": [{"since": 1, "of": 2}]}')
    layouts, damaged = await read_layouts(broker)
    assert (list(layouts), sorted(damaged)) == (["good"], ["s0", "s1", "s2"])


async def test_a_key_that_was_deleted_does_not_exist(broker: Broker) -> None:
    state = Bucket(broker, topology.STATE_BUCKET)
    first = await state.put("k", b"1", revision=0)
    with pytest.raises(Conflict):
        await state.put("k", b"2", revision=0)
    await state.delete("k")
    assert await state.put("k", b"3", revision=0) > first
    with pytest.raises(Conflict):
        await state.put("k", b"4", revision=0)
