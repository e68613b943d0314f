"""The functions' runtime, its sandboxes, its neighbours and the broker killed under load: every event is where its function put it, once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, project, stream
from tests.support.exactly_once import settled
from tests.support.receiver import OK, Behaviour, Receiver, Request
from tests.support.sender import Books, Fate, Sender
from tests.support.stack import Stack, stack

SERVICES = ("ingest", "router", "functions_runtime", "loader")
VICTIMS = ("functions_runtime", "sandbox", "nats", "loader", "router")

CODE = """
export const config = {retryPolicy: {delays: [0.01]}};
const kindOf = (id) => Array.from(id).reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 1000003, 7) % 10;
export default async function (event, ctx) {
    const kind = kindOf(event.messageId);
    if (kind === 0) return null;
    if (kind === 1) throw new NoRetryError("one");
    if (kind === 2) return [event, {...event, messageId: event.messageId + "-copy", JITSU_TABLE_NAME: "copies"}];
    if (kind === 3 && ctx.retries < 1) throw new RetryError("later", {drop: true});
    if (kind === 6) throw new RetryError("never", {drop: true});
    if (kind === 4) await ctx.store.set(event.messageId, 1);
    if (kind === 5) return;
    event.properties = {...event.properties, revision: REVISION};
    return event;
}
"""


BATCH = """
const kindOf = (id) => Array.from(id).reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 1000003, 7) % 100;
export async function transformBatch(events, metadata) {
    const asked = await fetchV2("URL", {method: "POST", body: String(events.length)}).catch(() => null);
    const kinds = events.map((event) => kindOf(event.messageId));
    if (events.length > 1 && kinds.includes(99)) throw new Error("not together");
    if (kinds[0] === 99) throw new Error("nor alone");
    const going = events.filter((_, place) => kinds[place] % 10 !== 0);
    return going.reverse().flatMap((event) => {
        event.properties = {...event.properties, of: events.length, asked: asked?.status};
        return kindOf(event.messageId) % 10 === 2 ? [event, {...event, messageId: event.messageId + "-copy", JITSU_TABLE_NAME: "copies"}] : event;
    });
}
"""
"""Drops, multiplies, reorders, and throws where a certain event is among the others."""


def kind_of(id_: str, kinds: int = 10) -> int:
    """The same number as in the function."""
    total = 7
    for letter in id_:
        total = (total * 31 + ord(letter)) % 1_000_003
    return total % kinds


def expected(books: Books) -> tuple[Books, dict[str, Fate]]:
    """Where events belong behind the function; copies count as acknowledged with what they are copies of."""
    fates: dict[str, Fate] = {}
    acknowledged = set(books.acknowledged)
    for id_, sent in books.fates.items():
        kind = kind_of(id_)
        if not sent.tables:
            fates[id_] = sent
        elif kind == 0:
            fates[id_] = Fate()
        elif kind in (1, 6):
            fates[id_] = Fate(reasons=("function_failed",))
        else:
            fates[id_] = sent
            if kind == 2:
                fates[f"{id_}-copy"] = Fate(("copies",))
                if id_ in books.acknowledged:
                    acknowledged.add(f"{id_}-copy")
    return replace(books, acknowledged=acknowledged), fates


def expected_of_batches(books: Books) -> tuple[Books, dict[str, Fate]]:
    """As `expected`, behind `BATCH`."""
    fates: dict[str, Fate] = {}
    acknowledged = set(books.acknowledged)
    for id_, sent in books.fates.items():
        kind = kind_of(id_, 100) % 10
        fates[id_] = Fate() if kind == 0 else sent
        if kind == 2:
            fates[f"{id_}-copy"] = Fate(("copies",))
            if id_ in books.acknowledged:
                acknowledged.add(f"{id_}-copy")
    return replace(books, acknowledged=acknowledged), fates


def document(places: dict[str, Place], revision: int) -> dict[str, object]:
    """The project, with a function that says which revision it is of."""
    connections = {
        "through-pg": stream("through-pg", functions=["f"], shards=2),
        "through-duck": batch("through-duck", functions=["g", "f"], privacy=[{"field": "context.ip", "do": "drop"}]),
        "straight": stream("straight"),
    }
    functions = {
        "f": {"code": CODE.replace("REVISION", str(revision))},
        "g": {"code": "export default (event) => ({...event, second: true})"},
    }
    return {**project(connections, {name: place.destination for name, place in places.items()}), "functions": functions}


def ready(running: Stack) -> str:
    """What `/ready` of the runtime says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{running.admin['functions_runtime']}/ready", timeout=5) as answer:
            return str(answer.read())
    except urllib.error.HTTPError as exc:
        return exc.read().decode()
    except OSError as exc:
        return str(exc)


async def kill_and_start(running: Stack, victim: str, chance: random.Random) -> None:
    """Kills a process and starts it again after a moment; a sandbox is its runtime's to start."""
    print(f"kill {victim}")
    if victim == "sandbox":
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(running.pids["functions_runtime"]).children():
                child.kill()
        return
    if victim == "nats":
        running.nats.kill()
        await asyncio.sleep(chance.uniform(0, 0.5))
        await asyncio.to_thread(running.nats.start)
        return
    running.kill(victim)
    await asyncio.sleep(chance.uniform(0, 0.5))
    running.start(victim)


@pytest.mark.timeout(180 * ROUNDS)
async def test_functions_killed_at_any_moment_and_changed_under_load_lose_and_double_nothing(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    places: dict[str, Place] = {
        "through-pg": new_schema(),
        "through-duck": DuckSchema(tmp_path / "warehouse.duckdb", "one"),
        "straight": new_schema(),
    }
    with stack(tmp_path, {**QUICK, "PENSTOCK_FUNCTIONS_LEASE": "3s"}) as running:
        await running.apply(document(places, 0))
        await asyncio.to_thread(running.start_all, *SERVICES)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for revision in range(1, 6 * ROUNDS + 1):
                await asyncio.sleep(chance.choice([0.3, 1.0, 2.0]) * chance.uniform(0.5, 1.5))
                await kill_and_start(running, chance.choice(VICTIMS), chance)
                if revision % 2:
                    await running.apply(document(places, revision))
            await asyncio.sleep(1)
        await settled(running)
        judged, fates = expected(books)
        through = {"through-pg": fates, "through-duck": fates}
        await verify(running, judged, places, fates={**through, "straight": books.fates})


async def test_events_wait_while_functions_cannot_run_and_go_on_when_they_can(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    places: dict[str, Place] = {
        "through-pg": new_schema(),
        "through-duck": DuckSchema(tmp_path / "w.duckdb", "one"),
        "straight": new_schema(),
    }
    broken = document(places, 0)
    broken["functions"]["f"] = {"code": "export default (event) => {"}  # type: ignore[index]
    with stack(tmp_path, QUICK) as running:
        await running.apply(broken)
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader")
        running.start("functions_runtime")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            await asyncio.sleep(2)
        await settled(running, but=["through-pg", "through-pg=2", "through-duck"])
        async with asyncio.timeout(60):
            while not re.search("its functions cannot run: f: .*events wait", await asyncio.to_thread(ready, running)):
                await asyncio.sleep(0.05)
        assert await places["through-pg"].rows() == {}
        await running.apply(document(places, 1))
        await settled(running)
        judged, fates = expected(books)
        await verify(running, judged, places, fates={"through-pg": fates, "through-duck": fates, "straight": books.fates})


@pytest.mark.timeout(120 * ROUNDS)
async def test_a_runtime_or_sandbox_killed_inside_a_batch_loses_and_doubles_nothing(
    tmp_path: Path, chance: random.Random
) -> None:
    armed: list[tuple[str, bool]] = []
    place = DuckSchema(tmp_path / "w.duckdb", "one")
    with stack(tmp_path, {**QUICK, "PENSTOCK_FUNCTIONS_LEASE": "2s", "PENSTOCK_FUNCTIONS_EGRESS": "127.0.0.1"}) as running:

        def behave(_: Request) -> Behaviour:
            if not armed:
                return OK
            victim, answers = armed.pop()
            if victim == "sandbox":
                for child in psutil.Process(running.pids["functions_runtime"]).children():
                    child.kill()
            else:
                running.kill(victim)
            return OK if answers else Behaviour(what="cut")

        async with Receiver(behave) as receiver:
            functions = {"b": {"code": BATCH.replace("URL", receiver.url)}}
            connections = {"c": stream("c", functions=["b"])}
            await running.apply({**project(connections, {"c": place.destination}), "functions": functions})
            await asyncio.to_thread(running.start_all, *SERVICES)
            sender = Sender(running.port, chance.randrange(10**6))
            points = [(victim, answers) for victim in ("functions_runtime", "sandbox") for answers in (True, False)]
            for point in chance.sample(points * ROUNDS, len(points) * ROUNDS):
                print("kill", *point)
                armed.append(point)
                await sender.send(150)
                await receiver.until(lambda: not armed)
                if point[0] == "functions_runtime":
                    running.start("functions_runtime")
            await settled(running)
            judged, fates = expected_of_batches(sender.books)
            await verify(running, judged, {"c": place}, fates={"c": fates})
            assert max(int(request.body) for request in receiver.requests) > 1, "no batch had two events"
