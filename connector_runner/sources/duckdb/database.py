"""The database file, open for reading: questions and rows, each on a thread of the gate, so that the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from connector_runner.sources.duckdb.errors import translate
from connector_runner.sources.duckdb.options import OPTIONS
from connector_runner.sources.duckdb.types import WIDE
from connector_runner.sql.numbers import whole_numbers
from connector_runner.sql.tables import Column
from shared.driving.duckdb import is_locked
from shared.driving.spelling import Spelling
from shared.errors import SetupError
from shared.threads import ThreadGate

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

BATCH_ROWS = 32 * 1024
RETRY_SECONDS = 0.02
MAX_RETRY_SECONDS = 0.5


class Database:
    """One file.

    Args:
        what: the source, for messages.
        private: a folder for what does not fit into the memory.
    """

    def __init__(self, what: str, options: OPTIONS, private: Path) -> None:
        self._what = what
        self._options = options
        self._private = private
        self._gate = ThreadGate(1, "duckdb")
        self._link: duckdb.DuckDBPyConnection | None = None

    async def ask(self, sql: str) -> Sequence[Sequence[str | None]]:
        """Returns the few rows that a question finds, as texts."""
        link = await self._opened()
        cursor = link.cursor()
        try:
            return await self._gate.run_interruptible(cursor.interrupt, lambda: cursor.execute(sql).fetchall())
        except Exception as error:
            raise translate(error, self._what) from error
        finally:
            await self._gate.run(cursor.close)

    async def rows(self, sql: str, columns: Sequence[Column]) -> AsyncGenerator[pa.Table, None]:
        """Yields the rows of a statement while DuckDB finds them."""
        link = await self._opened()
        cursor = link.cursor()
        try:
            batches = await self._gate.run_interruptible(cursor.interrupt, _begin, cursor, sql)
            while (table := await self._gate.run_interruptible(cursor.interrupt, _next, batches, columns)) is not None:
                yield table
        except Exception as error:
            raise translate(error, self._what) from error
        finally:
            await self._gate.run(cursor.close)

    async def close(self) -> None:
        """Closes the file. Never raises."""
        link, self._link = self._link, None
        if link is not None:
            await self._gate.run(link.close)
        self._gate.close()

    async def _opened(self) -> duckdb.DuckDBPyConnection:
        loop = asyncio.get_running_loop()
        deadline, delay = loop.time() + self._options.lock_timeout, RETRY_SECONDS
        while self._link is None:
            try:
                await self._gate.run(self._open)
            except Exception as error:
                if not is_locked(error) or loop.time() > deadline:
                    raise translate(error, self._what) from error
                # a lock on a file cannot be waited for: DuckDB asks for it without waiting
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_RETRY_SECONDS)
        return self._link

    def _open(self) -> None:
        import duckdb

        path, options, literal = Path(self._options.path), self._options, Spelling().literal
        if not path.is_file():
            raise SetupError(f"{self._what}: there is no such file; check `path`")
        link = duckdb.connect(str(path), read_only=True)
        try:
            # a name of SQL must never be that of a variable of ours, and a view reads the database and no other files
            link.execute("SET python_enable_replacements = false; SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false")
            link.execute(f"SET memory_limit = {literal(f'{options.memory_limit}B')}; SET threads = {options.threads}")
            link.execute(f"SET temp_directory = {literal(str(self._private))}; SET preserve_insertion_order = false")
        except BaseException:
            link.close()
            raise
        self._link = link  # here, where no cancellation can come between: it must be closed


def _begin(cursor: duckdb.DuckDBPyConnection, sql: str) -> Iterator[pa.RecordBatch]:
    found = cursor.sql(sql)
    # what DuckDB 1 calls `fetch_arrow_reader`
    reader: Iterator[pa.RecordBatch] = (
        found.to_arrow_reader(BATCH_ROWS) if hasattr(found, "to_arrow_reader") else found.fetch_arrow_reader(BATCH_ROWS)
    )
    return reader


def _next(batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> pa.Table | None:
    import pyarrow as pa

    batch = next(batches, None)
    if batch is None:
        return None
    table = pa.Table.from_batches([batch])
    for place, column in enumerate(columns):
        if column.native in WIDE:
            table = table.set_column(place, column.name, whole_numbers(table.column(place)))
    return table
