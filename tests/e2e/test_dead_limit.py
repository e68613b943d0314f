"""A connection whose events mostly die stops, loses nothing, stays stopped over a restart, and goes on when a person says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.watch.stop import read_stop, resume
from penstock.control.metrics import Scrape
from penstock.control.status.balance import read_view
from penstock.control.status.status import read_status
from router.forwarding.account import Account
from router.forwarding.state import SiteState, StateKeeper
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import current_snapshot
from tests.e2e.loader_support import dead, drained, events, put, queue, start
from tests.support.command import LocalStack
from tests.support.duckdb_file import opened
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(240)

STOPPED = "most events die, the connection is stopped"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as started:
        yield started


def project(path: Path, **connection: Any) -> dict[str, Any]:
    """A connection that takes only events with `k`."""
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(path)}},
        "connections": {
            "c": {
                "site": "shop",
                "destination": "wh",
                "mode": "stream",
                "layout": "single_table",
                "primary_key": ["k"],
                "dead_limit": {"events": 10, "ratio": 0.5, "period": "1h"},
                **connection,
            }
        },
    }


def loaded(path: Path) -> set[str]:
    with opened(path, read_only=True) as link:
        return {row[0] for row in link.execute("select message_id from main.events").fetchall()}


async def told(running: Stack) -> str:
    """Waits until `/ready` warns that the connection is stopped; a stopped connection takes no readiness away."""

    def ask() -> dict[str, str]:
        url = f"http://127.0.0.1:{running.admin['loader']}/ready"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # 503 and no answer raise
            return dict(json.load(answer)["warnings"])
        return {}

    async with asyncio.timeout(60):
        while "stopped by its dead letters" not in (why := (await asyncio.to_thread(ask)).get("connection c", "")):
            await asyncio.sleep(0.1)
    return why


async def waiting(broker: Broker) -> int:
    return (await broker.js.stream_info(topology.DELIVER)).state.messages


async def test_most_events_dying_stops_the_line_until_a_person_lets_it_go_on(running: Stack, tmp_path: Path) -> None:
    path = tmp_path / "wh.duckdb"
    document = project(path)
    await start(running, document)
    good, bad = [f"good{n}" for n in range(5)], [f"bad{n}" for n in range(20)]
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, [event for id_ in good for event in events(id_, k=id_)])
        await drained(broker)
        for number, id_ in enumerate(bad):  # loads of one event
            await put(broker, number + 2, events(id_))
        why = await told(running)
        assert "missing_key" in why
        assert "penstock resume c" in why
        letters = {letter.message_id for letter in await dead(broker)}
        assert len(letters) < 5
        async with asyncio.timeout(60):
            while await waiting(broker) != len(bad) - len(letters):  # the last acknowledgement may be under way
                await asyncio.sleep(0.05)
        assert running.metric("loader", "loader_stopped", connection="c") == 1
        assert STOPPED in running.log("loader")

        running.kill("loader")
        running.start("loader")
        await told(running)
        assert {letter.message_id for letter in await dead(broker)} == letters

        name = await queue(broker)
        assert await resume(broker, name)
        async with asyncio.timeout(60):
            while running.log("loader").count(STOPPED) < 2:
                await asyncio.sleep(0.1)
        await told(running)
        keeper = StateKeeper(broker, "shop")
        await keeper.load()
        await keeper.save(SiteState(accepted=25, accounts={"c": Account(queue=name, left=None, forwarded=25)}))
        snapshot = await current_snapshot(broker)
        status = await read_status(broker, snapshot.project, 1, [Scrape("http://x")], 0.0)
        assert (status.connections[0].state, status.healthy) == ("stopped", False)
        assert "penstock resume c" in status.connections[0].why
        view = await read_view(broker, "shop", name, SiteState())
        counts = view.ended.settled().counts  # a load may be noted as pending since its loader was killed
        assert (counts.delivered, sum(counts.dead.values())) == (len(good), len(letters))
        assert counts.delivered + len(letters) + view.queue.events == len(good) + len(bad)

        fixed = project(path, deduplicate=False)
        await running.apply(fixed)
        await drained(broker)
        assert await read_stop(broker, name) is None
        async with asyncio.timeout(60):
            while running.metric("loader", "loader_stopped", connection="c"):
                await asyncio.sleep(0.1)
        assert {letter.message_id for letter in await dead(broker)} == letters
        running.stop("loader")  # which has the file open between two loads
        assert loaded(path) == {*good, *bad} - letters


async def test_the_command_lets_a_connection_go_on_and_bury_what_waits(running: Stack, tmp_path: Path) -> None:
    await start(running, project(tmp_path / "wh.duckdb"))
    ids = [f"bad{n}" for n in range(20)]
    local = LocalStack(tmp_path)
    async with connect(running.nats.url, "test") as broker:

        def command(*arguments: str) -> int:
            return local.run(*arguments, "--url", running.nats.url).code

        assert command("resume", "c") == 1
        assert command("resume", "d") == 2
        await put(broker, 1, events(*ids))
        await told(running)
        assert await dead(broker) == []
        assert await asyncio.to_thread(command, "resume", "c", "--without-limit", "1h") == 0
        await drained(broker)
        assert {letter.message_id for letter in await dead(broker)} == set(ids)
        await put(broker, 2, events(*ids), msg_id="again")
        await drained(broker)
