"""Alerts of a running stack: a destination goes away and comes back, the router that evaluates is killed between, dead letters come in numbers, a
channel does not work. Each change is told once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.alerts.keeper import LEASE
from router.alerts.store import ALL
from shared.events.dead import DeadLetter, bury
from shared.jetstream.broker import Broker, connect
from shared.jetstream.lease import holder
from tests.e2e.loader_support import drained, events, project, put
from tests.support.command import LocalStack
from tests.support.postgres import PostgresServer
from tests.support.receiver import OK, Behaviour, Receiver, Request
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(240)

RULES = {"after": "1s", "every": "1s", "repeat": 0}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, {"PENSTOCK_ROUTER_ALERTS_PERIOD": "300ms"}, sync="2m") as started:
        yield started


def items(receiver: Receiver, kind: str) -> list[dict[str, Any]]:
    """Returns what was told of a kind, in its order, as a receiver reads it that looks at `Idempotency-Key`."""
    messages: dict[str, list[bytes]] = {}
    for request in receiver.taken:
        messages.setdefault(request.key, []).append(request.body)
    # a router killed between the write and the note of its outcome leaves one repeat, under the same key
    assert all(len(bodies) <= 2 for bodies in messages.values())
    found = [item for bodies in messages.values() for item in json.loads(bodies[0])["items"]]
    return [item for item in found if item["kind"] == kind]


async def evaluator(broker: Broker, running: Stack, *, other_than: str = "") -> str:
    """Returns the name of the router that evaluates, once one does."""
    async with asyncio.timeout(60):
        while True:
            pid = (await holder(broker, LEASE) or "").rpartition("-")[2]
            names = [name for name, each in running.pids.items() if str(each) == pid and name != other_than]
            if names:
                return names[0]
            await asyncio.sleep(0.1)


def warnings(running: Stack) -> dict[str, str]:
    """Returns the warnings of both routers."""
    found: dict[str, str] = {}
    for name in ("router", "router-2"):
        with contextlib.suppress(OSError):
            try:
                answer = urllib.request.urlopen(f"http://127.0.0.1:{running.admin[name]}/ready", timeout=5)
            except urllib.error.HTTPError as exc:
                answer = exc
            with answer:
                found |= json.load(answer)["warnings"]
    return found


def letters(count: int) -> list[DeadLetter]:
    return [
        DeadLetter(
            stage="loader", site="shop", connection="c", reason="too_deep", detail="the value 'hunter2'", body=b'{"card":"hunter2"}',
            at=1.0, origin=f"live:1:{number}", message_id=f"m{number}",
        )
        for number in range(count)
    ]  # fmt: skip


async def test_each_change_is_told_once_although_the_evaluator_is_killed_between(
    running: Stack, postgres: PostgresServer, tmp_path: Path
) -> None:
    def behave(request: Request) -> Behaviour:
        return Behaviour(status=404, body=b"no such hook") if request.path == "/wrong" else OK

    async with Receiver(behave) as receiver, connect(running.nats.url, "test", patience_seconds=60) as broker:
        document = project(postgres, "alerts_e2e")
        document["alerts"] = {"ops": {"type": "webhook", "url": receiver.url, "when": ["connection", "dead"], **RULES}}
        await running.apply(document)
        await asyncio.to_thread(running.start_all, "loader", "router", "router-2")
        await put(broker, 1, events("a"))
        await drained(broker)

        await asyncio.to_thread(postgres.kill)
        try:
            await put(broker, 2, events("b"))
            await receiver.until(lambda: items(receiver, "connection"))
            killed = await evaluator(broker, running)
            running.kill(killed)
            await evaluator(broker, running, other_than=killed)
        finally:
            await asyncio.to_thread(postgres.start)
        await drained(broker)
        await receiver.until(lambda: len(items(receiver, "connection")) > 1)
        running.start(killed)

        await bury(broker.publisher, "loader", "c", letters(450), msg_id="one")
        await receiver.until(lambda: items(receiver, "dead"))
        await bury(broker.publisher, "loader", "c", letters(450), msg_id="two")

        document["alerts"]["wrong"] = {
            "type": "webhook",
            "url": f"http://127.0.0.1:{receiver.port}/wrong",
            "when": ["dead"],
            **RULES,
        }
        await running.apply(document)
        async with asyncio.timeout(60):
            while "no such hook" not in (await asyncio.to_thread(warnings, running)).get("alerts wrong", ""):
                await asyncio.sleep(0.1)

        local = LocalStack(tmp_path)
        tested = await asyncio.to_thread(local.run, "alerts", "test", "ops", "--json", "--url", running.nats.url)
        assert (tested.code, tested.json["taken"]) == (0, True)
        failed = await asyncio.to_thread(local.run, "alerts", "test", "wrong", "--json", "--url", running.nats.url)
        assert (failed.code, "404: no such hook" in failed.json["why"]) == (1, True)
        listed = await asyncio.to_thread(local.run, "alerts", "list", "--json", "--url", running.nats.url)
        (ops, wrong) = listed.json["alerts"]
        assert list(ops["firing"]) == list(wrong["firing"]) == ["dead loader c"]
        assert "404" in wrong["trouble"]
        assert listed.json["evaluated_by"].startswith("router-")

        async def silence(*words: str) -> Any:
            return await asyncio.to_thread(local.run, "alerts", "silence", *words, "--json", "--url", running.nats.url)

        typo = await silence("ops", "--about", "cc")
        assert (typo.code != 0, "nothing is named" in typo.err) == (True, True)
        assert (await silence("nobody")).code != 0
        begun = await silence("ops", "--about", "wh", "--for", "1h")
        assert (begun.code, begun.json["about"]) == (0, "wh")
        await silence("--about", "c", "--for", "2h")
        held = (await asyncio.to_thread(local.run, "alerts", "list", "--json", "--url", running.nats.url)).json["silences"]
        assert {name: [each["about"] for each in some] for name, some in held.items()} == {"ops": ["wh"], ALL: ["c"]}
        ended = await silence("ops", "--about", "c", "--for", "0s")
        assert ended.json["also_silent_until"] is not None, "the silence of every alert still covers it"
        await silence("--about", "c", "--for", "0s")
        await silence("ops", "--for", "0s")
        held = (await asyncio.to_thread(local.run, "alerts", "list", "--json", "--url", running.nats.url)).json["silences"]
        assert held == {}

    told = [(item["key"], item["status"]) for item in items(receiver, "connection")]
    assert told == [("connection c", "failing"), ("connection c", "recovered")]
    (dead,) = items(receiver, "dead")
    assert dead["why"].startswith("450 since ") or dead["why"].startswith("200 since ") or dead["why"].startswith("400 since ")
    assert dead["sample"] == {"reason": "too_deep", "messageId": "m0"}
    assert not any(b"hunter2" in request.body for request in receiver.requests)
    assert [json.loads(request.body)["test"] for request in receiver.taken].count(True) == 1
