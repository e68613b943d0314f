"""PostgreSQL: a database of its own on the shared server, read by a cursor, and by its log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg

from connector_runner.contract import Source
from shared.tasks import timeout
from tests.support.sources.place import ROWS, Place, order

END_SECONDS = 10.0


class PostgresPlace(Place):
    """Tables that are read by a cursor."""

    type = "postgres"
    remedy = "check `user` and `password`"
    secret = "password-that-is-wrong"
    waivers: ClassVar[Mapping[str, str]] = {
        "ties_once": "a row with the newest value of a cursor may come late, so those rows come again"
    }
    sessions = "postgres"
    options: ClassVar[Mapping[str, Any]] = {}
    stops = 12

    async def start(self) -> None:
        """Makes the database."""
        self._sources: list[Source] = []
        self._name = f"place_{uuid4().hex[:12]}"
        dsn: str = self.request.getfixturevalue("postgres_dsn")
        self._keeper = await asyncpg.connect(dsn)
        await self._keeper.execute(f"CREATE DATABASE {self._name}")
        self._dsn = f"{dsn.rpartition('/')[0]}/{self._name}"
        self._driver = await asyncpg.connect(self._dsn)
        columns = "id bigint PRIMARY KEY, name text, total numeric(20, 4), updated_at timestamptz NOT NULL"
        await self._driver.execute(f"CREATE TABLE orders ({columns}); CREATE TABLE empty ({columns})")
        await self.put(*(order(number) for number in range(1, ROWS + 1)))

    async def stop(self) -> None:
        """Drops the database, and the slot that it may have."""
        for source in self._sources:
            await source.close()
        self._driver.terminate()
        await self.leftovers()
        await self._keeper.fetch(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", self._name
        )
        await self._keeper.execute(f"DROP DATABASE {self._name} WITH (FORCE)")
        await self._keeper.close()

    async def open(self, **options: Any) -> Source:
        """Opens the connector; `stop` closes it."""
        source = await super().open(**options)
        self._sources.append(source)
        return source

    def document(self) -> dict[str, Any]:
        """Names the database."""
        return {"type": "postgres", "dsn": self._dsn, **self.options}

    def wrong(self) -> dict[str, Any]:
        """Has another password."""
        return {"password": self.secret}

    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Inserts orders, or replaces them."""
        for row in rows:
            values = ", ".join(f"${number}" for number in range(1, len(row) + 1))
            changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in row)
            statement = f"INSERT INTO orders ({', '.join(row)}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {changes}"
            await self._driver.execute(statement, *row.values())

    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Adds the column."""
        await self._driver.execute("ALTER TABLE orders ADD note text")
        await self.put(*rows)

    async def leftovers(self) -> Sequence[str]:
        """Returns statements and streams that still run."""
        query = (
            "SELECT query FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() AND application_name = 'penstock connector' "
            "AND (state <> 'idle' OR backend_type = 'walsender')"
        )
        found: Sequence[str] = ()
        try:
            async with timeout(END_SECONDS):
                while found := [row["query"] for row in await self._keeper.fetch(query, self._name)]:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return found
        return ()


class PostgresLogPlace(PostgresPlace):
    """Tables whose changes are read from the log."""

    waivers: ClassVar[Mapping[str, str]] = {}

    def document(self) -> dict[str, Any]:
        """Has a slot of its own: slots belong to the whole server."""
        return {**super().document(), "method": "cdc", "slot": f"slot_{self._name}"}
