"""What people, `/ready`, metrics and logs are told of syncs is true in each fault: one stack with a sync for each."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from penstock.control.metrics import scrape_all
from penstock.control.status.status import read_status
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.project.snapshot import current_snapshot
from shared.streams.sync_state import SyncStatus
from shared.syncs.records import Ask, ask, log_of
from tests.support.bad_connectors import connector, installed
from tests.support.stack import Stack, stack
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.timeout(240)

WELL = "state('a', {}); status('a', 'COMPLETE')\n"
ONE = "row('a', {'id': 1}); " + WELL


class Case(NamedTuple):
    """A sync, how its run ends, and what must be said of it."""

    connector: dict[str, Any]
    state: str
    why: tuple[str, ...] = ()
    loaded: int = 0
    dead: int = 0
    log: tuple[str, ...] = ()
    sync: dict[str, Any] = {}  # noqa: RUF012


CASES: dict[str, Case] = {
    "absent": Case({**connector(ONE), "package": "source-absent"}, "failed", ("index of packages does not answer", "try again: penstock sync run absent")),
    "killed": Case(connector("row('a', {'id': 1}); os.kill(os.getpid(), 9)"), "failed", ("ended with code -9", "penstock sync logs killed")),
    "hung": Case(connector("time.sleep(600)", stall_timeout="1s"), "failed", ("it was silent for 1 s", "raise `stall_timeout`")),
    "flood": Case(connector("sys.stderr.write('noise\\n' * 20000); " + ONE), "ok", loaded=1, log=("noise", "left out")),
    "counts": Case(connector("row('a', {'id': 1}); state('a', {}, 2); status('a', 'COMPLETE')"), "failed", ("counts 2 rows of a",)),
    "early": Case(connector("state('a', {'n': 0}); row('a', {'id': 1}); " + WELL), "ok", loaded=1),
    "changing": Case(connector("row('a', {'id': 1}); row('a', {'id': 2, 'new': {'x': 'y'}, 'more': 1.5}); " + WELL), "ok", loaded=2),
    "huge": Case(connector("row('a', {'id': 1, 'text': os.urandom(25 << 20).hex()}); " + WELL, max_line="64MiB"), "failed", ("stream a", "max_payload", "mend this")),
    "conflict": Case(connector(ONE), "failed", ("stream a", "conflict_a", "mend this, then: penstock sync run conflict")),
    "in-part": Case(connector("row('b', {'id': 1}); state('b', {}); status('b', 'COMPLETE'); " + ONE, streams=["a", "b"]), "partial", ("failed in part: stream b", "in_part_b")),
    "gone": Case(connector(ONE), "failed", ("no such stream",), sync={"streams": {"b": {}}}),
    "no-cursor": Case({"type": "postgres", "dsn": "DSN"}, "failed", ("gone_column",), sync={"streams": {"public.things": {"mode": "incremental", "cursor": "gone_column"}}}),
    "login": Case({"type": "postgres", "dsn": "WRONG"}, "failed", ("password", "mend this, then: penstock sync run login")),
}  # fmt: skip


def with_password(dsn: str, password: str | None = None, port: int | None = None) -> str:
    place = urlsplit(dsn)
    host = f"{place.username}:{password or place.password}@127.0.0.1:{port or place.port}"
    return urlunsplit(place._replace(netloc=host))


def project(dsn: str, through: int) -> dict[str, Any]:
    """All syncs, and one that goes on until a file is there, into a warehouse behind a proxy."""
    words = json.dumps({name: case.connector for name, case in CASES.items()})
    connectors = json.loads(words.replace("DSN", dsn).replace("WRONG", with_password(dsn, "hunter2")))
    slow = "n = 0\nwhile not os.path.exists(config['stop']):\n    n += 1; row('a', {'id': n}); state('a', {'n': n}); time.sleep(0.05)\nstatus('a', 'COMPLETE')\n"
    connectors["slow"] = connector(slow)
    syncs: dict[str, Any] = {
        name: {"connector": name, "destination": "wh", "table_prefix": f"{name.replace('-', '_')}_", **case.sync}
        for name, case in CASES.items()
    }
    syncs["slow"] = {"connector": "slow", "destination": "far", "table_prefix": "slow_", "streams": {"a": {"write": "append"}}}
    syncs["refused"] = {"connector": "early", "destination": "closed", "table_prefix": "refused_"}
    for each in syncs.values():
        each.update(retries=0, period="200ms")
    syncs["off"] = {"connector": "early", "destination": "wh", "enabled": False}
    syncs["never"] = {"connector": "early", "destination": "wh", "table_prefix": "never_"}
    schema = {"schema": "states"}
    return {
        "destinations": {
            "wh": {"type": "postgres", "dsn": dsn, **schema},
            "far": {"type": "postgres", "dsn": with_password(dsn, port=through), **schema},
            "closed": {"type": "postgres", "dsn": with_password(dsn, "hunter2"), **schema},
        },
        "connectors": connectors,
        "syncs": syncs,
    }


class Told:
    """What a person sees, from the broker and from the services."""

    def __init__(self, running: Stack, broker: Broker) -> None:
        self._running = running
        self._broker = broker

    async def syncs(self) -> dict[str, SyncStatus]:
        alive = [name for name in self._running.admin if self._running.running(name)]
        scrapes = await scrape_all([f"http://127.0.0.1:{self._running.admin[name]}" for name in alive])
        snapshot = await current_snapshot(self._broker)
        found = await read_status(self._broker, snapshot.project, snapshot.revision, scrapes, asyncio.get_running_loop().time())
        return {each.sync: each for each in found.syncs}

    async def until(self, name: str, good: Callable[[SyncStatus], bool]) -> SyncStatus:
        """Waits until what is told of a sync is so."""
        found: SyncStatus | None = None
        try:
            async with asyncio.timeout(60):
                while not good(found := (await self.syncs())[name]):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{name} stays {found}") from None
        assert found is not None
        return found

    def ready(self, service: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._running.admin[service]}/ready", timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)

    async def ask(self, name: str, what: Any = "run") -> None:
        await ask(Bucket(self._broker, topology.STATE_BUCKET), name, Ask(id=name, what=what, at=0.0))

    def tells(self, name: str, failing: bool) -> bool:
        """Whether the metrics say that no run of a sync goes on, and how the last one ended."""
        return (self.metric("sync_failing", name), self.metric("sync_running", name)) == (float(failing), 0)

    def metric(self, metric: str, sync: str) -> float:
        return self._running.metric("connector_runner", metric, sync=sync)


@asynccontextmanager
async def stage(folder: Path, dsn: str) -> AsyncIterator[tuple[Stack, Broker, Told, TcpProxy]]:
    installed(folder / "cache")
    link = await asyncpg.connect(dsn)
    try:
        await link.execute("DROP SCHEMA IF EXISTS states CASCADE; CREATE SCHEMA states; DROP TABLE IF EXISTS public.things")
        await link.execute("CREATE TABLE public.things (id int primary key, at timestamptz)")
        for table in ("conflict_a", "in_part_b"):
            await link.execute(f"CREATE VIEW states.{table} AS SELECT 1::bigint AS id")
    finally:
        await link.close()
    environment = {
        "PENSTOCK_CONNECTOR_CACHE_DIR": str(folder / "cache"),
        "UV_DEFAULT_INDEX": "http://127.0.0.1:1/simple",
        "UV_HTTP_RETRIES": "0",
        "UV_PYTHON_DOWNLOADS": "never",
    }
    async with TcpProxy(urlsplit(dsn).port or 5432) as proxy:
        with stack(folder, environment) as running:
            await asyncio.to_thread(running.start_all, "loader", "connector_runner")
            async with connect(running.nats.url, "test") as broker:
                document = project(dsn, proxy.port)
                document["connectors"]["slow"]["config"]["stop"] = str(folder / "stop")
                await running.apply(document)
                yield running, broker, Told(running, broker), proxy


async def test_each_fault_of_a_run_is_told_in_every_place(tmp_path: Path, postgres_dsn: str) -> None:
    async with stage(tmp_path, postgres_dsn) as (running, broker, told, proxy):
        for name in (*CASES, "refused", "slow"):
            await told.ask(name)
        found: dict[str, SyncStatus] = {}
        for name in CASES:
            found[name] = await told.until(
                name, lambda each: each.state not in ("never ran", "running", "no runner", "no loader")
            )
        bucket = Bucket(broker, topology.STATE_BUCKET)
        logs = {name: await log_of(bucket, name, found[name].run) for name in CASES}
        for name, case in CASES.items():  # the services say it a moment after the record does
            await told.until(name, lambda _, name=name, case=case: told.tells(name, case.state != "ok"))  # type: ignore[misc]
        code, ready = told.ready("connector_runner")
        assert code == 200, ready
        assert ready["problems"] == {}
        for name, case in CASES.items():
            each, log = found[name], logs[name]
            assert each.state == case.state, each
            assert [word for word in case.why if word not in each.why] == [], each.why
            if case.state == "ok":  # of a run that fails it depends on the moment
                assert (each.rows_loaded, each.rows_dead) == (case.loaded, case.dead), each
            assert (each.last_success_at is not None) == (case.state == "ok")
            assert (f"sync {name}" in ready["warnings"]) == (case.state != "ok")
            assert log is not None
            text = "\n".join(line.text for line in log.lines)
            assert [word for word in case.log if word not in text] == [], text[-2000:]
            assert "hunter2" not in text + each.why + str(ready)
        assert "run ended" in running.log("connector_runner")

        # a destination that refuses the login holds the run, and nothing is lost
        refused = await told.until("refused", lambda each: each.state == "held")
        assert "password" in refused.why
        assert "1 batch waits in its queue, and none is lost" in refused.why
        assert "penstock check closed" in refused.why
        every = await told.syncs()
        assert (every["off"].state, every["never"].state) == ("disabled", "never ran")

        # the warehouse goes away while rows come, and is back
        await told.until("slow", lambda each: each.state == "running" and each.rows_loaded > 0)
        proxy.vanish()
        proxy.cut()
        held = await told.until("slow", lambda each: each.state == "held" and each.waiting_batches > 1)
        assert "penstock check far" in held.why
        await told.until("slow", lambda _: told.metric("sync_held", "slow") == 1)  # as soon as the connector has to wait
        assert "is held: " in told.ready("connector_runner")[1]["warnings"]["sync slow"]
        proxy.flow()
        proxy.cut()
        again = await told.until("slow", lambda each: each.state == "running" and each.rows_loaded > held.rows_loaded)
        assert again.why == ""

        # nobody runs it, nobody loads it
        await asyncio.to_thread(running.kill, "loader")
        gone = await told.until("slow", lambda each: each.state == "no loader")
        assert "is the service loader up?" in gone.why
        await asyncio.to_thread(running.start, "loader")
        await told.until("slow", lambda each: each.state == "running")
        await asyncio.to_thread(running.kill, "connector_runner")
        gone = await told.until("slow", lambda each: each.state == "no runner")
        assert f"run {gone.run} was cut off, and goes on as soon as one does" in gone.why
        before = gone.run
        await told.ask("never")
        gone = await told.until("never", lambda each: each.state == "no runner")
        assert "a run is asked for" in gone.why
        await asyncio.to_thread(running.start, "connector_runner")
        await told.until("never", lambda each: each.state == "ok")
        await told.until("slow", lambda each: each.state == "running" and each.run > before)
        await told.until("killed", lambda _: told.tells("killed", True))  # also after a restart
        assert "ended with code -9" in told.ready("connector_runner")[1]["warnings"]["sync killed"]

        # the broker goes and comes
        await asyncio.to_thread(running.nats.kill)
        await asyncio.to_thread(running.nats.start)
        await told.until("slow", lambda each: each.state == "running")
        (tmp_path / "stop").touch()
        # frames are acknowledged behind the note that ends the run
        await told.until("slow", lambda each: each.state == "ok" and each.waiting_batches == 0)
    link = await asyncpg.connect(postgres_dsn)
    try:
        ids = [row["id"] for row in await link.fetch("SELECT DISTINCT id FROM states.slow_a ORDER BY id")]
    finally:
        await link.close()
    assert ids == list(range(1, len(ids) + 1))
