"""DuckDB: one file, written by this process and readable by others between loads; the default warehouse.

Rows are scanned from Arrow in place, merged through a unique index, and commit together with the ledger. Everything runs on the
thread gate, one piece of work at a time for a file (`loader/warehouses/duckdb/file.py` says when the file is open).

What to know: a loader that is frozen with the file open keeps it from everybody, its successor included, until it wakes or ends;
so it cannot be overtaken, and needs no other fence. The key's index lives in memory while the file is open, about 100 bytes a row
of a 36-character key. Columns that the user put an index on cannot be changed by a merge; DuckDB refuses them.

https://duckdb.org/docs/stable/connect/concurrency, https://duckdb.org/docs/stable/sql/statements/insert#on-conflict-clause
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from loader.contract.warehouse import Capabilities, Destination, Environment, Session
from loader.sql import ledger
from loader.sql.dialect import Dialect
from loader.sql.ledger import Holder
from loader.sql.session import SqlDestination, SqlSession
from loader.sql.steps import Steps
from loader.warehouses.duckdb.bulk import ScanBulk
from loader.warehouses.duckdb.dialect import DIALECT
from loader.warehouses.duckdb.file import DatabaseFile, Options
from loader.warehouses.duckdb.types import TYPES
from shared.errors import NotConnected

T = TypeVar("T")


OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=255,  # DuckDB sets none; this is what other tools bear
    name_unit="characters",
    transactional=True,
    merge="now",
    replace=True,
    deletes=True,
    marks=True,
    empties=True,
    insert_only=True,
    history=True,
    stream=True,
    evolve=True,
    widen=TYPES.pairs,
    case="ascii",
)


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:
    """Returns the destination; the file is opened when there is work."""
    # resolved: two destinations that name one file by different ways must meet at one lock
    path = await environment.gate.run(lambda: Path(options.path).expanduser().resolve())
    return DuckDBDestination(name, options, path, environment)


class DuckDBDestination(SqlDestination):
    """One schema of one file."""

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: Options, path: Path, environment: Environment) -> None:
        super().__init__(f'duckdb destination "{name}"', options.schema)
        self._file = DatabaseFile(path, options, environment)

    async def open_session(self, connection: str, epoch: int) -> Session:
        holder = await self._once(
            f"opening {self._called}", lambda dialect: ledger.claim(dialect, self._schema, connection, epoch)
        )
        return DuckDBSession(self._called, self._schema, self._file, holder)

    async def close(self) -> None:
        await self._file.close()

    async def _once(self, what: str, work: Callable[[Dialect], Steps[T]]) -> T:
        return await self._file.run(what, work(DIALECT))


class DuckDBSession(SqlSession):
    """A connection's right to write; it holds nothing open of its own."""

    def __init__(self, called: str, schema: str, file: DatabaseFile, holder: Holder) -> None:
        super().__init__(called=called, dialect=DIALECT, bulk=ScanBulk(schema), schema=schema, holder=holder)
        self._file = file
        self._closed = False

    async def close(self) -> None:
        self._closed = True

    async def _run(self, what: str, steps: Steps[T]) -> T:
        if self._closed:
            raise NotConnected(f"{what}: the session is closed")
        return await self._file.run(what, steps)
