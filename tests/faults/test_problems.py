"""Dead letters on their way to a warehouse, over kills of routers and loaders: each is one row."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from penstock.control.letters.letters import Filter, find, remove
from shared.events.dead import DeadLetter, bury
from shared.jetstream.broker import Broker, connect
from tests.faults.places import Schema
from tests.faults.project import project
from tests.support.stack import stack


def letter(number: int, site: str = "shop") -> DeadLetter:
    return DeadLetter(
        stage="loader", site=site, connection="c", reason="type_conflict", detail="why", body=b"{}" * (number % 50), at=1.0 + number,
        origin=f"l:1:{number}", message_id=f"m{number}", type="track", event="E", user_id="u",
    )  # fmt: skip


async def rows(schema: Schema) -> Counter[str]:
    link = await asyncpg.connect(schema.server.dsn())
    try:
        return Counter(row[0] for row in await link.fetch(f'SELECT message_id FROM "{schema.name}".dead_letters'))
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        return Counter()
    finally:
        await link.close()


@pytest.mark.timeout(240)
async def test_letters_become_one_row_each_over_kills_of_routers_and_loaders(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    schema = new_schema()
    document = project({}, {"pg": schema.destination})
    # no key hides a repeat
    document["connections"] = {"d": {"from": "dead", "destination": "pg", "mode": "stream", "deduplicate": False}}
    wanted: set[str] = set()
    with stack(tmp_path) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all, "router", "loader")
        async with connect(running.nats.url, "test", patience_seconds=60) as broker:
            for turn in range(6):
                for message in range(10):
                    numbers = range(turn * 1000 + message * 20, turn * 1000 + message * 20 + chance.randint(1, 20))
                    await bury(broker.publisher, "loader", "c", [letter(number) for number in numbers], f"{turn}.{message}")
                    wanted.update(f"m{number}" for number in numbers)
                await bury(broker.publisher, "loader", "d", [letter(turn, site="_dead")], f"own.{turn}")
                name = ("router", "loader")[turn % 2]
                await asyncio.sleep(chance.uniform(0.0, 1.5))
                running.kill(name)
                running.start(name)
                await _remove_some(broker, chance, wanted, await rows(schema))
            async with asyncio.timeout(120):
                while set(found := await rows(schema)) != wanted:
                    await asyncio.sleep(0.2)
            assert set(found.values()) == {1}


async def _remove_some(broker: Broker, chance: random.Random, wanted: set[str], there: Counter[str]) -> None:
    """Removes letters that have a row, so that the others of their message are stored again."""
    some = {each for each in sorted(there) if chance.random() < 0.3}
    async for stored in find(broker, Filter(connection="c")):
        matching = [index for index in stored.matching if stored.letters[index].message_id in some]
        if matching:
            assert {str(stored.letters[index].message_id) for index in matching} <= wanted
            await remove(broker, type(stored)(stored.seq, stored.subject, stored.letters, matching, stored.payload_bytes))
