"""Secrets that a project refers to: read again without a restart, and never told in any failure."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from shared.errors import Permanent
from shared.events.frame import decode_frame
from shared.jetstream.broker import Broker, connect
from tests.e2e.loader_support import events, ids, put
from tests.support.otlp import Collector, collector
from tests.support.postgres import PostgresServer
from tests.support.receiver import Behaviour, Receiver, Request
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    (tmp_path / "secrets").mkdir()
    with stack(tmp_path, {"PENSTOCK_SECRETS_FOLDERS": str(tmp_path / "secrets"), "PENSTOCK_LOG_LEVEL": "debug"}) as started:
        yield started


async def change_password(server: PostgresServer, role: str, password: str, *, create: bool = False) -> None:
    import asyncpg

    link = await asyncpg.connect(server.dsn())
    try:
        await link.execute(f"{'CREATE' if create else 'ALTER'} ROLE {role} WITH LOGIN SUPERUSER PASSWORD '{password}'")
        await link.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
    finally:
        await link.close()


async def test_a_changed_password_is_read_again_and_loads_go_on_without_a_restart(
    running: Stack, postgres_server: PostgresServer
) -> None:
    secret = running.folder / "secrets" / "pg"
    await change_password(postgres_server, "rotating", "first-Pa55word", create=True)
    secret.write_text("first-Pa55word\n")
    user, _, rest = postgres_server.dsn(user="rotating").partition("@")
    dsn = f"{user.rpartition(':')[0]}:${{file:{secret}}}@{rest}"
    document = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "postgres", "dsn": dsn, "schema": "rotated"}},
        "connections": {
            "c": {"site": "shop", "destination": "wh", "mode": "stream", "layout": "single_table", "deduplicate": False}
        },
    }
    async with connect(running.nats.url, "test") as broker:
        await running.apply(document)
        running.start_all("loader")
        await put(broker, 1, events("a", "b"))

        async def loaded(*wanted: str) -> None:
            async with asyncio.timeout(90):
                while True:
                    try:
                        if await ids(postgres_server, "rotated") == list(wanted):
                            return
                    except Exception:  # noqa: BLE001 - the table is not there yet
                        pass
                    await asyncio.sleep(0.1)

        await loaded("a", "b")
        pid = running.pids["loader"]
        await change_password(postgres_server, "rotating", "second-Pa55word")
        await put(broker, 2, events("c"))

        async def refused() -> None:
            async with asyncio.timeout(90):
                while not await asyncio.to_thread(lambda: "password" in running.log("loader")):
                    await asyncio.sleep(0.1)

        await refused()
        secret.write_text("second-Pa55word\n")
        await loaded("a", "b", "c")
        assert running.pids["loader"] == pid
        log = (running.folder / "loader.log").read_text()
        assert "Pa55word" not in log


PLANTED = {
    "dsn": "Planted-dsn-7c1f",
    "header": "Planted-header-a93e",
    "body": "Planted-query-51bd",
}


def forms(secret: str) -> list[bytes]:
    """The forms in which a secret could be told."""
    coded = base64.b64encode(secret.encode())[:-4]
    return [secret.encode(), quote(secret, safe="").encode(), coded]


async def messages(broker: Broker) -> list[bytes]:
    """All that the broker keeps: payloads, headers, subjects, and bodies of frames."""
    found: list[bytes] = []
    for info in await broker.js.streams_info():
        for seq in range(info.state.first_seq, info.state.last_seq + 1) if info.state.messages else ():
            try:
                message = await broker.js.get_msg(str(info.config.name), seq)
            except Exception:  # noqa: BLE001 - a hole
                continue
            found += [message.data or b"", repr(message.headers).encode(), (message.subject or "").encode()]
            try:
                found.append(decode_frame(message.data or b"").open())
            except Permanent:
                continue
    return found


def exported(at: Collector) -> list[bytes]:
    """All that the collector got, among it failed calls and loads, and what was logged of them."""
    at.until(lambda: any(got.what.status.code == 2 for got in at.named("load deliver.c")))
    at.until(lambda: any("nobody" in str(got.attributes) for got in at.lines))
    return [got.what.SerializeToString() for got in (*at.spans, *at.lines, *at.metrics)]


def answer_of(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as exc:
        return exc.read()


def told_by_commands(running: Stack) -> list[bytes]:
    """What people see: exports, plans, the state, dead letters, and errors."""
    told: list[bytes] = []
    project = running.folder / "penstock.yaml"
    for arguments in (
        ["export"], ["status"], ["status", "--json"], ["dead", "list", "--json"], ["dead", "show", "1.0"], ["history", "--json"],
        ["plan", str(project)], ["plan", str(project), "--json"], ["check", "--json"], ["check"], ["query", "pg", "select 1"],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "penstock", *arguments, "--url", running.nats.url],
            env={**os.environ, "PENSTOCK_HOME": str(running.folder / "home"), "PENSTOCK_SECRETS_FOLDERS": str(running.folder / "secrets")},
            capture_output=True, timeout=120, check=False, cwd=running.folder,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        told += [done.stdout, done.stderr]
    return told


async def test_no_secret_is_told_by_anything_however_its_use_fails(running: Stack, postgres_server: PostgresServer) -> None:
    for name, value in PLANTED.items():
        (running.folder / "secrets" / name).write_text(value)

    def echo(request: Any) -> Behaviour:
        """A server that refuses, and tells what it was sent."""
        words = json.dumps({"path": request.path, **dict(request.headers)})
        return Behaviour(status=400 if len(request.events) and request.events[0]["messageId"] < "c" else 500, body=words.encode())

    with collector() as at:
        await check_what_is_told(running, postgres_server, echo, at)


async def check_what_is_told(
    running: Stack, postgres_server: PostgresServer, echo: Callable[[Request], Behaviour], at: Collector
) -> None:
    telemetry = {"PENSTOCK_OTLP_ENDPOINT": at.url, "PENSTOCK_OTLP_PERIOD": "100ms", "PENSTOCK_TRACE_RATIO": "1"}
    async with Receiver(echo) as receiver, connect(running.nats.url, "test") as broker:
        folder = running.folder / "secrets"
        host = postgres_server.dsn().rpartition("@")[2]
        await running.apply(
            {
                "sites": {"shop": {"keys": [{"id": "k"}]}},
                "destinations": {
                    "pg": {"type": "postgres", "dsn": f"postgresql://nobody:${{file:{folder}/dsn}}@{host}"},
                    "crm": {
                        "type": "webhook", "url": f"{receiver.url}?token=${{file:{folder}/body}}", "retry_delay": 0.2,
                        "headers": {"Authorization": f"Bearer ${{file:{folder}/header}}"},
                    },
                },
                "connections": {
                    "c": {"site": "shop", "destination": "crm", "mode": "stream"},
                    "rows": {"site": "shop", "destination": "pg", "mode": "stream"},
                },
            }
        )  # fmt: skip
        running.start("ingest", **telemetry)
        running.start("router", **telemetry)
        for service in ("ingest", "router"):
            running.wait_ready(service)
        running.start("loader", **telemetry)
        await put(broker, 1, events("a", "b"))
        await put(broker, 2, events("c"))
        await put(broker, 1, events("a"), connection="rows")

        async def seen() -> bool:
            log = await asyncio.to_thread(running.log, "loader")
            calls = {each["messageId"] for request in receiver.requests for each in request.events}
            return calls >= {"a", "b", "c"} and "nobody" in log

        async with asyncio.timeout(120):
            while not await seen():
                await asyncio.sleep(0.1)
        # it was really sent
        assert any(PLANTED["header"] in request.headers.get("authorization", "") for request in receiver.requests)
        assert any(PLANTED["body"] in request.path for request in receiver.requests)
        told = [path.read_bytes() for path in running.folder.glob("*.log")]
        for service, port in running.admin.items():
            for page in ("live", "ready", "metrics"):
                assert service
                told.append(await asyncio.to_thread(answer_of, f"http://127.0.0.1:{port}/{page}"))
        told += await messages(broker)
        told += await asyncio.to_thread(told_by_commands, running)
        told += exported(at)
        assert sum(map(len, told)) > 10_000
        for name, secret in PLANTED.items():
            for form in forms(secret):
                found = [each for each in told if form in each]
                assert not found, f"{name} as {form!r} in {found[0][:2000]!r}"
