"""DuckDB: one file, written by this process and readable by others between loads; the default warehouse.

Rows are scanned from Arrow in place, merged through a unique index, and commit together with the ledger. Everything runs on the
thread gate, one piece of work at a time for a file (`loader/warehouses/duckdb/file.py` says when the file is open).

What to know: a loader that is frozen with the file open keeps it from everybody, its successor included, until it wakes or ends;
so it cannot be overtaken, and needs no other fence. The key's index lives in memory while the file is open, about 100 bytes a row
of a 36-character key. Columns that the user put an index on cannot be changed by a merge; DuckDB refuses them.

https://duckdb.org/docs/stable/connect/concurrency, https://duckdb.org/docs/stable/sql/statements/insert#on-conflict-clause
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, field

from loader.contract.warehouse import Capabilities, Destination, Environment, Session
from loader.sql import ledger
from loader.sql.ledger import Holder
from loader.sql.session import SqlDestination, SqlSession
from loader.sql.steps import Steps
from loader.warehouses.duckdb.bulk import ScanBulk
from loader.warehouses.duckdb.dialect import DIALECT
from loader.warehouses.duckdb.file import DatabaseFile
from loader.warehouses.duckdb.types import TYPES
from shared.errors import NotConnected
from shared.reading.units import ByteSize, Duration

T = TypeVar("T")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for a DuckDB destination."""

    path: Annotated[str, Meta(min_length=1, description="the database file; made when missing, with its directory")]
    schema: Annotated[str, Meta(min_length=1, description="schema of the tables; made when missing")] = "main"
    memory_limit: Annotated[
        ByteSize | None, Meta(description="memory DuckDB may use; default: its own, four fifths of the machine's")
    ] = None
    threads: Annotated[
        int, Meta(ge=1, le=64, description="DuckDB's own threads; loading gains nothing from more than one or two")
    ] = 1
    linger: Annotated[
        Duration,
        Meta(description="how long the file stays open for a next load; 0 closes it after each, for the sake of readers"),
    ] = field(default_factory=lambda: Duration(0.2))
    share_every: Annotated[
        Duration, Meta(description="where loads never pause: how often the file is closed for a moment, so that readers get in")
    ] = field(default_factory=lambda: Duration(5))
    lock_timeout: Annotated[Duration, Meta(description="how long a load waits for other processes to close the file")] = field(
        default_factory=lambda: Duration(10)
    )

    read_copy: Annotated[
        str | None,
        Meta(description="path of a copy of the file that any program can read while events are loaded; default: none is made"),
    ] = None
    read_copy_every: Annotated[
        Duration, Meta(description="how often the copy is replaced; each time the whole file is copied")
    ] = field(default_factory=lambda: Duration(60))

    def __post_init__(self) -> None:
        if self.path.startswith((":memory:", "md:", "motherduck:")) or "://" in self.path:
            raise ValueError(f"path {self.path!r} is not a local file, which is what this destination writes")
        if self.read_copy is not None and Path(self.read_copy).resolve() == Path(self.path).resolve():
            raise ValueError("read_copy must be another file than path")


OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=255,  # DuckDB sets none; this is what other tools bear
    name_unit="characters",
    transactional=True,
    merge="now",
    stream=True,
    evolve=True,
    widen=TYPES.pairs,
    case="lower",
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
        super().__init__(f'duckdb destination "{name}"', DIALECT, options.schema)
        self._file = DatabaseFile(
            path,
            environment,
            memory_limit=None if options.memory_limit is None else f"{options.memory_limit}B",
            threads=options.threads,
            linger_seconds=options.linger,
            share_every_seconds=options.share_every,
            lock_seconds=options.lock_timeout,
            read_copy=None if options.read_copy is None else Path(options.read_copy).resolve(),
            read_copy_seconds=options.read_copy_every,
        )

    async def open_session(self, connection: str, epoch: int) -> Session:
        holder = await self._once(f"opening {self._called}", ledger.claim(DIALECT, self._schema, connection, epoch))
        return DuckDBSession(self._called, self._schema, self._file, holder)

    async def close(self) -> None:
        await self._file.close()

    async def _once(self, what: str, steps: Steps[T]) -> T:
        return await self._file.run(what, steps)


class DuckDBSession(SqlSession):
    """A connection's right to write; it holds nothing open of its own."""

    def __init__(self, called: str, schema: str, file: DatabaseFile, holder: Holder) -> None:
        super().__init__(called, DIALECT, ScanBulk(schema), schema, holder)
        self._file = file
        self._closed = False

    async def close(self) -> None:
        self._closed = True

    async def _run(self, what: str, steps: Steps[T]) -> T:
        if self._closed:
            raise NotConnected(f"{what}: the session is closed")
        return await self._file.run(what, steps)
