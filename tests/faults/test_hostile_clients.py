"""Clients that are slow, broken or hostile, beside one that is not: they get a 4xx or nothing, it gets 200, always."""

from __future__ import annotations

import asyncio
import gzip
import io
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.faults.judge import verify
from tests.faults.places import Schema
from tests.faults.project import QUICK, project, stream
from tests.support.sender import EVENTS, KEY, Fate, Sender
from tests.support.stack import stack

HEADERS = {"X-Write-Key": KEY, "Content-Type": "application/json"}
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attack:
    """A request, how it is answered, and where its one event belongs; None: nothing of it is kept."""

    body: bytes
    status: int
    fate: Fate | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def bad(id_: str, properties: bytes) -> bytes:
    return b'{"type":"track","event":"Bad","userId":"u","messageId":"%s","properties":%s}' % (id_.encode(), properties)


def dead(reason: str) -> Fate:
    return Fate(reasons=(reason,))


GZIP = {"Content-Encoding": "gzip"}


def attacks() -> dict[str, Attack]:
    """Makes them; they hold hundreds of megabytes before they are packed."""
    return {
        "large": Attack(bad("large", b'{"a":"' + b"x" * 5 * MIB + b'"}'), 413),
        "large-in-batch": Attack(
            b'{"batch":[' + bad("large-in-batch", b'{"a":"' + b"x" * 5 * MIB + b'"}') + b"]}", 200, dead("too_large")
        ),
        "too-large": Attack(bad("too-large", b'{"a":"' + b"x" * 9 * MIB + b'"}'), 413),
        "bomb": Attack(gzip.compress(b"[" * 200 * MIB), 413, headers=GZIP),
        "empty-bomb": Attack(gzip.compress(b" " * 200 * MIB), 413, headers=GZIP),
        "deep": Attack(bad("deep", b'{"a":' * 30_000 + b"1" + b"}" * 30_000), 400),
        "rather-deep": Attack(bad("rather-deep", b'{"a":' * 100 + b"1" + b"}" * 100), 200, dead("too_deep")),
        "keys": Attack(
            bad("keys", b"{" + b",".join(b'"k%d":%d' % (each, each) for each in range(10_000)) + b"}"), 200, dead("too_many_keys")
        ),
        "no-json": Attack(b"\x00\xff\xfe" * 1000, 400),
        "no-gzip": Attack(b"not gzip at all", 400, headers=GZIP),
        "nobody": Attack(bad("nobody", b"{}"), 401, headers={"X-Write-Key": "nobody"}),
        "number": Attack(bad("number", b'{"a":1e999,"b":' + b"9" * 5000 + b"}"), 200, EVENTS),
        "surrogate": Attack(bad("surrogate", b'{"a":"\\ud800","b":"\\u0000"}'), 200, EVENTS),
    }


async def dribble(port: int) -> None:
    """Sends a request a byte at a time, and never all of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST /v1/track HTTP/1.1\r\nHost: a\r\nX-Write-Key: {KEY}\r\nContent-Length: 1000\r\n\r\n".encode())
    answer = asyncio.create_task(reader.read(1000))
    for _ in range(100):
        if (await asyncio.wait([answer], timeout=0.1))[0]:
            break
        writer.write(b"{")
    writer.transport.abort()
    assert (await answer).startswith(b"HTTP/1.1 408")


async def vanish(port: int) -> None:
    """Opens connections, sends half a request on each and hangs up."""
    for _ in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/batch HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()


@pytest.mark.timeout(240)
async def test_a_healthy_client_beside_hostile_ones_is_always_served(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    schema, made = new_schema(), attacks()
    statuses: dict[str, int] = {}
    with stack(tmp_path, {**QUICK, "PENSTOCK_INGEST_READ_TIMEOUT": "2s"}) as running:
        await running.apply(project({"c": stream("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        url = f"http://127.0.0.1:{running.port}"

        async def attack(name: str) -> None:
            each = made[name]
            path = "/v1/batch" if each.body.startswith(b'{"batch"') else "/v1/track"
            async with (
                aiohttp.ClientSession() as session,
                session.post(url + path, data=io.BytesIO(each.body), headers={**HEADERS, **each.headers}) as answer,
            ):
                statuses[name] = answer.status
                await answer.read()

        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(dribble(running.port))
                group.create_task(vanish(running.port))
                for name in made:
                    group.create_task(attack(name))
            await asyncio.sleep(1)
        assert set(books.statuses) == {"200"}, books.statuses
        assert "Traceback" not in running.log("ingest")
        assert statuses == {name: each.status for name, each in made.items()}
        kept = {name: each.fate for name, each in made.items() if each.fate is not None}
        books.fates.update(kept)
        books.acknowledged.update(kept)
        await verify(running, books, {"c": schema})
