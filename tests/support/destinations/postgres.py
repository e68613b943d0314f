"""Postgres under test: a schema of its own, read by asyncpg."""

from __future__ import annotations

import secrets
from typing import Any

from tests.support.destinations.subject import Row, Shape


class PostgresSubject:
    """A schema of its own in a real server."""

    label = "postgres"

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.schema = f"t_{secrets.token_hex(6)}"
        self.document: dict[str, Any] = {"type": "postgres", "dsn": dsn, "schema": self.schema}

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        import asyncpg

        link = await asyncpg.connect(self.dsn)
        try:
            # a name as the tests wrote it: quoted here, by other code than the plug-in's
            quoted = await link.fetchval("SELECT format('%I.%I', $1::text, $2::text)", self.schema, table)
            if await link.fetchval("SELECT to_regclass($1)", quoted) is None:
                return []
            return [dict(row) for row in await link.fetch(f"SELECT * FROM {quoted}")]
        finally:
            await link.close()

    async def run(self, statement: str) -> None:
        import asyncpg

        link = await asyncpg.connect(self.dsn)
        try:
            await link.execute(statement.replace("{}", self.schema))
        finally:
            await link.close()

    async def fetch(self, query: str) -> list[Row]:
        """Returns what a query finds; `{}` stands for the schema."""
        import asyncpg

        link = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await link.fetch(query.replace("{}", self.schema))]
        finally:
            await link.close()

    async def tables(self) -> list[str]:
        """Returns the names of all tables."""
        return [row["name"] for row in await self.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = '{}'")]

    async def drop(self) -> None:
        """Drops the schema."""
        await self.run('DROP SCHEMA IF EXISTS "{}" CASCADE')
