"""A person is forgotten while events flow: the receipt, and our own look into tables, streams and buckets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from functions_runtime.rules.visitor import open_visitor
from penstock.control.status.audit import audit
from shared.errors import Permanent
from shared.events.frame import decode_frame
from shared.forget.requests import read_part, read_receipt
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import current_snapshot
from tests.faults.places import DuckSchema, Schema
from tests.support.exactly_once import settled
from tests.support.postgres import PostgresServer
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(300)

JANE, DEVICE = "jane-7f3a@example.com", "device-9c1e"
FUNCTION = """
export default async function (event, {log, store}) {
  log.info(`saw ${event.userId}`)
  await store.set(`seen:${event.userId}`, {last: event.messageId, who: event.userId})
  if (event.event === "Broken") throw new NoRetryError(`no ${event.userId}`)
  return event
}
"""
SERVICES = ("ingest", "router", "functions_runtime", "loader")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    archive = {"PENSTOCK_ROUTER_ARCHIVE_DIR": str(tmp_path / "archive"), "PENSTOCK_ROUTER_ARCHIVE_PERIOD": "1s"}
    with stack(tmp_path, {"PENSTOCK_FUNCTIONS_LEASE": "2s", **archive}) as started:
        yield started


def events(first: int, count: int, **more: Any) -> list[dict[str, Any]]:
    """Events of jane, of her device without a user, and of eight neighbours, in turns."""
    people = [
        {"userId": JANE},
        {"anonymousId": DEVICE},
        *({"userId": f"neighbour-{number}", "anonymousId": f"device-{number}"} for number in range(8)),
    ]
    return [
        {"messageId": f"m{number}", "type": "track", "event": "Bought", **people[number % 10], **more}
        for number in range(first, first + count)
    ]


def of_neighbours(*numbers: int) -> set[str]:
    return {f"m{number}" for number in numbers if number % 10 > 1}


def send(running: Stack, batch: list[dict[str, Any]]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/v1/batch",
        json.dumps({"batch": batch, "writeKey": "k"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


async def penstock(running: Stack, *arguments: str) -> tuple[int, Any]:
    """Runs the command; returns its exit code and its JSON."""

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "penstock", "forget", *arguments, "--json", "--url", running.nats.url],
            env={**os.environ, "PENSTOCK_HOME": str(running.folder / "home")},
            capture_output=True,
            timeout=240,
            check=False,
        )

    done = await asyncio.to_thread(run)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


async def traces(broker: Broker, *names: str, apart: tuple[str, ...] = ()) -> list[str]:
    """Returns the subjects of all messages on the broker that hold a name: in payloads, headers, subjects, and bodies of frames."""
    found: list[str] = []
    for info in await broker.js.streams_info():
        stream, state = str(info.config.name), info.state
        for seq in range(state.first_seq, state.last_seq + 1) if stream not in apart and state.messages else ():
            try:
                message = await broker.js.get_msg(stream, seq)
            except Exception:  # noqa: BLE001 - a hole
                continue
            data = message.data or b""
            with_bodies = [data, repr(message.headers).encode(), (message.subject or "").encode()]
            with contextlib.suppress(Permanent):
                with_bodies.append(decode_frame(data).open())
            if stream == "KV_identity" and (visitor := open_visitor(data)) is not None:
                with_bodies.append(msgspec.msgpack.encode(visitor))
            if any(name.encode() in each for name in names for each in with_bodies):
                found.append(f"{stream} {message.subject}")
    return found


def on_disk(running: Stack, *names: str) -> set[str]:
    """Returns the streams whose files hold a name. The broker overwrites what is deleted, and not what is replaced or acknowledged."""
    files = [path for path in running.nats.directory.rglob("*.blk") if any(name.encode() in path.read_bytes() for name in names)]
    return {path.parent.parent.name for path in files}


def archived(running: Stack, name: str) -> int:
    """Returns how many lines of the archive hold a name."""
    count = 0
    for folder, _, files in os.walk(running.folder / "archive"):  # in folders that come and go
        for file in (each for each in files if each.endswith(".zst")):
            with contextlib.suppress(FileNotFoundError):  # a rewrite took it
                data = (Path(folder) / file).read_bytes()
                lines = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read().splitlines()
                count += sum(1 for line in lines if name.encode() in line)
    return count


def in_lake(running: Stack) -> Counter[str]:
    """Returns the ids of the rows of `tracks` in files."""
    found: list[bytes] = []
    for file in (running.folder / "lake" / "tracks").rglob("*.ndjson.gz"):
        with contextlib.suppress(FileNotFoundError):  # a rewrite took it
            found += gzip.decompress(file.read_bytes()).splitlines()
    return Counter(json.loads(line)["id"] for line in found)


def texts(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def until(condition: Any, what: str) -> None:
    try:
        async with asyncio.timeout(120):
            while not await condition():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(what) from None


async def test_a_person_is_forgotten_everywhere_and_her_neighbours_nowhere(
    running: Stack, postgres_server: PostgresServer
) -> None:
    postgres, duck = Schema(postgres_server, "forget"), DuckSchema(running.folder / "wh.duckdb")
    lake = {"type": "local", "path": str(running.folder / "lake"), "format": "ndjson"}
    async with connect(running.nats.url, "test") as broker:
        await running.apply(
            {
                "sites": {"shop": {"keys": [{"id": "k"}]}},
                "functions": {"f": {"code": FUNCTION}},
                "destinations": {"pg": postgres.destination, "duck": duck.destination, "lake": lake},
                "connections": {
                    "merging": {"site": "shop", "destination": "pg", "mode": "stream", "layout": "segment", "identity": {}},
                    "appending": {
                        "site": "shop", "destination": "duck", "mode": "stream", "layout": "single_table",
                        "deduplicate": False, "functions": ["f"], "on_error": "dead_letter",
                    },
                    "files": {"site": "shop", "destination": "lake", "mode": "stream", "deduplicate": False},
                    "problems": {"from": "dead", "destination": "pg", "mode": "stream"},
                },
            }
        )  # fmt: skip
        running.start_all(*SERVICES)
        send(running, events(0, 100))
        send(running, [{**each, "type": "no such type"} for each in events(100, 20)])
        send(running, events(120, 20, event="Broken"))
        neighbours = of_neighbours(*range(100), *range(120, 140))

        async def loaded() -> bool:
            return (
                neighbours <= set((await postgres.rows()).get("tracks", ()))
                and of_neighbours(*range(100)) <= set((await duck.rows()).get("events", ()))
                and neighbours <= set(in_lake(running))
            )

        await until(loaded, "the first events are not loaded")

        async def letters(*names: str) -> int:
            shown = await postgres.text("dead_letters")
            return sum(shown.count(name) for name in names)

        async def letters_loaded() -> bool:
            return "dead_letters" in await postgres.rows() and await letters(JANE) > 0 and await letters(DEVICE) > 0

        await until(letters_loaded, "dead letters are no rows")
        assert {"m0", "m1"} <= set(in_lake(running))
        assert {"m0", "m1"} <= set((await postgres.rows())["tracks"]) & set((await duck.rows())["events"])

        async def all_archived() -> bool:
            return archived(running, JANE) >= 12

        await until(all_archived, "the first events are not archived")

        async def kept_everywhere() -> bool:
            before = await traces(broker, JANE, DEVICE)
            streams = {each.split()[0] for each in before}
            return (
                streams >= {"EVENTS", "DEAD", "LIVE", "KV_store", "KV_identity"}
                and len([each for each in before if each.startswith("DEAD")]) >= 2
            )

        await until(kept_everywhere, "not everything that keeps events has the first ones")
        # events that wait in queues
        await asyncio.to_thread(running.stop, "loader")
        send(running, events(140, 60))
        neighbours |= of_neighbours(*range(140, 200))
        _, asked = await penstock(running, "--user", JANE, "--anonymous", DEVICE, "--no-wait")
        assert JANE not in texts(asked)
        # the loader dies in the middle
        running.start("loader")

        async def begun() -> bool:
            part = await read_part(broker, asked["request"], "loader")
            return part is not None and bool(part.places)

        await until(begun, "no loader takes the request up")
        running.kill("loader")
        running.start("loader")
        send(running, events(200, 20))
        neighbours |= of_neighbours(*range(200, 220))
        code, receipt = await penstock(running, "--receipt", asked["request"])
        assert code == 0
        stored = await read_receipt(broker, asked["request"])
        assert stored is not None
        assert stored.state == "done"
        places = {place.where: place for place in stored.places}
        # m0 to m99 and m120 to m139, two of ten
        assert places["destination pg, table tracks"].removed >= 24, places
        assert places["destination duck, table events"].removed >= 20, places
        assert sum(place.removed for where, place in places.items() if where.startswith("destination lake, file tracks/")) >= 24
        assert places["dead letters"].removed >= 4 + 4, places
        assert places["store of functions"].removed > 0
        assert places["identity"].removed > 0
        assert places["archive of shop"].removed >= 24
        assert archived(running, JANE) + archived(running, DEVICE) == 0
        assert archived(running, "neighbour-1") >= 12
        assert places["EVENTS"].left >= 24 + 12
        assert "end at" in places["EVENTS"].note
        assert [place.where for place in stored.places if place.left] == ["EVENTS"]
        assert JANE not in texts(receipt)
        assert DEVICE not in texts(receipt)

        async def all_loaded() -> bool:
            return neighbours <= set((await postgres.rows())["tracks"])

        await until(all_loaded, "neighbours are not loaded")
        assert set((await postgres.rows())["tracks"]) == neighbours
        wanted = neighbours - of_neighbours(*range(120, 140))  # of which the function threw

        async def all_in_duck() -> bool:
            return wanted <= set((await duck.rows())["events"])

        await until(all_in_duck, "neighbours are not in DuckDB")
        assert set((await duck.rows())["events"]) == wanted
        assert await traces(broker, JANE, DEVICE, apart=("EVENTS",)) == []
        # the dead letters of her neighbours are there
        dead = " ".join(await traces(broker, "neighbour-1"))
        assert "dead.ingest.shop" in dead
        assert "dead.functions.appending" in dead
        await settled(running)  # the accounts, too

        async def all_in_lake() -> bool:
            return neighbours <= set(in_lake(running))

        await until(all_in_lake, "neighbours are not in the lake")
        assert in_lake(running) == Counter(neighbours)
        # events that are gone on purpose are not missed
        assert (await audit(broker, await current_snapshot(broker))).findings == []
        # a look finds what is left, and so does ours
        code, found = await penstock(running, "--user", JANE, "--anonymous", DEVICE, "--verify")
        assert (
            code,
            [place["where"] for part in found["parts"].values() for place in part["places"].values() if place.get("left")],
        ) == (
            1,
            ["EVENTS"],
        )
        code, _ = await penstock(running, "--user", JANE, "--anonymous", DEVICE, "--purge-events")
        assert code == 0
        assert await traces(broker, JANE, DEVICE) == []
        assert on_disk(running, JANE, DEVICE).isdisjoint({"EVENTS", "DEAD", "KV_forgotten"})
        assert (await audit(broker, await current_snapshot(broker))).findings == []
        code, _ = await penstock(running, "--user", JANE, "--anonymous", DEVICE, "--verify")
        assert code == 0
        assert await letters(JANE, DEVICE) == 0
        assert await letters("neighbour-1") > 0
        _, listed = await penstock(running, "--list")
        assert [each["state"] for each in listed] == ["done"] * 4
        assert JANE not in texts(listed)
