"""MySQL and MariaDB: rows arrive by LOAD DATA LOCAL from memory, repeats merge by ON DUPLICATE KEY UPDATE, the ledger commits with them.

One connection a session, with a lock of the server by which the successor finds and ends it (`connect.py`). A load is one
transaction: look at the tables, which keeps others from altering them, LOAD DATA, merge, check the epoch, write the marks, COMMIT. DDL
commits by itself here, so a table is patched before the transaction, and read again inside it.

What to know: a COMMIT that was sent is waited for even when the load is cancelled, so that its outcome is known; a cancelled or
stalled load closes its connection, and the session answers `NotConnected` from then on.

https://dev.mysql.com/doc/refman/8.0/en/load-data.html, https://mariadb.com/kb/en/load-data-infile/
"""

# ruff: noqa: S608 - names and values are quoted by the dialect
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

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
from loader.sql.merge import Straight
from loader.sql.reject import refuse_null_keys
from loader.sql.text import LEDGER, by_dependency, id_columns_of, named
from loader.warehouses.mysql.catalogue import LiveTable, read_table, references, require_transactions
from loader.warehouses.mysql.connect import Options, connect, database_of, take_over
from loader.warehouses.mysql.dialect import SQL, TABLE_LIMIT, UNFIT
from loader.warehouses.mysql.errors import number_of, translate
from loader.warehouses.mysql.ledger import Ledger
from loader.warehouses.mysql.load import prepare, send
from loader.warehouses.mysql.patch import LOST_RACE, Patching
from loader.warehouses.mysql.types import WIDEN, Natives
from shared.driving.watch import Watch
from shared.errors import NotConnected, PenstockError, Permanent, RowsRejected, TableChanged, is_panic
from shared.tasks import timeout

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

T = TypeVar("T")

OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=64,
    name_unit="characters",
    transactional=True,
    merge="now",
    stream=True,
    evolve=True,
    widen=WIDEN,
    max_columns=1000,  # InnoDB's limit is 1017
    case="lower",
    unfit=UNFIT,
    table_limit=TABLE_LIMIT,
)

ROLLBACK_SECONDS = 5.0
COMMIT_SECONDS = 60.0
PATCH_TRIES = 4


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:  # noqa: ARG001
    """Returns the destination; connections are opened by its sessions."""
    return MySQLDestination(name, options)


def natives_of(link: Link) -> Natives:
    """Returns the types of new columns on the server at the other end."""
    return Natives("utf8mb4_nopad_bin" if link.is_mariadb else "utf8mb4_0900_bin")


class MySQLDestination:
    """One database of a server."""

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: Options) -> None:
        self._name = name
        self._options = options
        self._schema = database_of(options)

    async def check(self) -> Sequence[CheckResult]:
        """See `Destination.check`."""
        return await check_destination(self, self._count, self._drop)

    async def open_session(self, connection: str, epoch: int) -> Session:
        """See `Destination.open_session`."""
        what = f'opening mysql destination "{self._name}"'
        link = await connect(self._options, what)
        ledger = Ledger(self._schema, connection)
        try:
            async with timeout(self._options.stall_timeout):
                await ledger.make(link, natives_of(link).collation)
                # the epoch is read before and after: ending a newer session would be as wrong as being overtaken
                await take_over(
                    link=link, database=self._schema, connection=connection, epoch=epoch, newest=lambda: ledger.newest(link)
                )
                loads = await ledger.claim(link, epoch)
        except BaseException as error:
            link.close()
            if isinstance(error, Exception):
                raise translate(error, what) from error
            raise
        return MySQLSession(name=self._name, options=self._options, link=link, ledger=ledger, epoch=epoch, loads=loads)

    async def close(self) -> None:
        """See `Destination.close`; there is nothing outside the sessions."""

    async def find_ids(self, connection: str, ids: Sequence[str], key: str) -> Mapping[str, Mapping[str, int]]:
        """See `FindsIds.find_ids`."""
        columns = id_columns_of(key)

        async def work(link: Link) -> dict[str, dict[str, int]]:
            found: dict[str, dict[str, int]] = {}
            wanted = ", ".join(map(SQL.literal, ids)) or "NULL"
            for table in {table for table, _ in await Ledger(self._schema, connection).read_marks(link)}:
                live = await read_table(link, self._schema, table)
                there = [live.columns[SQL.fold(name)].name for name in columns if SQL.fold(name) in live.columns] if live else []
                if there:
                    name = SQL.identifier(there[0])
                    query = (
                        f"SELECT {name}, count(*) FROM {SQL.qualified(self._schema, table)} WHERE {name} IN ({wanted}) GROUP BY 1"
                    )
                    found[table] = {str(id_): int(times) for id_, times in (await link.run(query)).rows}
            return found

        return await self._once(work)

    async def _count(self, table: str) -> int:
        async def work(link: Link) -> int:
            return int((await link.run(f"SELECT count(*) FROM {SQL.qualified(self._schema, table)}")).rows[0][0])

        return await self._once(work)

    async def _drop(self, table: str, connection: str) -> None:
        async def work(link: Link) -> None:
            await link.run(f"DROP TABLE IF EXISTS {SQL.qualified(self._schema, table)}")
            await link.run(f"DELETE FROM {SQL.qualified(self._schema, LEDGER)} WHERE connection = {SQL.literal(connection)}")

        await self._once(work)

    async def _once(self, call: Callable[[Link], Awaitable[T]]) -> T:
        what = f'checking mysql destination "{self._name}"'
        link = await connect(self._options, what)
        try:
            async with timeout(self._options.statement_timeout):
                return await call(link)
        except Exception as error:
            raise translate(error, what) from error
        finally:
            link.close()
            await asyncio.sleep(0)


class MySQLSession:
    """A connection's right to write, and the one link to the server it has."""

    def __init__(self, name: str, options: Options, link: Link, ledger: Ledger, epoch: int, loads: int) -> None:
        self._name = name
        self._options = options
        self._schema = database_of(options)
        self._link = link
        self._ledger = ledger
        self._epoch = epoch
        self._loads = loads
        self._straight = Straight()
        self._natives = natives_of(link)

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """See `Session.marks`."""
        async with self._call("reading the ledger of"):
            return await self._ledger.read_marks(self._link)

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        """See `Session.forget`."""
        async with self._call("cleaning the ledger of"):
            await self._ledger.forget_marks(self._link, marks)

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        """See `Session.describe`."""
        found: dict[str, TableSchema | None] = {}
        async with self._call(f"describing {named(tables)} of") as watch:
            for table in tables:
                live = await read_table(self._link, self._schema, table)
                found[table] = live.as_schema() if live is not None else None
                watch.moved()
        return found

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """See `Session.create`."""
        async with self._call(f"creating {named([patch.table for patch in patches])} of") as watch:
            watch.server_works()
            return await self._patching().create(patches)

    async def patch(self, patch: TablePatch) -> TableSchema:
        """See `Session.patch`."""
        for left in reversed(range(PATCH_TRIES)):
            try:
                async with self._call(f'changing table "{patch.table}" of') as watch:
                    watch.server_works()  # widening rewrites the table
                    return await self._patching().apply(patch)
            except PenstockError as error:
                if not left or error.__cause__ is None or number_of(error.__cause__) not in LOST_RACE:
                    raise
        raise AssertionError("the last try returns or raises")

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """See `Session.load`."""
        return await self._bring(loads, plan)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """See `Session.probe`."""
        await self._bring(loads, None)

    async def abandon(self, table: str) -> None:
        """See `Session.abandon`."""

    async def close(self) -> None:
        """See `Session.close`."""
        try:
            async with timeout(ROLLBACK_SECONDS):
                await self._link.say_goodbye()
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is given up
            self._link.close()

    def _patching(self) -> Patching:
        return Patching(self._link, self._schema, self._natives, self._options.lock_timeout)

    async def _bring(self, loads: Sequence[TableLoad], plan: LoadPlan | None) -> LoadReport:
        for load in loads:
            refuse_null_keys(load)
            if load.write == "replace":
                raise Permanent(f'table "{load.table}": mysql destinations take no full refresh')
        ordered = False
        while True:
            try:
                return await self._try(loads, plan)
            except RowsRejected as error:
                if not error.needs_others or ordered or len(loads) < 2:
                    raise
                async with self._call("reading the foreign keys of"):
                    pairs = await references(self._link, self._schema, [load.table for load in loads])
                loads, ordered = by_dependency(loads, pairs), True

    async def _try(self, loads: Sequence[TableLoad], plan: LoadPlan | None) -> LoadReport:
        """Brings rows and the plan's marks in and commits; without a plan, takes everything back."""
        rows: dict[str, int] = {}
        sent = 0
        started = perf_counter()
        async with self._call("loading into") as watch:
            live = await self._lock_tables([load.table for load in loads])
            for load in loads:
                prepared = prepare(load, live[load.table])
                sent += await send(
                    link=self._link,
                    schema=self._schema,
                    prepared=prepared,
                    natives=self._natives,
                    watch=watch,
                    straight=None if plan is None else self._straight,
                )
                rows[load.table] = rows.get(load.table, 0) + load.rows.num_rows
            copied = perf_counter()
            if plan is None:
                await self._link.run("ROLLBACK")
            else:
                await self._ledger.write_marks(link=self._link, epoch=self._epoch, loads=self._loads, plan=plan, rows=rows)
                await self._commit()
                self._loads += 1
        return LoadReport(rows, sent, {"copy": copied - started, "commit": perf_counter() - copied})

    async def _lock_tables(self, tables: Sequence[str]) -> Mapping[str, LiveTable]:
        """Begins a transaction, and reads tables that nobody alters until its end."""
        await self._link.run("START TRANSACTION")
        found: dict[str, LiveTable] = {}
        for table in sorted(set(tables)):
            await self._link.run(f"SELECT 1 FROM {SQL.qualified(self._schema, table)} LIMIT 0")
            live = await read_table(self._link, self._schema, table)
            if live is None:
                raise TableChanged(f'table "{table}" is gone')
            require_transactions(table, live)
            found[table] = live
        return found

    @asynccontextmanager
    async def _call(self, doing: str) -> AsyncIterator[Watch]:
        """Runs a call under the watch, and ends what it left open: by ROLLBACK where the server answers, else by hanging up."""
        what = f'{doing} mysql destination "{self._name}"'
        if self._link.closed:
            raise NotConnected(f"{what}: the connection is closed")
        try:
            async with Watch(self._options.stall_timeout, self._options.statement_timeout, self._answers) as watch:
                yield watch
        except BaseException as error:
            await self._abandon(error)
            if isinstance(error, Exception) or is_panic(error):
                raise translate(error, what) from error
            raise

    async def _answers(self) -> bool:
        try:
            link = await connect(self._options, "asking whether the server answers")
        except NotConnected:
            return False
        except PenstockError:
            return True  # it answered: that there is no connection free, perhaps
        link.close()
        return True

    async def _abandon(self, error: BaseException) -> None:
        if not (isinstance(error, Exception) or is_panic(error)) or isinstance(error, TimeoutError) or self._link.closed:
            self._link.close()
            return
        if isinstance(translate(error, ""), NotConnected):
            self._link.close()
            return
        try:
            async with timeout(ROLLBACK_SECONDS):
                await self._link.run("ROLLBACK")
        except BaseException as failed:
            self._link.close()
            if not isinstance(failed, Exception):
                raise

    async def _commit(self) -> None:
        """Commits and waits for the answer even when cancelled: hanging up on a COMMIT would leave its outcome unknown."""
        commit = asyncio.ensure_future(self._link.run("COMMIT"))
        try:
            await asyncio.shield(commit)
        except asyncio.CancelledError:
            await asyncio.wait([commit], timeout=COMMIT_SECONDS)
            if commit.done() and not commit.cancelled():
                commit.exception()  # the cancellation goes on, whatever the answer was
            raise
