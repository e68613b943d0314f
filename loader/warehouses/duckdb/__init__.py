"""DuckDB: one file, written by this process and readable by others between loads; the default warehouse.

Rows are scanned from Arrow in place, merged through a unique index, and commit together with the ledger. Everything runs on the
thread gate, one piece of work at a time for a file (`loader/warehouses/duckdb/file.py` says when the file is open).

What to know: a loader that is frozen with the file open keeps it from everybody, its successor included, until it wakes or ends;
so it cannot be overtaken, and needs no other fence. The key's index lives in memory while the file is open, about 100 bytes a row
of a 36-character key. Columns that the user put an index on cannot be changed by a merge; DuckDB refuses them.

https://duckdb.org/docs/stable/connect/concurrency, https://duckdb.org/docs/stable/sql/statements/insert#on-conflict-clause
"""

# ruff: noqa: S608 - names are quoted by loader/sql/dialect.py, values are bound

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta, field

from loader.contract.check import check_destination
from loader.contract.warehouse import (
    Capabilities,
    CheckResult,
    Destination,
    Environment,
    LoadPlan,
    LoadReport,
    Session,
    TableLoad,
    TablePatch,
    TableSchema,
)
from loader.sql.reject import refuse_null_keys
from loader.sql.straight import Straight
from loader.sql.text import LEDGER, by_dependency, id_columns_of, named
from loader.warehouses.duckdb import patch as patching
from loader.warehouses.duckdb import statements, write
from loader.warehouses.duckdb.dialect import DIALECT
from loader.warehouses.duckdb.file import DatabaseFile
from loader.warehouses.duckdb.types import WIDEN
from shared.errors import NotConnected, RowsRejected
from shared.reading.units import ByteSize, Duration
from shared.threads import Stop

if TYPE_CHECKING:
    import duckdb

    from loader.warehouses.duckdb.file import Work

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
    widen=WIDEN,
    case="lower",
)


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:
    """Returns the destination; the file is opened when there is work."""
    # resolved: two destinations that name one file by different ways must meet at one lock
    path = await environment.gate.run(lambda: Path(options.path).expanduser().resolve())
    return DuckDBDestination(name, options, path, environment)


class DuckDBDestination:
    """One schema of one file."""

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: Options, path: Path, environment: Environment) -> None:
        self._name = name
        self._schema = options.schema
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

    async def check(self) -> Sequence[CheckResult]:
        """See `Destination.check`."""
        return await check_destination(self, self._count, self._drop)

    async def open_session(self, connection: str, epoch: int) -> Session:
        """See `Destination.open_session`."""
        work = partial(write.claim, schema=self._schema, name=connection, epoch=epoch)
        holder = await self._file.run(f'opening duckdb destination "{self._name}"', work)
        return DuckDBSession(self._name, self._schema, self._file, holder)

    async def close(self) -> None:
        """See `Destination.close`."""
        await self._file.close()

    async def find_ids(self, connection: str, ids: Sequence[str], key: str) -> Mapping[str, Mapping[str, int]]:
        """See `FindsIds.find_ids`."""
        schema, wanted, columns = self._schema, list(ids), id_columns_of(key)

        def work(link: duckdb.DuckDBPyConnection, stop: Stop) -> dict[str, dict[str, int]]:
            found: dict[str, dict[str, int]] = {}
            for table, place in link.execute(statements.id_columns(schema), [schema, connection, list(columns)]).fetchall():
                stop.check()
                rows = link.execute(statements.count_ids(schema, table, columns[place - 1]), [wanted]).fetchall()
                found[table] = dict(rows)
            return found

        return await self._file.run(f'asking duckdb destination "{self._name}" for ids', work)

    async def _count(self, table: str) -> int:
        def work(link: duckdb.DuckDBPyConnection, _: Stop) -> int:
            row = link.execute(f"SELECT count(*) FROM {DIALECT.qualified(self._schema, table)}").fetchone()
            return int(row[0]) if row else 0

        return await self._file.run(f'checking duckdb destination "{self._name}"', work)

    async def _drop(self, table: str, connection: str) -> None:
        def work(link: duckdb.DuckDBPyConnection, _: Stop) -> None:
            link.execute(f"DROP TABLE IF EXISTS {DIALECT.qualified(self._schema, table)}")
            link.execute(f"DELETE FROM {DIALECT.qualified(self._schema, LEDGER)} WHERE connection = ?", [connection])

        await self._file.run(f'checking duckdb destination "{self._name}"', work)


class DuckDBSession:
    """A connection's right to write; it holds nothing open of its own."""

    def __init__(self, name: str, schema: str, file: DatabaseFile, holder: write.Holder) -> None:
        self._name = name
        self._schema = schema
        self._file = file
        self._holder = holder
        self._straight = Straight()
        self._closed = False

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """See `Session.marks`."""
        return await self._run(
            "reading the ledger of", partial(write.read_marks, schema=self._schema, name=self._holder.connection)
        )

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        """See `Session.forget`."""
        work = partial(write.forget_marks, schema=self._schema, name=self._holder.connection, marks=marks)
        await self._run("cleaning the ledger of", work)

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        """See `Session.describe`."""
        work = partial(patching.describe_tables, schema=self._schema, tables=dict.fromkeys(tables, ()))
        return await self._run(f"describing {named(tables)} of", work)

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """See `Session.create`."""
        work = partial(patching.create, schema=self._schema, patches=patches)
        return await self._run(f"creating {named([patch.table for patch in patches])} of", work)

    async def patch(self, patch: TablePatch) -> TableSchema:
        """See `Session.patch`."""
        return await self._run(f'changing table "{patch.table}" of', partial(patching.apply, schema=self._schema, patch=patch))

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """See `Session.load`."""
        return await self._bring(loads, plan)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """See `Session.probe`."""
        await self._bring(loads, None)

    async def close(self) -> None:
        """See `Session.close`."""
        self._closed = True

    async def _bring(self, loads: Sequence[TableLoad], plan: LoadPlan | None) -> LoadReport:
        for load in loads:
            refuse_null_keys(load)
        ordered = False
        while True:
            work = partial(
                write.load_all, schema=self._schema, holder=self._holder, plan=plan, loads=loads, straight=self._straight
            )
            try:
                report = await self._run("loading into", work)
                if plan is not None:
                    self._holder = self._holder._replace(loads=self._holder.loads + 1)
                return report
            except RowsRejected as error:
                if not error.needs_others or ordered or len(loads) < 2:
                    raise
                pairs = await self._run("reading the foreign keys of", partial(write.references, schema=self._schema))
                there = {load.table for load in loads}
                loads, ordered = by_dependency(loads, [pair for pair in pairs if there.issuperset(pair)]), True

    async def _run(self, doing: str, work: Work[T]) -> T:
        what = f'{doing} duckdb destination "{self._name}"'
        if self._closed:
            raise NotConnected(f"{what}: the session is closed")
        return await self._file.run(what, work)
