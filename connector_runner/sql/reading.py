"""Reads tables over a server: the messages of a source's `read`, by the rules of `plan.py`. The part of the kit that waits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from connector_runner.contract import Checkpoint, Ended, Estimate, Message, Rows, Said, Selected, StreamName
from connector_runner.sql.dialect import Dialect
from connector_runner.sql.plan import Plan, begin, end, plan_of, start_of
from connector_runner.sql.states import State, read_state, write_state
from connector_runner.sql.tables import Column, Table
from shared.errors import SetupError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 8 * 1024 * 1024
"""Of rows that are given together."""


class Server(Protocol):
    """What a source asks its database. Raises the errors of our tree."""

    async def ask(self, sql: str) -> Sequence[Sequence[str | None]]:
        """Returns the few rows that a question finds, as texts."""
        ...

    def rows(self, sql: str, columns: Sequence[Column]) -> AsyncGenerator[pa.Table, None]:
        """Yields the rows that a statement of `Dialect.rows` finds, as they come. To leave it ends the statement on the server."""
        ...


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads tables of one database. `page_rows`, `lookback`: as the options of these names."""

    server: Server
    dialect: Dialect
    page_rows: int
    lookback: float = 0.0

    async def read(
        self, selected: Sequence[Selected], tables: Sequence[Table], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields what `Source.read` does. A stream that a person must mend ends without being complete, and the others are read.

        Args:
            tables: that the database has now.

        Raises:
            SetupError: the first of those streams, after all others are read.
            Transient
        """
        failed: SetupError | None = None
        for each in selected:
            stream = each.stream.known_as
            try:
                plan = plan_of(each, tables)
                read = _Full(self, plan) if not plan.order else _Incremental(self, plan, states.get(stream))
                async with aclosing(read.messages()) as messages:
                    async for message in messages:
                        yield message
                continue
            except SetupError as exc:
                failed, words = failed or exc, str(exc)
            yield Said("error", words)
            yield Ended(stream, complete=False)
        if failed is not None:
            raise failed


class _Full:
    """One read of a whole table."""

    def __init__(self, reader: Reader, plan: Plan) -> None:
        self._reader = reader
        self._plan = plan
        self.count = 0
        """Rows that were given since the last state."""

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Yields what the table has."""
        table = self._plan.table
        if table.rows is not None:
            yield Estimate(self._plan.stream, table.rows, table.bytes)
        async with aclosing(self._rows([])) as found:
            async for rows in found:
                yield rows
        yield Ended(self._plan.stream, complete=True)

    async def _rows(self, conditions: Sequence[str]) -> AsyncGenerator[Rows, None]:
        reader, plan = self._reader, self._plan
        statement = reader.dialect.rows(plan.table.source, plan.columns, conditions)
        async with aclosing(reader.server.rows(statement, plan.columns)) as tables:
            async for table in tables:
                for part in cut(table, MOST_BYTES):
                    self.count += part.num_rows
                    yield Rows(plan.stream, part)


class _Incremental(_Full):
    """One read of what a table has behind a state."""

    def __init__(self, reader: Reader, plan: Plan, stored: bytes | None) -> None:
        super().__init__(reader, plan)
        self._state = read_state(stored, plan.cursor.name)
        self._forgot = stored is not None and self._state == State(cursor=plan.cursor.name) and stored != write_state(self._state)

    async def messages(self) -> AsyncGenerator[Message, None]:
        plan, cursor, reader = self._plan, self._plan.cursor, self._reader
        if self._forgot:
            yield Said("warn", f'stream "{plan.stream}" has another cursor now, {cursor.name}: all its rows are read')
        if self._state.at is not None:
            async with aclosing(self._round()) as messages:
                async for message in messages:
                    yield message
            self._state = end(self._state)
        elif cursor.nullable:
            async with aclosing(self._rows([reader.dialect.is_null(cursor)])) as found:
                async for rows in found:
                    yield rows
            if self.count:
                yield Said("info", f'stream "{plan.stream}": {self.count} rows without {cursor.name}; they come with every read')
        highest = await reader.server.ask(reader.dialect.highest(plan.table.source, cursor))
        if highest:
            self._state = begin(plan, self._state, highest[0][0])
            async with aclosing(self._round()) as messages:
                async for message in messages:
                    yield message
            self._state = end(self._state)
        yield self._checkpoint()
        yield Ended(plan.stream, complete=True)

    async def _round(self) -> AsyncGenerator[Message, None]:
        """Yields the rest of a round, and a state behind each page but the last."""
        plan, reader, dialect, table = self._plan, self._reader, self._reader.dialect, self._plan.table.source
        high = self._state.high
        assert high is not None  # noqa: S101 - a round has it
        limit = dialect.up_to(plan.order[:1], (high,))
        while True:
            start = start_of(plan, self._state, reader.lookback)
            behind = [] if start is None else [dialect.beyond(start[0], start[1], same=start[2])]
            found = await reader.server.ask(dialect.page_end(table, plan.order, [*behind, limit], reader.page_rows))
            position = [text for text in found[0] if text is not None] if found else None
            upper = limit if position is None else dialect.up_to(plan.order, position)
            async with aclosing(self._rows([*behind, upper])) as pages:
                async for rows in pages:
                    yield rows
            if position is None:
                return
            self._state = replace(self._state, at=tuple(position), key=tuple(each.name for each in plan.order[1:]))
            yield self._checkpoint()

    def _checkpoint(self) -> Checkpoint:
        count, self.count = self.count, 0
        return Checkpoint(self._plan.stream, write_state(self._state), count)


def cut(table: pa.Table, most_bytes: int) -> Iterator[pa.Table]:
    """Yields the rows of a table in order, in tables of at most so many bytes, or of one row; none for no rows."""
    if table.num_rows <= 1 or table.nbytes <= most_bytes:
        if table.num_rows:
            yield table
        return
    half = table.num_rows // 2
    yield from cut(table.slice(0, half), most_bytes)
    yield from cut(table.slice(half), most_bytes)
