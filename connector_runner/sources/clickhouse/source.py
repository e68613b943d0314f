"""One database of a ClickHouse server as a `Source`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from connector_runner.contract import Checked, Message, Said, Selected, Stream, StreamName
from connector_runner.sources.clickhouse.catalogue import SQL, read_tables
from connector_runner.sources.clickhouse.link import Link
from connector_runner.sources.clickhouse.options import OPTIONS
from connector_runner.sql.reading import Reader
from connector_runner.sql.tables import stream_of
from shared.errors import NotConnected, SetupError
from shared.reading.decode import json_schema


class ClickHouseSource:
    """One database; see the contract of `Source`."""

    def __init__(self, name: str, options: OPTIONS) -> None:
        self._options = options
        self._link = Link(f'clickhouse connector "{name}" at {options.url}', options)

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of its options."""
        return json_schema(OPTIONS)

    async def check(self) -> Checked:
        """Logs in and looks for tables."""
        try:
            tables, _ = await self._tables()
        except (SetupError, NotConnected) as exc:
            return Checked(ok=False, message=str(exc))
        if tables:
            return Checked(ok=True)
        return Checked(
            ok=False,
            message=f'the user may read no table of database "{self._options.database}" that is included; check `database` and '
            "`include`, or grant SELECT",
        )

    async def discover(self) -> Sequence[Stream]:
        """Returns the tables and views."""
        tables, _ = await self._tables()
        return [stream_of(each) for each in tables]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields the rows of tables; see the contract."""
        tables, left = await self._tables()
        if left:
            yield Said("warn", f"columns of aggregate states cannot be read and are left out: {', '.join(left)}")
        reader = Reader(self._link, SQL, self._options.page_rows, self._options.lookback)
        async with aclosing(reader.read(selected, tables, states)) as messages:
            async for message in messages:
                yield message

    async def close(self) -> None:
        """Closes the connections."""
        await self._link.close()

    async def _tables(self) -> Any:
        options = self._options
        return await read_tables(self._link.ask, options.database, options.include, options.exclude, final=options.final)
