"""An attacker of change data capture: tables of all kinds in a database, writers that do everything at once, and what is right in the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Any

import asyncpg

TABLES = """
CREATE TABLE plain (id int PRIMARY KEY, v bigint NOT NULL, body text);
ALTER TABLE plain ALTER body SET STORAGE EXTERNAL;
CREATE TABLE whole (id int PRIMARY KEY, v bigint NOT NULL, body text); ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE coded (n int, id int NOT NULL, v bigint NOT NULL, body text);
CREATE UNIQUE INDEX coded_id ON coded (id); ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_id;
CREATE TABLE parts (id int PRIMARY KEY, v bigint NOT NULL, body text) PARTITION BY RANGE (id);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (500);
CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (500) TO (MAXVALUE);
CREATE UNLOGGED TABLE quick (id int PRIMARY KEY); CREATE TABLE bare (id int);
"""
NAMES = ("plain", "whole", "coded", "parts")
KEYS = 1000
LONG = "long" * 700


class Attacker:
    """Writers of one database. `committed`: what was certainly committed in `plain`, by key and version."""

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn = dsn
        self._seed = seed
        self.committed: set[tuple[int, int]] = set()
        self.transactions = 0
        self._version = 0

    async def prepare(self) -> None:
        """Makes the tables with some rows."""
        driver = await asyncpg.connect(self._dsn)
        await driver.execute(TABLES)
        for name in NAMES:
            await driver.execute(f"INSERT INTO {name} (id, v, body) SELECT i, 0, 'first' FROM generate_series(1, 400) i")
        await driver.close()

    async def write(self, number: int, enough: asyncio.Event) -> None:
        """Writes until it is enough; connects again when the server goes away."""
        chance = random.Random(self._seed * 100 + number)
        while not enough.is_set():
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                driver = await asyncpg.connect(self._dsn, timeout=5)
                try:
                    while not enough.is_set():
                        await self._transaction(driver, chance)
                        self.transactions += 1
                        await asyncio.sleep(0.004)
                finally:
                    driver.terminate()
            await asyncio.sleep(0.05)

    async def _transaction(self, driver: asyncpg.Connection, chance: random.Random) -> None:
        wrote: set[tuple[int, int]] = set()
        prepared = f"two_{self._seed}_{self._version}"
        transaction = driver.transaction()
        await transaction.start()
        ends = chance.choice(["commit"] * 7 + ["rollback", "prepare"])
        try:
            for _ in range(chance.randrange(1, 6)):
                await self._step(driver, chance, wrote)
            if ends == "prepare":
                await driver.execute(f"PREPARE TRANSACTION '{prepared}'")
                await driver.execute(f"{chance.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])} PREPARED '{prepared}'")
                return
        except (asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError):
            ends = "rollback"
        if ends == "rollback":
            await transaction.rollback()
        else:
            await transaction.commit()
            self.committed |= wrote

    async def _step(self, driver: asyncpg.Connection, chance: random.Random, wrote: set[tuple[int, int]]) -> None:
        self._version += 1
        table, one, other, version = chance.choice(NAMES), chance.randrange(KEYS), chance.randrange(KEYS), self._version
        upsert = f"INSERT INTO {table} (id, v, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET v = $2"
        match chance.choice(
            ["upsert"] * 6 + ["update"] * 5 + ["delete"] * 3 + ["move"] * 2 + ["save", "copy", "large", "truncate"]
        ):
            case "upsert":
                await driver.execute(upsert, one, version, LONG)
                if table == "plain":
                    wrote.add((one, version))
            case "update":
                await driver.execute(f"UPDATE {table} SET v = $2 WHERE id BETWEEN $1 AND $1 + 3", one, version)
            case "delete":
                await driver.execute(f"DELETE FROM {table} WHERE id = $1", one)
            case "move":
                await driver.execute(f"DELETE FROM {table} WHERE id = $1", other)
                await driver.execute(f"UPDATE {table} SET id = $2, v = $3 WHERE id = $1", one, other, version)
            case "save":
                await driver.execute("SAVEPOINT s")
                await driver.execute(upsert, one, version, None)
                await driver.execute("ROLLBACK TO s")
                await driver.execute(upsert, other, version, None)
            case "copy":
                await driver.execute(f"DELETE FROM {table} WHERE id BETWEEN 2000 AND 2019")
                rows = [(2000 + each, version, "copied") for each in range(20)]
                await driver.copy_records_to_table(table, records=rows, columns=["id", "v", "body"])
            case "large" if chance.random() < 0.3:
                await driver.execute(
                    f"INSERT INTO {table} (id, v, body) SELECT i, $1, 'x' FROM generate_series(3000, 9000) i "
                    "ON CONFLICT (id) DO UPDATE SET v = $1",
                    version,
                )
            case "truncate" if chance.random() < 0.15:
                await driver.execute(f"TRUNCATE {table}")

    async def state(self) -> Mapping[str, dict[int, tuple[int, str | None]]]:
        """Returns the rows of each table by key."""
        driver = await asyncpg.connect(self._dsn)
        for prepared in await driver.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
            await driver.execute(f"ROLLBACK PREPARED '{prepared['gid']}'")
        found = {
            name: {row["id"]: (row["v"], row["body"]) for row in await driver.fetch(f"SELECT id, v, body FROM {name}")}
            for name in NAMES
        }
        await driver.close()
        return found


def rows_by_key(rows: list[Any]) -> dict[int, tuple[int, str | None]]:
    """Returns rows of (key, version, body) by key.

    Raises:
        AssertionError: a key has two rows.
    """
    found = {row[0]: (row[1], row[2]) for row in rows}
    assert len(found) == len(rows), "a key has two rows"
    return found
