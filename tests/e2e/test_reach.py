"""Commands find a broker as it is: they create no stream and change none. Services say what keeps them from using it."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

from penstock.command.cli import run
from penstock.control.reach import Reach, open_broker
from penstock.stack.home import Home
from penstock.terminal import exits
from shared.errors import SetupError, Transient
from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.support.forked import start_forked
from tests.support.nats import NatsServer
from tests.support.ports import free_port


async def test_a_command_changes_no_stream_and_says_which_are_missing(nats: NatsServer, tmp_path: Path) -> None:
    reach = Reach(Home(tmp_path), nats.url, None)
    with pytest.raises(SetupError, match=r"the broker lacks EVENTS, FUNCTIONS, DELIVER.*a service creates them"):
        async with open_broker(reach):
            pass
    async with connect(nats.url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings(events_max_bytes=topology.SMALLEST_BYTES))
        before = [each.config for each in await broker.js.streams_info()]
        async with open_broker(reach):
            pass
        assert [each.config for each in await broker.js.streams_info()] == before
        await broker.js.delete_stream(topology.DEAD)
        with pytest.raises(SetupError, match="the broker lacks DEAD;"):
            async with open_broker(reach):
                pass


async def test_a_user_without_permissions_is_named_as_the_cause_and_not_the_time_that_passed(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    server.more_config = 'authorization { users: [{user: u, password: p, permissions: {publish: {deny: "$JS.API.>"}}}] }\n'
    with server:
        async with connect(f"nats://u:p@127.0.0.1:{server.port}", "test", patience_seconds=60) as broker:
            broker.js._timeout = 0.2  # an answer never comes
            with pytest.raises(
                Transient,
                match=r"may not make it \(permissions violation for publish.*; start a router, .* allow the user to publish to",
            ):
                await topology.ensure(broker, topology.TopologySettings())


@pytest.mark.timeout(240)
async def test_a_broker_that_is_away_one_that_refuses_the_user_and_one_without_room_are_told_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, port = NatsServer(tmp_path / "nats"), free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {**os.environ, "PENSTOCK_NATS_URL": server.url, "PENSTOCK_ADMIN_PORT": str(port), "PENSTOCK_LOG_FORMAT": "text"}
    log = tmp_path / "router.log"
    status = ["status", "--url", server.url, "--home", str(tmp_path), "--metrics", url]

    monkeypatch.setattr("penstock.control.reach.PATIENCE_SECONDS", 0.5)

    def said() -> str:
        return " ".join(capfd.readouterr().err.split())

    def problems() -> dict[str, str]:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=2):
                return {}
        except urllib.error.HTTPError as answer:
            found: dict[str, str] = json.load(answer)["problems"]
            return found
        except OSError:
            return {}

    async def told(part: str, why: str) -> dict[str, str]:
        async with asyncio.timeout(60):
            while why not in (found := problems()).get(part, ""):
                await asyncio.sleep(0.05)
        return found

    with log.open("wb") as output:
        router = start_forked("router", variables, output)
        try:
            assert "streams" not in await told("broker", "nothing listens there; start the broker")
            assert await asyncio.to_thread(run, status) == exits.UNREACHABLE
            assert "broker: no connection to nats://127.0.0.1" in said()

            server.more_config = "authorization { user: u, password: p }\n"
            with server:
                assert "streams" not in await told("broker", "refuses the user or the password; correct its address")
            server.more_config, server.max_file = "", 2**20
            with server:
                assert "broker" not in await told("streams", "insufficient storage resources available")
                assert "give JetStream more room: max_file_store" in problems()["streams"]
                assert await asyncio.to_thread(run, status) == exits.SETUP
                printed = said()
                assert "streams: cannot be prepared: the stream " in printed
                assert "no connection" not in printed
        finally:
            router.kill()
            router.wait()
    # the router tries four times a second and says only what is new; between two brokers nothing listens for a moment
    words = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    for text in ("nothing listens there", "refuses the user", "streams cannot be prepared"):
        assert any(text in line for line in words), words
    assert all(line != following for line, following in pairwise(words)), words
