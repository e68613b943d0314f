"""Databases that sources read, each with a table `odd` of hostile names; how a source reads them in tests."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connector_runner import registry
from connector_runner.contract import Checkpoint, Environment, Message, Rows, Said, Selected, Source, Stream, StreamName
from tests.support.clickhouse import Place, ask
from tests.support.duckdb_file import opened
from tests.support.mysql import run_sql

TABLE = "or\"d`er\\s 'select' ✓"
CURSOR = "up\"da`ted\\ 'at'"


@dataclass
class Database(ABC):
    """A database of a test, with tables that its source reads. `document`: the options of a source that work."""

    folder: Path
    document: dict[str, Any] = field(default_factory=dict)
    wrong: Sequence[tuple[Mapping[str, Any], str]] = ()
    """Options that do not work, and words that `check` says then."""
    moment: str = ""
    """The type of the cursor, which may be null."""

    @abstractmethod
    async def run(self, *statements: str) -> None:
        """Runs statements."""

    @abstractmethod
    def name(self, name: str) -> str:
        """Returns a name quoted."""

    @property
    def tail(self) -> str:
        """What stands behind the columns of a new table."""
        return ""

    async def make(self, table: str = TABLE) -> None:
        """Makes an empty table with a number, a cursor and a text."""
        columns = f"id {self.number}, {self.name(CURSOR)} {self.moment}, note {self.text}{self.key}"
        await self.run(f"CREATE TABLE {self.name(table)} ({columns}){self.tail}")

    number, text, key = "BIGINT NOT NULL", "VARCHAR(100)", ", PRIMARY KEY (id)"

    async def add(self, rows: Mapping[int, str | None], table: str = TABLE) -> None:
        """Adds rows: numbers, and the second of 2026-01-01 as their cursor, such as `00:00:07`."""
        written = {id_: "NULL" if at is None else f"'2026-01-01 {at}'" for id_, at in rows.items()}
        values = ", ".join(f"({id_}, {at}, 'note {id_}')" for id_, at in written.items())
        if values:
            await self.run(f"INSERT INTO {self.name(table)} VALUES {values}")

    @asynccontextmanager
    async def source(self, **options: Any) -> AsyncIterator[Source]:
        """Opens the source, with some options in place of its own."""
        plugin, parsed = registry.parse_options("subject", {**self.document, **options})
        heard: list[Said] = []
        source = await plugin.open_source("subject", parsed, Environment(self.folder, self.folder, heard.append))
        try:
            yield source
        finally:
            await source.close()

    async def streams(self, **options: Any) -> dict[str, Stream]:
        """Returns what `discover` finds, by name."""
        async with self.source(**options) as source:
            return {each.name: each for each in await source.discover()}

    async def read(
        self,
        states: dict[StreamName | None, bytes] | None = None,
        *,
        table: str = TABLE,
        most: int = 10**9,
        full: bool = False,
        columns: tuple[tuple[str, ...], ...] | None = None,
        **options: Any,
    ) -> list[Message]:
        """Reads a table until so many messages came; the states that came go into `states`."""
        messages: list[Message] = []
        async with self.source(**options) as source:
            stream = next(each for each in await source.discover() if each.name == table)
            mode, cursor = ("full_refresh", ()) if full else ("incremental", (CURSOR,))
            selected = Selected(stream, mode, cursor, stream.primary_key, columns)  # type: ignore[arg-type]
            async with aclosing(source.read([selected], states or {})) as found:
                async for message in found:
                    messages.append(message)
                    if isinstance(message, Checkpoint) and states is not None:
                        states[message.stream] = message.state
                    if len(messages) >= most:
                        break
        return messages


class MySQLDatabase(Database):
    """A database of a server of MySQL or MariaDB."""

    async def run(self, *statements: str) -> None:
        await run_sql(self.document["dsn"], *statements)

    def name(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"


async def mysql_database(dsn: str, folder: Path) -> MySQLDatabase:
    """Returns a new database of a server."""
    name = f"source_{secrets.token_hex(6)}"
    await run_sql(dsn, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    address = dsn.rpartition("/")[0]
    wrong: list[tuple[Mapping[str, Any], str]] = [
        ({"password": "wrong"}, "check `user`"),
        ({"database": "gone"}, "gone"),
        ({"port": 1}, "check `host` and `port`"),
        ({"include": ["nothing*"]}, "check `include`"),
    ]
    return MySQLDatabase(folder, {"type": "mysql", "dsn": f"{address}/{name}"}, wrong, moment="DATETIME(3) NULL")


class DuckDBDatabase(Database):
    """A file of DuckDB."""

    async def run(self, *statements: str) -> None:
        with opened(self.document["path"]) as link:
            for statement in statements:
                link.execute(statement)

    def name(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'


async def duckdb_database(folder: Path) -> DuckDBDatabase:
    """Returns a new file."""
    (folder / "text.duckdb").write_text("not a database at all, and long enough to be looked at\n" * 100)
    wrong: list[tuple[Mapping[str, Any], str]] = [
        ({"path": str(folder / "gone.duckdb")}, "there is no such file; check `path`"),
        ({"path": str(folder / "text.duckdb")}, "check `path`"),
        ({"include": ["nothing*"]}, "`include`"),
    ]
    return DuckDBDatabase(folder, {"type": "duckdb", "path": str(folder / "shop.duckdb")}, wrong, moment="TIMESTAMP")


class ClickHouseDatabase(Database):
    """A database of a ClickHouse server."""

    number, text, key = "Int64", "String", ""
    place: Place

    @property
    def tail(self) -> str:
        return " ENGINE = ReplacingMergeTree ORDER BY id"

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await asyncio.to_thread(ask, self.place, statement, database=self.document["database"])

    def name(self, name: str) -> str:
        return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


async def clickhouse_database(place: Place, folder: Path) -> ClickHouseDatabase:
    """Returns a new database of a server."""
    name = f"source_{secrets.token_hex(6)}"
    await asyncio.to_thread(ask, place, f"CREATE DATABASE {name}")
    login = {"url": place.url, "user": place.user, "password": place.password}
    wrong: list[tuple[Mapping[str, Any], str]] = [
        ({"password": "wrong"}, "check `user` and `password`"),
        ({"url": "http://127.0.0.1:1"}, "check `url`"),
        ({"database": "gone"}, "check `database`"),
        ({"include": ["nothing*"]}, "`include`"),
    ]
    found = ClickHouseDatabase(folder, {"type": "clickhouse", "database": name, **login}, wrong, moment="Nullable(DateTime64(3))")
    found.place = place
    return found


def rows_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Returns the rows of a read."""
    return [row for each in messages if isinstance(each, Rows) for row in each.rows.to_pylist()]


def ids(messages: Sequence[Message]) -> list[int]:
    """Returns the numbers of the rows of a read."""
    return [row["id"] for row in rows_of(messages)]
