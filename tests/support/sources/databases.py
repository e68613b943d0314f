"""Databases whose sources read tables: MySQL, ClickHouse and DuckDB, each with orders in a table of its own database."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from connector_runner.contract import Source
from tests.support.mysql import run_sql
from tests.support.sources.place import ROWS, Place, order
from tests.support.sql_sources import Database, clickhouse_database, duckdb_database, mysql_database


class DatabasePlace(Place):
    """A database with the tables `orders` and `empty`."""

    waivers: ClassVar[Mapping[str, str]] = {
        "ties_once": "a row with the newest value of a cursor may come late, so those rows come again"
    }
    columns: ClassVar[str]
    tail: ClassVar[str] = ""
    insert: ClassVar[str] = "REPLACE INTO"
    stops = 12
    database: Database

    @abstractmethod
    async def made(self) -> Database:
        """Returns a new database."""

    async def start(self) -> None:
        """Makes the tables."""
        self.sources: list[Source] = []
        self.database = await self.made()
        await self.database.run(*(f"CREATE TABLE {name} ({self.columns}){self.tail}" for name in ("orders", "empty")))
        await self.put(*(order(number) for number in range(1, ROWS + 1)))

    async def stop(self) -> None:
        """Closes what the test opened."""
        await self.closed()

    async def open(self, **options: Any) -> Source:
        """Opens the connector; `stop` closes it."""
        source = await super().open(**options)
        self.sources.append(source)
        return source

    async def closed(self) -> None:
        """Closes all that is open."""
        while self.sources:
            await self.sources.pop().close()

    def document(self) -> dict[str, Any]:
        """Names the database."""
        return self.database.document

    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Inserts orders, or replaces them."""
        for row in rows:
            await self.database.run(f"{self.insert} orders ({', '.join(row)}) VALUES ({', '.join(map(_literal, row.values()))})")

    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Adds the column."""
        await self.database.run(f"ALTER TABLE orders ADD COLUMN note {self.database.text}")
        await self.put(*rows)


class MySQLPlace(DatabasePlace):
    """A database of MySQL or MariaDB."""

    type = "mysql"
    remedy = "check `user`, `password`"
    secret = "password-that-is-wrong"
    columns = "id BIGINT PRIMARY KEY, name VARCHAR(100), total DECIMAL(20, 4), updated_at DATETIME(3) NOT NULL"

    async def made(self) -> Database:
        """Returns a new database of the shared server."""
        return await mysql_database(self.request.getfixturevalue("mysql_dsn"), self.folder)

    def wrong(self) -> dict[str, Any]:
        """Has another password."""
        return {"password": self.secret}

    async def leftovers(self) -> Sequence[str]:
        """Returns statements that still run."""
        dsn = self.database.document["dsn"]
        where = f"db = '{dsn.rpartition('/')[2]}' AND command <> 'Sleep' AND info NOT LIKE '%processlist%'"
        return [str(row[0]) for row in await run_sql(dsn, f"SELECT info FROM information_schema.processlist WHERE {where}")]


class ClickHousePlace(DatabasePlace):
    """A database of ClickHouse."""

    type = "clickhouse"
    remedy = "check `user` and `password`"
    secret = "password-that-is-wrong"
    columns = "id Int64, name String, total Decimal(20, 4), updated_at DateTime64(3, 'UTC')"
    tail = " ENGINE = ReplacingMergeTree(updated_at) ORDER BY id"
    insert = "INSERT INTO"

    async def made(self) -> Database:
        """Returns a new database of the shared server."""
        return await clickhouse_database(self.request.getfixturevalue("clickhouse"), self.folder)

    def wrong(self) -> dict[str, Any]:
        """Has another password."""
        return {"password": self.secret}


class DuckDBPlace(DatabasePlace):
    """A file of DuckDB."""

    type = "duckdb"
    remedy = "check `path`"
    columns = "id BIGINT PRIMARY KEY, name VARCHAR, total DECIMAL(20, 4), updated_at TIMESTAMP NOT NULL"
    insert = "INSERT OR REPLACE INTO"

    async def made(self) -> Database:
        """Returns a new file."""
        return await duckdb_database(self.folder)

    def wrong(self) -> dict[str, Any]:
        """Names a file that does not exist."""
        return {"path": str(self.folder / "gone.duckdb")}

    async def put(self, *rows: Mapping[str, Any]) -> None:
        """Inserts orders; while a source reads the file, no program writes it."""
        await self.closed()
        await super().put(*rows)

    async def widen(self, *rows: Mapping[str, Any]) -> None:
        """Adds the column, as `put`."""
        await self.closed()
        await super().widen(*rows)


def _literal(value: object) -> str:
    return "'" + (f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "hour") else str(value)).replace("'", "''") + "'"
