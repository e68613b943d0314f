"""Stitching under kills: in the end every event of a visitor has its user, in a row of its own, although processes die in between."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.support.duckdb_file import opened
from tests.support.exactly_once import settled
from tests.support.sender import EVENTS, Event, Fate, Sender
from tests.support.stack import Stack, stack

VISITORS = 60
VICTIMS = ("functions_runtime", "functions_runtime-2", "nats", "loader", "router", "frozen")
OPTIONS = {"look_back": "1d", "max_events": 1000, "max_bytes": "1MiB"}
SECRET = "salt"
CODE = "export default (event) => ({...event, properties: {...event.properties, seen: true}})"


def visit(id_: str, chance: random.Random) -> tuple[Event, Fate]:
    """An event of a visitor; one of eight tells its user."""
    visitor = chance.randrange(VISITORS)
    event: Event = {"type": "page", "messageId": id_, "anonymousId": f"d{visitor}", "properties": {"n": chance.randrange(100)}}
    return ({**event, "type": "identify", "userId": f"u{visitor}"} if chance.random() < 0.125 else event), EVENTS


def login(id_: str, _: random.Random) -> tuple[Event, Fate]:
    """The user of the visitor whose number the id ends with."""
    visitor = int(id_[1:]) % VISITORS
    return {"type": "identify", "messageId": id_, "anonymousId": f"d{visitor}", "userId": f"u{visitor}"}, EVENTS


def hashed(text: str) -> str:
    """What the privacy rule makes of a text."""
    return hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()


async def harm(running: Stack, victim: str, chance: random.Random) -> None:
    """Kills a process and starts it again after a moment, or freezes the runtimes in turn so that each wakes up behind the other."""
    print(f"harm {victim}")
    if victim == "frozen":
        for name in chance.sample(["functions_runtime", "functions_runtime-2"], 2):
            running.freeze(name)
            await asyncio.sleep(chance.uniform(2.5, 4))
            running.thaw(name)
    elif victim == "nats":
        running.nats.kill()
        await asyncio.sleep(chance.uniform(0, 0.5))
        await asyncio.to_thread(running.nats.start)
    else:
        running.kill(victim)
        await asyncio.sleep(chance.uniform(0, 0.5))
        running.start(victim)


@pytest.mark.timeout(240 * ROUNDS)
async def test_every_event_of_a_visitor_ends_with_its_user_whoever_is_killed(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    plain, private = new_schema(), DuckSchema(tmp_path / "warehouse.duckdb", "one")
    places: dict[str, Place] = {"plain": plain, "private": private}
    rules = [{"field": key, "do": "hash", "secret": SECRET} for key in ("userId", "anonymousId")]
    connections = {
        "plain": merging(stream("plain", identity=OPTIONS)),
        "private": merging(batch("private", identity={**OPTIONS, "forward": False}, privacy=rules, functions=["f"])),
    }
    document = project(connections, {name: place.destination for name, place in places.items()})
    with stack(tmp_path, {**QUICK, "PENSTOCK_FUNCTIONS_LEASE": "2s"}) as running:
        await running.apply({**document, "functions": {"f": {"code": CODE}}})
        await asyncio.to_thread(running.start_all, "ingest", "router", "functions_runtime", "functions_runtime-2", "loader")
        async with Sender(running.port, chance.randrange(10**6), make=visit).running() as books:
            for _ in range(2 * ROUNDS):
                for victim in chance.sample(VICTIMS, len(VICTIMS)):
                    await asyncio.sleep(chance.uniform(0.2, 1.5))
                    await harm(running, victim, chance)
            await asyncio.sleep(0.5)
        await settled(running)
        await Sender(running.port, 1, make=login, books=books, prefix="l").send(VISITORS)
        await verify(running, books, places, ids=True)
        users = await plain.fetch("SELECT DISTINCT anonymous_id || ' ' || coalesce(user_id, 'none') FROM {}.events")
        assert sorted(users) == sorted(f"d{number} u{number}" for number in range(VISITORS))
        with opened(private.path, read_only=True) as link:
            pairs = link.execute("SELECT DISTINCT anonymous_id, user_id, seen FROM one.events").fetchall()
        assert sorted(pairs) == sorted((hashed(f"d{number}"), hashed(f"u{number}"), True) for number in range(VISITORS))
        again = sum(
            running.metric(name, "functions_identity_stitched_total", how="again")
            for name in ("functions_runtime", "functions_runtime-2")
        )
        assert again, "nothing was stitched by who lives now, so little was tested"
