"""Where the fault tests load to: looked at, and changed, behind the loader's back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from tests.support.exactly_once import Rows, rows_in_duckdb, rows_in_postgres
from tests.support.postgres import PostgresServer


class Place(Protocol):
    """A destination of one connection's own."""

    @property
    def destination(self) -> dict[str, Any]:
        """The entry under `destinations`."""
        ...

    async def rows(self) -> Rows:
        """Returns the message ids of every table."""
        ...


class Schema:
    """A schema in Postgres."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def destination(self) -> dict[str, Any]:
        """See `Place`."""
        return {"type": "postgres", "dsn": self.server.dsn(), "schema": self.name}

    async def rows(self) -> Rows:
        """See `Place`."""
        return await rows_in_postgres(self.server.dsn(), self.name)

    async def run(self, *statements: str) -> None:
        """Runs SQL, all in one transaction; `{}` stands for the schema."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn())
        try:
            async with link.transaction():
                for statement in statements:
                    await link.execute(statement.replace("{}", self.name))
        finally:
            await link.close()

    @contextlib.asynccontextmanager
    async def locked(self, table: str) -> AsyncIterator[None]:
        """Keeps everybody from writing to a table while the context is open."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn())
        try:
            async with link.transaction():
                await link.execute(f'LOCK TABLE "{self.name}"."{table}" IN SHARE MODE')
                yield
        finally:
            await link.close()

    async def wait_for_lock(self, seconds: float = 10.0) -> None:
        """Waits until a loader waits for a lock."""
        await self.wait_until(
            "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'penstock/%' AND wait_event_type = 'Lock'", seconds
        )

    async def wait_until(self, query: str, seconds: float = 10.0) -> None:
        """Waits until a query finds something; `{}` stands for the schema."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn())
        try:
            async with asyncio.timeout(seconds):
                while not await link.fetch(query.replace("{}", self.name)):
                    await asyncio.sleep(0.01)
        finally:
            await link.close()

    async def slow_down(self, table: str) -> None:
        """Makes every twentieth row of a table take two milliseconds to write, so that a load can be caught in the middle."""
        await self.run(
            "CREATE OR REPLACE FUNCTION {}.slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF random() < 0.05 THEN PERFORM pg_sleep(0.002); END IF; RETURN NEW; END $$",
            f'CREATE TRIGGER slow BEFORE INSERT ON {{}}."{table}" FOR EACH ROW EXECUTE FUNCTION {{}}.slow()',
        )

    async def speed_up(self, table: str) -> None:
        """Ends what `slow_down` began."""
        await self.run(f'DROP TRIGGER slow ON {{}}."{table}"')

    async def fetch(self, query: str) -> list[Any]:
        """Returns the first column of what a query finds; `{}` stands for the schema."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn())
        try:
            return [row[0] for row in await link.fetch(query.replace("{}", self.name))]
        finally:
            await link.close()


class DuckSchema:
    """A schema in a DuckDB file."""

    def __init__(self, path: Path, name: str = "main") -> None:
        self.path = path
        self.name = name

    @property
    def destination(self) -> dict[str, Any]:
        """See `Place`."""
        return {"type": "duckdb", "path": str(self.path), "schema": self.name}

    async def rows(self) -> Rows:
        """See `Place`."""
        return await rows_in_duckdb(self.path, self.name)
