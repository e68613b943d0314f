"""A DuckDB file as a `Source`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from connector_runner.contract import Checked, Environment, Message, Selected, Stream, StreamName
from connector_runner.sources.duckdb.catalogue import SQL, read_tables
from connector_runner.sources.duckdb.database import Database
from connector_runner.sources.duckdb.options import OPTIONS
from connector_runner.sql.reading import Reader
from connector_runner.sql.tables import Table, stream_of
from shared.errors import SetupError, Transient
from shared.reading.decode import json_schema


class DuckDBSource:
    """One file; see the contract of `Source`."""

    def __init__(self, name: str, options: OPTIONS, environment: Environment) -> None:
        self._options = options
        self._database = Database(f'duckdb connector "{name}" at {options.path}', options, environment.private)

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of its options."""
        return json_schema(OPTIONS)

    async def check(self) -> Checked:
        """Opens the file and looks for tables."""
        try:
            tables = await self._tables()
        except (SetupError, Transient) as exc:
            return Checked(ok=False, message=str(exc))
        if tables:
            return Checked(ok=True)
        return Checked(ok=False, message=f"{self._options.path} has no table that is included; check `path` and `include`")

    async def discover(self) -> Sequence[Stream]:
        """Returns the tables and views; those of the schema `main` are named without it."""
        return [stream_of(each) for each in await self._tables()]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields the rows of tables; see the contract."""
        reader = Reader(self._database, SQL, self._options.page_rows, self._options.lookback)
        async with aclosing(reader.read(selected, await self._tables(), states)) as messages:
            async for message in messages:
                yield message

    async def close(self) -> None:
        """Closes the file."""
        await self._database.close()

    async def _tables(self) -> list[Table]:
        return await read_tables(self._database.ask, self._options.include, self._options.exclude)
