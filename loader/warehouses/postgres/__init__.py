"""Postgres: rows arrive by binary COPY, repeats merge by INSERT ... ON CONFLICT, and the ledger commits with them.

One connection a session, opened under a name by which the successor ends it (`loader/warehouses/postgres/connect.py`). A load is one
transaction: lock the tables against alteration, COPY, merge, check the epoch, write the marks, COMMIT.

What to know: a COMMIT that was sent is waited for even when the load is cancelled, so that its outcome is known; a cancelled or
stalled load closes its connection, and the session answers `NotConnected` from then on. A load that fails on its rows rolls back
and leaves the session usable. A number outside the range of an `integer` or `real` column names its rows without asking the server.

https://www.postgresql.org/docs/current/sql-copy.html, https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT
"""

# ruff: noqa: S608 - names are quoted by loader/sql/dialect.py, values are bound
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

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
from loader.warehouses.postgres import copy, ledger, statements
from loader.warehouses.postgres import patch as patching
from loader.warehouses.postgres.connect import Options, application_name, connect, end_older
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import translate
from loader.warehouses.postgres.types import WIDEN
from loader.warehouses.postgres.watch import Watch
from shared.errors import NotConnected, PenstockError, Permanent, RowsRejected, is_panic
from shared.tasks import timeout

if TYPE_CHECKING:
    import asyncpg

OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=63,
    name_unit="bytes",
    transactional=True,
    merge="now",
    stream=True,
    evolve=True,
    widen=WIDEN,
    max_columns=1500,  # the server's limit is 1600, and dropped columns count
    system_columns=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
)

CARDINALITY = "21000"
"""ON CONFLICT met one key twice: keys that are different text can be one uuid."""


ROLLBACK_SECONDS = 5.0
COMMIT_SECONDS = 60.0
PATCH_TRIES = 4


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:  # noqa: ARG001
    """Returns the destination; connections are opened by its sessions."""
    return PostgresDestination(name, options)


class PostgresDestination:
    """One schema of one database."""

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: Options) -> None:
        self._name = name
        self._options = options

    async def check(self) -> Sequence[CheckResult]:
        """See `Destination.check`."""
        return await check_destination(self, self._count, self._drop)

    async def open_session(self, connection: str, epoch: int) -> Session:
        """See `Destination.open_session`."""
        schema = self._options.schema
        what = f'opening postgres destination "{self._name}"'
        link = await connect(self._options, application_name(schema, connection, epoch), what)
        try:
            # first those that may hold the epoch's row, then, with the epoch ours, those that came meanwhile
            async with timeout(self._options.stall_timeout):
                await end_older(link, schema, connection, epoch - 1)
                loads = await ledger.claim(link, schema, connection, epoch)
                await end_older(link, schema, connection, epoch)
        except BaseException as error:
            link.terminate()
            if isinstance(error, Exception):
                raise translate(error, what) from error
            raise
        return PostgresSession(self._name, self._options, link, connection, epoch, loads)

    async def close(self) -> None:
        """See `Destination.close`; there is nothing outside the sessions."""

    async def find_ids(self, connection: str, ids: Sequence[str], key: str) -> Mapping[str, Mapping[str, int]]:
        """See `FindsIds.find_ids`."""
        schema, columns = self._options.schema, id_columns_of(key)

        async def work(link: asyncpg.Connection) -> dict[str, dict[str, int]]:
            found: dict[str, dict[str, int]] = {}
            for table, place in await link.fetch(statements.id_columns(schema), schema, connection, list(columns)):
                rows = await link.fetch(statements.count_ids(schema, table, columns[place - 1]), list(ids))
                found[table] = {row["id"]: row["times"] for row in rows}
            return found

        counts: dict[str, dict[str, int]] = await self._once(work)
        return counts

    async def _count(self, table: str) -> int:
        rows: int = await self._once(
            lambda link: link.fetchval(f"SELECT count(*) FROM {DIALECT.qualified(self._options.schema, table)}")
        )
        return rows

    async def _drop(self, table: str, connection: str) -> None:
        schema = self._options.schema
        await self._once(lambda link: link.execute(f"DROP TABLE IF EXISTS {DIALECT.qualified(schema, table)}"))
        await self._once(
            lambda link: link.execute(f"DELETE FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $1", connection)
        )

    async def _once(self, call: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        what = f'checking postgres destination "{self._name}"'
        link = await connect(self._options, "penstock/check", what)
        try:
            async with timeout(self._options.stall_timeout):
                return await call(link)
        except Exception as error:
            raise translate(error, what) from error
        finally:
            link.terminate()


class PostgresSession:
    """A connection's right to write, and the one link to the server it has."""

    def __init__(self, name: str, options: Options, link: asyncpg.Connection, connection: str, epoch: int, loads: int) -> None:
        self._name = name
        self._options = options
        self._schema = options.schema
        self._link = link
        self._connection = connection
        self._epoch = epoch
        self._straight = Straight()
        self._loads = loads

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """See `Session.marks`."""
        async with self._call("reading the ledger of"):
            return await ledger.read_marks(self._link, self._schema, self._connection)

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        """See `Session.forget`."""
        async with self._call("cleaning the ledger of"):
            await ledger.forget_marks(self._link, self._schema, self._connection, marks)

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        """See `Session.describe`."""
        async with self._call(f"describing {named(tables)} of"):
            live = await patching.read_tables(self._link, self._schema, tables)
        return {name: live[name].as_schema() if name in live else None for name in tables}

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """See `Session.create`."""
        async with self._call(f"creating {named([patch.table for patch in patches])} of") as watch:
            watch.server_works()
            await self._link.execute("BEGIN")
            made = await patching.create(self._link, self._schema, patches)
            await self._commit()
        return made

    async def patch(self, patch: TablePatch) -> TableSchema:
        """See `Session.patch`."""
        for left in reversed(range(PATCH_TRIES)):
            try:
                async with self._call(f'changing table "{patch.table}" of') as watch:
                    watch.server_works()  # widening rewrites the table
                    await self._link.execute("BEGIN")
                    after = await patching.apply(self._link, self._schema, patch)
                    await self._commit()
                    return after
            except PenstockError as error:
                if not left or getattr(error.__cause__, "sqlstate", None) not in patching.LOST_RACE:
                    raise
        raise AssertionError("the last try returns or raises")

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """See `Session.load`."""
        return await self._bring(loads, plan)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """See `Session.probe`."""
        await self._bring(loads, None)

    async def close(self) -> None:
        """See `Session.close`."""
        try:
            async with timeout(ROLLBACK_SECONDS):
                await self._link.close()
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is given up
            self._link.terminate()

    async def _bring(self, loads: Sequence[TableLoad], plan: LoadPlan | None) -> LoadReport:
        for load in loads:
            refuse_null_keys(load)
        small, in_turn, ordered = True, False, False
        while True:
            try:
                return await self._try(loads, plan, small=small, in_turn=in_turn)
            except RowsRejected as error:
                if error.needs_others and not ordered and len(loads) > 1:
                    loads, ordered = await self._by_dependency(loads), True
                    continue
                if not small or error.rows or all(load.rows.num_rows > copy.SMALL_ROWS for load in loads):
                    raise
                small = False  # the short way names no row; the long way, which fails again, may
            except Permanent as error:
                if in_turn or getattr(error.__cause__, "sqlstate", None) != CARDINALITY:
                    raise
                small, in_turn = False, True

    async def _by_dependency(self, loads: Sequence[TableLoad]) -> Sequence[TableLoad]:
        async with self._call("reading the foreign keys of"):
            found = await self._link.fetch(statements.REFERENCES, self._schema, [load.table for load in loads])
        return by_dependency(loads, [(row["child"], row["parent"]) for row in found])

    async def _try(self, loads: Sequence[TableLoad], plan: LoadPlan | None, *, small: bool, in_turn: bool) -> LoadReport:
        """Brings rows and the plan's marks in and commits; without a plan, takes everything back."""
        rows: dict[str, int] = {}
        sent = 0
        sending: list[copy.Prepared] = []
        started = perf_counter()
        try:
            async with self._call("loading into") as watch:
                live = await copy.lock_tables(self._link, self._schema, [load.table for load in loads])
                for number, load in enumerate(loads):
                    sending.append(copy.prepare(load, live[load.table]))
                    sent += await copy.send(
                        self._link, self._schema, sending[-1], number, watch, small=small, in_turn=in_turn,
                        straight=None if plan is None else self._straight,
                    )  # fmt: skip
                    rows[load.table] = rows.get(load.table, 0) + load.rows.num_rows
                await self._link.execute("SET CONSTRAINTS ALL IMMEDIATE")  # those deferred to COMMIT would name no table there
                copied = perf_counter()
                if plan is None:
                    await self._link.execute("ROLLBACK")
                else:
                    await ledger.write_marks(self._link, self._schema, self._epoch, self._loads, plan, rows)
                    await self._commit()
                    self._loads += 1
        except Permanent as error:
            if not sending or error.__cause__ is None:
                raise
            raise copy.refusal(error.__cause__, sending) or error from error.__cause__
        return LoadReport(rows, sent, {"copy": copied - started, "commit": perf_counter() - copied})

    @asynccontextmanager
    async def _call(self, doing: str) -> AsyncIterator[Watch]:
        """Runs a call under the watch, and ends what it left open: by ROLLBACK where the server answers, else by hanging up."""
        what = f'{doing} postgres destination "{self._name}"'
        if self._link.is_closed():
            raise NotConnected(f"{what}: the connection is closed")
        try:
            limits = (self._options.stall_timeout, self._options.statement_timeout)
            async with Watch(self._link, *limits, self._answers) as watch:
                yield watch
        except BaseException as error:
            await self._abandon(error)
            if isinstance(error, Exception) or is_panic(error):
                raise translate(error, what) from error
            raise

    async def _answers(self) -> bool:
        try:
            link = await connect(self._options, "penstock/alive", "asking whether the server answers")
        except NotConnected:
            return False
        except PenstockError:
            return True  # it answered: that there is no connection free, perhaps
        link.terminate()
        return True

    async def _abandon(self, error: BaseException) -> None:
        if not (isinstance(error, Exception) or is_panic(error)) or isinstance(error, TimeoutError) or self._link.is_closed():
            self._link.terminate()
            return
        try:
            async with timeout(ROLLBACK_SECONDS):
                if self._link.is_in_transaction():
                    await self._link.execute("ROLLBACK")
        except BaseException as failed:
            self._link.terminate()
            if not isinstance(failed, Exception):
                raise

    async def _commit(self) -> None:
        """Commits and waits for the answer even when cancelled: hanging up on a COMMIT would leave its outcome unknown."""
        commit = asyncio.ensure_future(self._link.execute("COMMIT"))
        try:
            await asyncio.shield(commit)
        except asyncio.CancelledError:
            await asyncio.wait([commit], timeout=COMMIT_SECONDS)
            if commit.done() and not commit.cancelled():
                commit.exception()  # the cancellation goes on, whatever the answer was
            raise
