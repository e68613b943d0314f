"""A connection's right to write: the fence, and loads that arrive once although nothing here is transactional.

**Once.** Each table of a plan is one insert under a token made of the plan and the table. The server remembers the tokens of the
last `deduplication_window` inserts of a table and drops an insert whose token it knows. It deduplicates blocks, not inserts: rows
that it cut into several blocks would have one token and all but the first of them be dropped or doubled. So an insert is one
block, by settings, and more than `BLOCK_ROWS` rows are several inserts, each with its number in its token. Where rows are of
several partitions each partition's part has the token; a repeat brings the missing ones.

**Whole.** An insert that the server refuses has left nothing behind. Of several inserts the first ones would be there, so what
the server may refuse is tried first, in a table of engine Null that has the target's columns and constraints.

**Fenced.** A session writes its epoch before it does anything else, then ends what older sessions have running, told apart by
`log_comment`. Each insert reads the epoch on the server, in its own query, and is refused where a newer one is there.
Asynchronous inserts cannot: the loader reads the epoch before them, and one that is frozen in between sends its insert late,
under a token that is known by then.

https://clickhouse.com/docs/guides/developer/deduplicating-inserts-on-retries
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from loader.contract.warehouse import LoadPlan, LoadReport, TableLoad, TablePatch, TableSchema
from loader.sql.reject import refuse_null_keys, require_values
from loader.warehouses.clickhouse import encode, staged, statements
from loader.warehouses.clickhouse.connect import END_SECONDS, Link, Options, Value
from loader.warehouses.clickhouse.emptied import empty
from loader.warehouses.clickhouse.errors import threw
from loader.warehouses.clickhouse.inserts import Insert, columns_of, inserts_of, settings_of
from loader.warehouses.clickhouse.live import LiveTable, read_tables
from loader.warehouses.clickhouse.patch import Patcher
from loader.warehouses.clickhouse.refresh import Refresher, Stage
from loader.warehouses.clickhouse.types import Era
from shared.errors import Fenced, NotConnected, PenstockError, Permanent, TableChanged, Transient
from shared.tasks import timeout

if TYPE_CHECKING:
    from shared.stores.staging import Staging, StagingArea
    from shared.threads import ThreadGate

T = TypeVar("T")

FENCE_SECONDS = 1.0
"""How old what was read of the epoch may be when an insert begins."""
_GIVE_DEFAULT = "make it Nullable, give it a DEFAULT, or set null_as_default: true"


def comment_of(connection: str, epoch: int) -> str:
    """Returns what the server shows with each query of a session; no two sessions have the same."""
    return f"{_comment_prefix(connection)}{epoch} {secrets.token_hex(4)}"


def _comment_prefix(connection: str) -> str:
    return f"penstock {connection} "


class ClickHouseSession:
    """See `Session`."""

    def __init__(
        self,
        name: str,
        link: Link,
        options: Options,
        era: Era,
        gate: ThreadGate,
        connection: str,
        epoch: int,
        comment: str,
        *,
        replaces: bool,
        staging: Staging | None,
    ) -> None:
        self._what = f'clickhouse destination "{name}"'
        self._link = link
        self._options = options
        self._database = options.database
        self._era = era
        self._gate = gate
        self._connection = connection
        self._epoch = epoch
        self._comment = comment
        self._patcher = Patcher(link, options, era)
        self._replaces = replaces
        self._refresher = Refresher(link, options, connection, epoch)
        self._staging = staging
        self._area: StagingArea | None = None
        self._closed = False
        self._fence_read_at = 0.0
        self._known: dict[str, TableSchema] = {}
        """Tables as they were described last, which is what rows were shaped for."""
        self._ready: set[str] = set()
        """Tables that remember tokens and stand in the ledger."""

    async def claim(self) -> None:
        """Fences older sessions and ends what they have running.

        Raises:
            Fenced: a newer one exists.
            NotConnected, Transient, SetupError
        """
        options = self._options
        engine = options.engine.replace("MergeTree", "ReplacingMergeTree") + "(epoch)"
        await self._link.run("making the ledger of", statements.create_ledger(self._database, options.cluster, engine))
        await self._read_fence()
        await self._note("")
        await self._read_fence()
        older = {"prefix": _comment_prefix(self._connection), "own": self._comment}
        try:
            async with timeout(END_SECONDS):
                await self._link.run("ending older sessions of", statements.kill(options.cluster), parameters=older)
        except TimeoutError:
            raise Transient(f"{self._what}: what an older session has running does not end") from None
        if self._staging is not None:
            self._area = await self._staging.claim(self._connection, self._epoch)

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """See `Session.marks`: there are none, the tokens are the ledger."""
        return {}

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        pass

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        self._check_open()
        live = await self._read(tables)
        # a view of ours is no table: seen as one, it would be asked for the columns that it lacks only
        found = {name: live[name].schema() if name in live and not live[name].gives_way else None for name in tables}
        self._remember(found)
        return found

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        self._check_open()
        made = await self._patcher.create(patches)
        self._remember(made)
        return made

    async def patch(self, patch: TablePatch) -> TableSchema:
        self._check_open()
        after = await self._patcher.apply(patch)
        self._remember({patch.table: after})
        return after

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """See `Session.load`. Cancelled, it waits for the insert that is under way, so that none ends later."""
        started = perf_counter()
        live = await self._prepare(loads)
        inserts = list(inserts_of(plan, loads))
        if len(inserts) > 1:
            await self._try(loads, live)
        tried = perf_counter()
        rows = dict.fromkeys([load.table for load in loads], 0)
        stages = {load.table: await self._stage(load, live[load.table]) for load in loads if load.write == "replace"}
        pulled = False
        for insert in inserts:
            load = insert.load
            await self._make_ready(live[load.table])
            stage = stages.get(load.table)
            if stage is None or not stage.over:
                into = stage.name if stage else None
                if self._area is not None and load.rows.num_rows >= self._options.staged_rows:
                    pulled = True
                    await self._insert_staged(area=self._area, batch=plan.batch, insert=insert, live=live[load.table], into=into)
                else:
                    await self._whole(self._insert(load, live[load.table], insert.token, into=into))
            rows[load.table] += load.rows.num_rows
        for load in loads:
            if load.emptied is not None:
                await self._make_ready(live[load.table])
                await self._whole(
                    self._fenced(empty(self._link, self._database, load=load, live=live[load.table], holder=self._holder))
                )
        # a plan may have two loads of one table
        for table, run in {load.table: load.part.run for load in loads if load.part is not None and load.part.ends}.items():
            if not stages[table].over:
                await self._read_fence()
                await self._whole(self._refresher.end(table, run))
        if self._area is not None and pulled:
            await self._area.remove(plan.batch)
        sent = sum(load.rows.nbytes for load in loads)
        return LoadReport(rows, sent, {"encode": tried - started, "copy": perf_counter() - tried})

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        await self._try(loads, await self._prepare(loads))

    async def abandon(self, table: str) -> None:
        self._check_open()
        await self._read_fence()
        if self._replaces:
            await self._whole(self._refresher.abandon(table))

    async def close(self) -> None:
        self._closed = True
        await self._link.close()

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnected(f"{self._what}: the session is closed")

    def _remember(self, found: Mapping[str, TableSchema | None]) -> None:
        for name, schema in found.items():
            if schema is None:
                self._known.pop(name, None)
            else:
                self._known[name] = schema

    async def _read(self, tables: Sequence[str]) -> dict[str, LiveTable]:
        return await read_tables(self._link, self._database, list(dict.fromkeys(tables)), self._era)

    async def _fence(self) -> None:
        if time.monotonic() - self._fence_read_at > FENCE_SECONDS:
            await self._read_fence()

    async def _read_fence(self) -> None:
        at = time.monotonic()
        query = statements.read_epoch(self._database)
        ((row),) = await self._link.fetch("reading the ledger of", query, connection=self._connection)
        newest = int(row["epoch"])
        if newest > self._epoch:
            raise Fenced(f'connection "{self._connection}": a loader with a newer epoch than {self._epoch} holds it', newest)
        self._fence_read_at = at

    async def _note(self, table: str) -> None:
        """Writes the epoch, or that the connection loads a table."""
        statement = statements.write_epoch(self._database)
        row: dict[str, Value] = {"connection": self._connection, "table": table, "epoch": self._epoch}
        await self._link.run("writing the ledger of", statement, parameters=row)

    async def _prepare(self, loads: Sequence[TableLoad]) -> dict[str, LiveTable]:
        """Returns the tables as they are; the epoch is left to the inserts, which the server refuses where it is an old one.

        Raises:
            RowsRejected, Permanent
            TableChanged: one of them is not what the rows were shaped for.
        """
        self._check_open()
        for load in loads:
            if load.write not in ("append", "merge", "replace") or load.deleted is not None:
                what = "deletes rows" if load.write == "merge" else f"writes by {load.write}"
                raise Permanent(f'table "{load.table}": no load of ClickHouse {what}; choose append or merge')
            refuse_null_keys(load)
        live = await self._read([load.table for load in loads])
        for load in loads:
            table = self._check(load, live.get(load.table))
            if not self._options.null_as_default:
                require_values(load, table.required, _GIVE_DEFAULT)
        return live

    def _check(self, load: TableLoad, live: LiveTable | None) -> LiveTable:
        from loader.types.lattice import ARROW

        what = f'table "{load.table}"'
        if live is None:
            raise TableChanged(f"{what} is gone")
        known = self._known.get(load.table)
        for field in load.rows.schema:
            column = live.columns.get(field.name)
            if column is None or not column.writable:
                raise TableChanged(f'{what}: column "{field.name}" is gone, or computed by the server now')
            shaped = known.columns.get(field.name) if known else None
            if field.type != ARROW[column.kind] or (shaped is not None and shaped != column):
                raise TableChanged(f'{what}: column "{field.name}" is {column.native} now, the rows were made for another')
        if load.write == "append" or not load.key:
            return live
        if not live.replaces or set(load.key) != set(live.key):
            raise TableChanged(f"{what} does not merge by ({', '.join(load.key)}) any more")
        if load.cursor and load.cursor.isidentifier() and live.version is not None and load.cursor not in live.version:
            raise Permanent(
                f'{what} was made to keep the row with the newest value of another column than "{load.cursor}", and ClickHouse cannot '
                "change that; rename it, so that a new one is made, or set discriminator as it was"
            )
        return live

    async def _stage(self, load: TableLoad, live: LiveTable) -> Stage:
        """Returns the table in which the part of a full refresh waits.

        Raises:
            Permanent: the tables of this database cannot exchange their names.
            RunOver
        """
        if not self._replaces:
            raise Permanent(
                f'table "{load.table}": full refreshes need a database whose tables can exchange their names; make it with ENGINE = Atomic'
            )
        await self._make_ready(live)
        await self._read_fence()
        return await self._whole(self._refresher.prepare(load))

    async def _make_ready(self, live: LiveTable) -> None:
        """Sees to it, once, that a table remembers tokens, and that the ledger has it."""
        if live.name in self._ready:
            return
        if not live.takes_tokens:
            raise Permanent(f'table "{live.name}" has the engine {live.engine}, which does not know a repeated insert')
        if not live.replicated and not live.window:
            cluster = statements.on_cluster(self._options.cluster)
            await self._link.run(
                f'changing table "{live.name}" of',
                f"ALTER TABLE {statements.qualified(self._database, live.name)}{cluster}"
                f" MODIFY SETTING non_replicated_deduplication_window = {self._options.deduplication_window}",
                live.name,
            )
        await self._note(live.name)
        self._ready.add(live.name)

    async def _insert(self, load: TableLoad, live: LiveTable, token: str, into: str | None = None) -> None:
        rows = encode.as_sent(load.rows, live.columns)
        asynchronous = into is None and rows.num_rows < self._options.async_rows
        settings = settings_of(token, asynchronous=asynchronous)
        if asynchronous:
            await self._fence()
        columns = columns_of(rows, load, live)
        statement = statements.insert(self._database, into or load.table, columns, fenced=not asynchronous)
        await self._fenced(
            self._link.insert(
                doing=f'loading table "{load.table}" of',
                statement=statement,
                body=encode.stream(rows, self._gate),
                settings=settings,
                parameters=self._holder,
                table=load.table,
            )
        )

    async def _insert_staged(self, area: StagingArea, batch: str, insert: Insert, live: LiveTable, into: str | None) -> None:
        """Puts the rows of an insert into the staging store, and lets the server pull them."""
        load = insert.load
        rows = encode.as_sent(load.rows, live.columns)
        put = await area.put(batch, f"{load.table}-{insert.number}.parquet", partial(staged.write_parquet, rows))
        columns = columns_of(rows, load, live)
        statement = statements.insert_from(self._database, into or load.table, columns, staged.source(put, columns))
        settings = settings_of(insert.token)
        doing = f'loading table "{load.table}" from the staging store of'
        run = self._link.run(doing, statement, load.table, parameters=self._holder, settings=settings, data=True)
        try:
            await self._whole(self._fenced(run))
        except PenstockError as error:
            staged.mask_of(put).error(error)
            if isinstance(error, Permanent):
                await area.remove(batch)  # the repeat has other rows, or none
            raise

    @property
    def _holder(self) -> dict[str, Value]:
        """What the fence of an insert compares."""
        return {"connection": self._connection, "epoch": self._epoch}

    async def _fenced(self, insert: Coroutine[Any, Any, None]) -> None:
        """Waits for an insert.

        Raises:
            Fenced: the server refused it because of its epoch.
            All that the insert raises otherwise.
        """
        try:
            await insert
        except PenstockError as error:
            if not threw(error.__cause__, statements.FENCED):
                raise
            await self._read_fence()
            raise Fenced(f'connection "{self._connection}": {statements.FENCED}') from error

    async def _try(self, loads: Sequence[TableLoad], live: Mapping[str, LiveTable]) -> None:
        """Inserts what the server may refuse into tables that keep nothing.

        Raises:
            RowsRejected
        """
        for load in loads:
            if not live[load.table].refuses or not load.rows.num_rows:
                continue
            name = f"_penstock_try_{secrets.token_hex(8)}"
            trial, target = statements.qualified(self._database, name), statements.qualified(self._database, load.table)
            drop = partial(self._link.run, "trying rows on", f"DROP TABLE IF EXISTS {trial}", load.table)
            try:
                await self._whole(self._link.run("trying rows on", f"CREATE TABLE {trial} AS {target} ENGINE = Null", load.table))
                await self._whole(self._insert(load, live[load.table], "", name))
            except BaseException:  # a cancelled CREATE may have made it
                with contextlib.suppress(PenstockError):  # the first error says what is wrong
                    await self._whole(drop())
                raise
            await self._whole(drop())

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for requests to their end, also when it is cancelled meanwhile: their effect is known then."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with contextlib.suppress(PenstockError, asyncio.CancelledError):
                await task
            raise
