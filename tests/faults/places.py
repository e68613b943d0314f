"""Where the fault tests load to: looked at, and changed, behind the loader's back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tests.support.clickhouse import ClickHouseServer, ask
from tests.support.duckdb_file import opened, opened_here
from tests.support.exactly_once import Rows, rows_in_duckdb, rows_in_mysql, rows_in_postgres
from tests.support.mysql import MySQLServer
from tests.support.postgres import USER, PostgresServer
from tests.support.s3 import S3Server


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
    """A schema in Postgres.

    Args:
        role: log in as this role, with the server's password; it must exist.
    """

    def __init__(self, server: PostgresServer, name: str, role: str = USER) -> None:
        self.server = server
        self.name = name
        self._role = role

    @property
    def destination(self) -> dict[str, Any]:
        return {"type": "postgres", "dsn": self.server.dsn(user=self._role), "schema": self.name}

    async def rows(self) -> Rows:
        return await rows_in_postgres(self.server.dsn(), self.name)

    async def text(self, table: str) -> str:
        """Returns all rows of a table as one text."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn())
        try:
            return "\n".join(str(dict(row)) for row in await link.fetch(f'SELECT * FROM "{self.name}"."{table}"'))
        finally:
            await link.close()

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

    @contextlib.asynccontextmanager
    async def gate_shut(self, number: int) -> AsyncIterator[None]:
        """Holds an advisory lock while the context is open, in a session named `gate`."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn(), server_settings={"application_name": "gate"})
        try:
            async with link.transaction():
                await link.execute("SELECT pg_advisory_xact_lock($1)", number)
                yield
        finally:
            await link.close()

    async def wait_for_lock(self, seconds: float = 60.0) -> None:
        """Waits until a loader waits for a lock."""
        await self.wait_until(
            "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'penstock/%' AND wait_event_type = 'Lock'", seconds
        )

    async def wait_until(self, query: str, seconds: float = 60.0) -> None:
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

    async def drop(self, table: str, column: str) -> list[str]:
        """Drops a table; returns one column of the rows it had at that moment."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn())
        try:
            async with link.transaction():
                name = f'"{self.name}"."{table}"'
                await link.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
                rows = await link.fetch(f'SELECT "{column}" FROM {name}')
                await link.execute(f"DROP TABLE {name}")
                return [row[0] for row in rows]
        finally:
            await link.close()

    async def fetch(self, query: str) -> list[Any]:
        """Returns the first column of what a query finds; `{}` stands for the schema."""
        import asyncpg

        link = await asyncpg.connect(self.server.dsn())
        try:
            return [row[0] for row in await link.fetch(query.replace("{}", self.name))]
        finally:
            await link.close()


class MyDatabase:
    """A database in MySQL; it must exist."""

    def __init__(self, server: MySQLServer, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def destination(self) -> dict[str, Any]:
        return {"type": "mysql", "dsn": self.server.dsn(self.name)}

    async def rows(self) -> Rows:
        return await rows_in_mysql(self.server.dsn(self.name))


class ClickDatabase:
    """A database in ClickHouse, made here; rows that are not merged yet are read as they will be (FINAL).

    Args:
        port: where the loader finds the server, if not at its own port.
    """

    def __init__(self, server: ClickHouseServer, name: str, port: int | None = None) -> None:
        self.server = server
        self.name = name
        self._port = port or server.port
        ask(server.place, f"CREATE DATABASE {name}")

    @property
    def destination(self) -> dict[str, Any]:
        """See `Place`."""
        place = self.server.place
        return {
            "type": "clickhouse", "url": f"http://127.0.0.1:{self._port}", "user": place.user, "password": place.password,
            "database": self.name, "connect_timeout": "2s", "statement_timeout": "4s",
        }  # fmt: skip

    async def rows(self) -> Rows:
        """See `Place`."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Rows:
        tables = "SELECT name FROM system.tables WHERE database = {database:String} AND engine LIKE '%MergeTree'"
        found: dict[str, Counter[str]] = {}
        for table in ask(self.server.place, tables, param_database=self.name).decode().split():
            if not table.startswith("_penstock"):
                counts = f"SELECT message_id, count() FROM {self.name}.{table} GROUP BY 1"
                lines = ask(self.server.place, counts, final=1).decode().splitlines()
                found[table] = Counter({id_: int(times) for id_, times in (line.split("\t") for line in lines)})
        return found


class DuckSchema:
    """A schema in a DuckDB file."""

    def __init__(self, path: Path, name: str = "main") -> None:
        self.path = path
        self.name = name

    @property
    def destination(self) -> dict[str, Any]:
        return {"type": "duckdb", "path": str(self.path), "schema": self.name}

    async def rows(self) -> Rows:
        return await rows_in_duckdb(self.path, self.name)

    async def run(self, *statements: str) -> None:
        """Runs SQL, all in one transaction, as soon as nobody else has the file open."""
        await self._write(statements)

    async def drop(self, table: str, column: str) -> list[str]:
        """Drops a table; returns one column of the rows it had."""
        return await self._write([f'DROP TABLE "{self.name}"."{table}"'], f'SELECT "{column}" FROM "{self.name}"."{table}"')

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keeps the file open, and everybody else out, while the context is open."""
        with await opened_here(self.path):
            yield

    async def has(self, table: str, seconds: float = 60.0) -> None:
        """Waits until a table is there."""
        async with asyncio.timeout(seconds):
            while table not in await self.rows():
                await asyncio.sleep(0.1)

    async def _write(self, statements: Sequence[str], query: str = "SELECT 1") -> list[str]:
        def write() -> list[str]:
            with opened(self.path) as link:
                link.execute("BEGIN")
                found = [row[0] for row in link.execute(query).fetchall()]
                for statement in statements:
                    link.execute(statement)
                link.execute("COMMIT")
                return found

        return await asyncio.to_thread(write)


class Files:
    """A directory of files of the layouts with one table."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def destination(self) -> dict[str, Any]:
        return {"type": "local", "path": str(self.path), "format": "ndjson", "prefix": "{table}/dt={date}/"}

    async def rows(self) -> Rows:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Rows:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for file in self.path.glob("[!_]*/**/*.ndjson.gz"):
            table = file.relative_to(self.path).parts[0]
            found[table].update(
                msgspec.json.decode(line)["message_id"] for line in gzip.decompress(file.read_bytes()).splitlines()
            )
        return found


class Bucket:
    """A bucket of its own with objects of the layouts with one table, read by boto3."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.name = server.new_bucket()

    @property
    def destination(self) -> dict[str, Any]:
        options = {"format": "ndjson", "prefix": "{table}/dt={date}/", "timeout": "2s", "attempts": 2}
        return self.server.document(self.name, **options)

    async def rows(self) -> Rows:
        return await asyncio.to_thread(self._read)

    def _read(self) -> Rows:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        client = self.server.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            for key in (each["Key"] for each in page.get("Contents", ()) if not each["Key"].startswith("_")):
                data = client.get_object(Bucket=self.name, Key=key)["Body"].read()
                found[key.split("/")[0]].update(
                    msgspec.json.decode(line)["message_id"] for line in gzip.decompress(data).splitlines()
                )
        return found


class Gathered:
    """A place whose table `events` is taken apart behind the loader's back: what was renamed or taken away counts as well."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.taken: Counter[str] = Counter()
        """Message ids of rows that were in a table when it was dropped."""

    @property
    def destination(self) -> dict[str, Any]:
        return self._place.destination

    async def rows(self) -> Rows:
        """See `Place`; all tables whose name begins with `events` as one."""
        found = await self._place.rows()
        return {"events": sum((rows for table, rows in found.items() if table.startswith("events")), self.taken.copy())}
