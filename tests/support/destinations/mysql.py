"""MySQL under test: a database of its own, read by aiomysql; statements of the shared scenarios become its dialect."""

from __future__ import annotations

import asyncio
import re
import secrets
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from loader.contract.warehouse import (
    Kind,
)
from tests.support.destinations.subject import Row, Shape


class MySQLSubject:
    """A database of its own in a real server."""

    label = "mysql"

    def __init__(self, dsn: str) -> None:
        self.server = dsn.rpartition("/")[0]
        self.schema = f"t_{secrets.token_hex(6)}"
        self.document: dict[str, Any] = {"type": "mysql", "dsn": f"{self.server}/{self.schema}"}

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        columns, _ = await self._run(
            "SELECT column_name, column_type FROM information_schema.columns "
            f"WHERE table_schema = '{self.schema}' AND table_name = {_my_text(table)}"
        )
        exact = {str(name): str(native) for name, native in columns}
        if not exact:
            return []
        # the text of a FLOAT has fewer digits than the value; as a double it has all
        wanted = ", ".join(f"{_my_name(name)} + 0e0" if native == "float" else _my_name(name) for name, native in exact.items())
        found, _ = await self._run(f"SELECT {wanted} FROM {_my_name(table)}")
        return [
            {name: _from_mysql(value, exact[name], shape.get(name)) for name, value in zip(exact, row, strict=True)}
            for row in found
        ]

    async def run(self, statement: str) -> None:
        """See `Subject.run`; types that the server calls otherwise are called so."""
        for pattern, replacement in _MY_WORDS:
            statement = re.sub(pattern, replacement, statement)
        await self._run(statement.replace("{}", self.schema))

    async def fetch(self, query: str) -> list[Row]:
        """Returns what a query finds; `{}` stands for the schema."""
        rows, described = await self._run(query.replace("{}", self.schema))
        return [dict(zip(described, row, strict=True)) for row in rows]

    async def tables(self) -> list[str]:
        """Returns the names of all tables."""
        found = await self.fetch("SELECT table_name AS name FROM information_schema.tables WHERE table_schema = '{}'")
        return [row["name"] for row in found]

    async def create(self) -> None:
        """Makes the database."""
        await self._run(f"CREATE DATABASE `{self.schema}`", database=None)

    async def drop(self) -> None:
        """Drops the database."""
        await self._run(f"DROP DATABASE IF EXISTS `{self.schema}`", database=None)

    async def _run(self, statement: str, database: str | None = "") -> tuple[list[Any], list[str]]:
        import aiomysql

        parts = urlsplit(self.server)
        link = await aiomysql.connect(
            host=parts.hostname, port=parts.port, user=parts.username, password=parts.password,
            db=self.schema if database == "" else database, charset="utf8mb4", autocommit=True,
            init_command="SET sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,PIPES_AS_CONCAT', time_zone = '+00:00'",
        )  # fmt: skip
        try:
            async with link.cursor() as cursor:
                await cursor.execute(statement)
                described = [column[0] for column in cursor.description or ()]
                return list(await cursor.fetchall()) if described else [], described
        finally:
            await link.ensure_closed()
            await asyncio.sleep(0)  # asyncio ends its transport then


_MY_WORDS = (
    (r"\bvarchar\b(?!\()", "varchar(255) COLLATE utf8mb4_bin"),
    (r"\btimestamptz\b", "datetime(6)"),
    (r"\btimestamp\b(?![(\"])", "datetime(6)"),
    (r"\breal\b", "float"),
    (r"\btime\b(?![( ]+NOT|\()", "time(6)"),
    (r"ALTER COLUMN (\w+) TYPE", r"MODIFY COLUMN \1"),
    (r"\+00'", "'"),
    (r"nextval\('(\{\}\.\w+)'\)", r"nextval(\1)"),
)


def _my_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _my_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _from_mysql(value: Any, native: str, kind: Kind | None) -> Any:
    if value is None:
        return None
    if native == "tinyint(1)":
        return bool(value)
    if native == "float":
        return float(str(np.float32(value)))
    if native.startswith("bit"):
        return int.from_bytes(value, "big")
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    if kind is Kind.DATE and isinstance(value, str):
        return date.fromisoformat(value)
    return value
