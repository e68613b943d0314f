"""The edge as a process: drained, killed, without its broker, with its journal, and several on one port. Always by sets of ids."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import pytest

from ingest.journal.records import Record
from ingest.journal.spool import open_spool
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.jetstream.broker import Broker
from shared.service import EXIT_CONFIG
from tests.e2e.ingest.edge import ROOT, Edge, browser, edge_process, is_ready, start, stop, track
from tests.support.nats import NatsServer
from tests.support.ports import free_port

KEY = {"X-Write-Key": "web"}


@dataclass
class Load:
    """What clients heard of what they sent."""

    acknowledged: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    sent: int = 0
    stop: bool = False

    async def until(self, more: int) -> None:
        """Waits until so many more events are acknowledged."""
        wanted = len(self.acknowledged) + more
        ends_at = time.monotonic() + 60
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < ends_at, f"{len(self.acknowledged)} of {wanted} acknowledged; answers: {self.statuses}"
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def load(edge: Edge, clients: int = 12) -> AsyncIterator[Load]:
    """Clients that send 1 to 30 events a request and, like SDKs, send what was not acknowledged again under the same ids."""
    state = Load()

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        chance = random.Random(number)
        turn = 0
        waiting: list[str] = []
        while not state.stop or waiting:
            if not waiting:
                waiting = [f"c{number}-{turn}-{n}" for n in range(chance.randint(1, 30))]
                turn += 1
                state.sent += len(waiting)
            body = json.dumps({"batch": [track(id_) for id_ in waiting]})
            try:
                async with session.post(f"{edge.url}/v1/batch", data=body, headers=KEY) as answer:
                    state.statuses[answer.status] += 1
                    if answer.status == 200:
                        state.acknowledged.update(waiting)
                        waiting = []
                    else:
                        assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True)
                        await asyncio.sleep(0.1)
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)

    async with browser() as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number, session))
        try:
            yield state
        finally:
            state.stop = True


async def check(edge: Edge, state: Load) -> None:
    """Everything acknowledged is stored, nothing else is, and a frame was never stored twice."""
    stored = await edge.events()
    ids = {each.head.message_id for each in stored}
    assert state.acknowledged <= ids
    assert len(state.acknowledged) == state.sent
    assert len(ids) == state.sent
    assert all(json.loads(each.body)["messageId"] == each.head.message_id for each in stored)


@pytest.mark.timeout(240)
async def test_a_drained_edge_answers_what_it_took_and_loses_nothing(nats: NatsServer, broker: Broker, tmp_path: Path) -> None:
    async with edge_process(nats, broker, tmp_path) as edge, load(edge) as state:
        for _ in range(3):
            await state.until(300)
            assert await asyncio.to_thread(stop, edge) == 0
            await start(edge, nats)
    await check(edge, state)
    assert set(state.statuses) == {200}
    stored = Counter(await edge.ids())
    assert max(stored.values()) == 1, "a request that was answered was sent again, or the other way round"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("spool", [False, True])
async def test_an_edge_killed_again_and_again_loses_nothing_it_acknowledged(
    nats: NatsServer, broker: Broker, tmp_path: Path, spool: bool
) -> None:
    environment = {"PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool")} if spool else {}
    chance = random.Random(5)
    async with edge_process(nats, broker, tmp_path, **environment) as edge, load(edge) as state:
        for _ in range(4):
            await state.until(chance.randint(50, 400))
            await asyncio.to_thread(stop, edge, signal.SIGKILL)
            await start(edge, nats, environment)
        await state.until(100)
    await check(edge, state)


@pytest.mark.timeout(240)
async def test_a_broker_killed_again_and_again_costs_time_but_no_event(nats: NatsServer, broker: Broker, tmp_path: Path) -> None:
    async with edge_process(nats, broker, tmp_path) as edge, load(edge) as state:
        for _ in range(4):
            await state.until(200)
            await asyncio.to_thread(nats.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(nats.start)
        await state.until(200)
    await check(edge, state)


@pytest.mark.timeout(240)
async def test_without_a_journal_a_broker_that_stays_away_means_503_with_a_time_to_come_back(
    nats: NatsServer, broker: Broker, tmp_path: Path
) -> None:
    async with edge_process(nats, broker, tmp_path, PENSTOCK_INGEST_DEADLINE="500ms") as edge, load(edge) as state:
        await state.until(100)
        nats.kill()
        async with asyncio.timeout(60):
            while state.statuses[503] < 20:
                await asyncio.sleep(0.05)
        nats.start()
        await state.until(200)
    await check(edge, state)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("killed", [False, True])
async def test_with_a_journal_clients_go_on_while_the_broker_is_away_and_the_journal_comes_first_in_order(
    nats: NatsServer, broker: Broker, tmp_path: Path, killed: bool
) -> None:
    environment = {"PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool"), "PENSTOCK_INGEST_SPOOL_AFTER": "200ms"}
    async with edge_process(nats, broker, tmp_path, **environment) as edge:
        async with load(edge) as state:
            await state.until(100)
            nats.kill()
            await asyncio.sleep(0.5)
            await state.until(2000)
            assert set(state.statuses) == {200}
            assert list((tmp_path / "spool" / "0").glob("*.journal"))
            assert await asyncio.to_thread(is_ready, edge.admin_port), "a balancer must go on sending"
            if killed:
                await asyncio.to_thread(stop, edge, signal.SIGKILL)
                await asyncio.to_thread(nats.start)
                await start(edge, nats, environment)
            else:
                await asyncio.to_thread(nats.start)
            await state.until(500)
        async with asyncio.timeout(60):
            while list((tmp_path / "spool" / "0").glob("*.journal")):
                await asyncio.sleep(0.05)
        await check(edge, state)
    if killed:
        return  # a request that was cut off is sent again and lies behind itself
    first_seen = {id_: position for position, id_ in reversed(list(enumerate(await edge.ids())))}
    for client in range(12):
        turns = sorted(
            (position, int(id_.split("-")[1])) for id_, position in first_seen.items() if id_.startswith(f"c{client}-")
        )
        assert [turn for _, turn in turns] == sorted(turn for _, turn in turns), f"events of client {client} changed places"


@pytest.mark.timeout(240)
async def test_a_full_journal_means_503_and_room_comes_back(nats: NatsServer, broker: Broker, tmp_path: Path) -> None:
    environment = {
        "PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool"),
        "PENSTOCK_INGEST_SPOOL_AFTER": "100ms",
        "PENSTOCK_INGEST_SPOOL_MAX_BYTES": "64KiB",
    }
    async with edge_process(nats, broker, tmp_path, **environment) as edge, load(edge) as state:
        await state.until(100)
        nats.kill()
        async with asyncio.timeout(60):
            while state.statuses[503] < 20:
                await asyncio.sleep(0.02)
        nats.start()
        await state.until(500)
    await check(edge, state)


@pytest.mark.timeout(240)
async def test_several_processes_share_a_port_and_one_that_dies_comes_back(
    nats: NatsServer, broker: Broker, tmp_path: Path
) -> None:
    environment = {"PENSTOCK_INGEST_PROCESSES": "2", "PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool")}
    async with edge_process(nats, broker, tmp_path, **environment) as edge:
        assert edge.process is not None
        parent = psutil.Process(edge.process.pid)
        async with load(edge) as state:
            await state.until(300)
            victims = parent.children()
            assert len(victims) == 2
            victims[0].kill()
            await state.until(300)
            async with asyncio.timeout(60):
                while {child.pid for child in parent.children()} & {victims[0].pid} or len(parent.children()) < 2:
                    await asyncio.sleep(0.05)
            await state.until(300)
        async with browser() as session, asyncio.timeout(60):
            both = 0
            while both != 2:
                async with session.get(f"http://127.0.0.1:{edge.admin_port}/metrics") as page:
                    both = (await page.text()).count("\nconfig_revision{")
        children = parent.children()
        await check(edge, state)
        second = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "ingest"],
            cwd=ROOT,
            env={"PATH": "", "PENSTOCK_NATS_URL": nats.url, **environment, "PENSTOCK_INGEST_PORT": str(edge.port)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (second.returncode, b"address already in use" in second.stderr) == (EXIT_CONFIG, True)
        assert stop(edge) == 0
        assert not any(child.is_running() for child in children)


@pytest.mark.timeout(240)
async def test_a_killed_parent_takes_its_processes_with_it_and_the_next_finds_port_and_journals_free(
    nats: NatsServer, broker: Broker, tmp_path: Path
) -> None:
    environment = {"PENSTOCK_INGEST_PROCESSES": "2", "PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool")}
    async with edge_process(nats, broker, tmp_path, **environment) as edge:
        assert edge.process is not None
        async with load(edge) as state:
            await state.until(300)
            children = psutil.Process(edge.process.pid).children()
            assert len(children) == 2
            edge.process.kill()
            edge.process.wait()
            _, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
            assert not alive
            await start(edge, nats, environment)
            await state.until(300)
        assert len(psutil.Process(edge.process.pid).children()) == 2
        await check(edge, state)


@pytest.mark.timeout(240)
async def test_the_journal_of_a_process_that_is_no_more_is_emptied_by_the_first(
    nats: NatsServer, broker: Broker, tmp_path: Path
) -> None:
    heads, bodies = [Head("left-behind", "page", None, "u")], [b'{"type":"page","userId":"u"}']
    payload = encode_frame(pack("shop", [RequestContext(1, "segment", "web")], heads, bodies))
    async with open_spool(tmp_path / "spool" / "3", 2**20) as spool:
        await spool.store(Record("events.shop.0", "frame-1", 1, payload))
    async with edge_process(nats, broker, tmp_path, PENSTOCK_INGEST_SPOOL_DIR=str(tmp_path / "spool")) as edge:
        async with asyncio.timeout(60):
            while await edge.ids() != ["left-behind"]:
                await asyncio.sleep(0.05)
        while list((tmp_path / "spool" / "3").glob("*.journal")):
            await asyncio.sleep(0.05)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PENSTOCK_INGEST_PORT": "many"}, "PENSTOCK_INGEST_PORT"),
        ({"PENSTOCK_INGEST_TRUSTED_PROXIES": "10.0.0/8"}, "PENSTOCK_INGEST_TRUSTED_PROXIES"),
        ({"PENSTOCK_INGEST_GEO_FILE": "/nowhere.mmdb"}, "PENSTOCK_INGEST_GEO_FILE"),
        ({"PENSTOCK_INGEST_SPOOL_DIR": "/proc/nowhere"}, "PENSTOCK_INGEST_SPOOL_DIR"),
        ({"PENSTOCK_INGEST_PROCESSES": "2", "PENSTOCK_INGEST_GEO_FILE": "/nowhere.mmdb"}, "PENSTOCK_INGEST_GEO_FILE"),
    ],
)
def test_wrong_settings_end_the_process_with_their_name_and_a_code_of_their_own(
    nats: NatsServer, environment: dict[str, str], words: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "ingest"],
        cwd=ROOT,
        env={"PATH": "", "PENSTOCK_NATS_URL": nats.url, "PENSTOCK_INGEST_PORT": str(free_port()), **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == EXIT_CONFIG, ended.stderr.decode()
    assert words in ended.stderr.decode()
