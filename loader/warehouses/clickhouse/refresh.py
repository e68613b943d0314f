"""Full refreshes: the rows of a run wait in a table like the one they are for, and at the end the two exchange their names.

ClickHouse has no transaction, so each step must bear being made again. The table of a run is created as a copy of the other one,
with all that users gave that (indexes, projections, TTL, settings, comments); grants, row policies and views go by name and stay where
they are. Its UUID is noted in `_penstock_runs` before any row goes in. After EXCHANGE TABLES the table has that UUID: so a loader
that was killed around it knows whether it was done. REPLACE PARTITION would keep the table itself, but shows readers a table that is
new in some partitions and old in others.

**Fenced.** EXCHANGE cannot ask for the epoch, and made twice it would bring the old rows back. So the epoch is in the name of the
table of a run, and a new session renames it before it does anything else: what a frozen loader still sends meets no table. Then it
asks again which of the two tables has the UUID.

https://clickhouse.com/docs/sql-reference/statements/exchange
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from loader.contract.warehouse import TableLoad
from loader.warehouses.clickhouse import statements
from loader.warehouses.clickhouse.connect import Link, Options, Value
from loader.warehouses.clickhouse.errors import threw
from loader.warehouses.clickhouse.statements import identifier, literal, qualified
from shared.errors import Fenced, PenstockError, Permanent, RunOver, TableChanged

PREFIX = "_penstock_run_"
EXCHANGING = frozenset({"Atomic", "Replicated", "Shared"})
"""Engines of databases whose tables can exchange their names."""
OPEN, ENDED, GIVEN_UP = 0, 1, 2


class Noted(NamedTuple):
    """The newest run of a table: its number, the UUID of its table, and what became of it."""

    run: int
    uuid: str
    state: int


@dataclass(frozen=True, slots=True)
class Stage:
    """The table in which the rows of a run wait. `over`: they are in their place already, a repeat brings nothing."""

    name: str
    over: bool = False


class Refresher:
    """The full refreshes of a session's tables."""

    def __init__(self, link: Link, options: Options, connection: str, epoch: int) -> None:
        self._link = link
        self._options = options
        self._database = options.database
        self._cluster = statements.on_cluster(options.cluster)
        self._connection = connection
        self._epoch = epoch
        self._made = False

    async def prepare(self, load: TableLoad) -> Stage:
        """Makes the table of a run fit for a part; a repeat changes nothing.

        Raises:
            RunOver: the run was given up or overtaken, or its rows are gone.
            TableChanged: the table is gone.
            NotConnected, Transient, SetupError, Permanent
        """
        if load.part is None:
            raise Permanent(f'table "{load.table}": rows that replace others need the run they are of')
        table, run = load.table, load.part.run
        noted = await self._noted(table)
        if noted is not None and (noted.run > run or (noted.run == run and noted.state == GIVEN_UP)):
            why = f"run {noted.run} took its place" if noted.run > run else "it was given up"
            raise RunOver(f'table "{table}": run {run} of its full refresh is over, {why}; nothing was loaded')
        if noted is None or noted.run < run:
            return await self._begin(table, run)
        own = self._name(table, run)
        if noted.state == ENDED:
            await self._drop_all(table)
            return Stage(own, over=True)
        tables = await self._tables(table)
        for name, uuid in tables.items():
            if uuid == noted.uuid and name not in (table, own):
                if int(name.rpartition("_")[2]) > self._epoch:
                    raise Fenced(f'connection "{self._connection}": a newer session than {self._epoch} refreshes table "{table}"')
                await self._run(table, f"RENAME TABLE {self._called(name)} TO {self._called(own)}{self._cluster}")
                tables = await self._tables(table)
        if tables.get(table) == noted.uuid:
            await self._note(table, noted._replace(state=ENDED))
            await self._drop_all(table)
            return Stage(own, over=True)
        if tables.get(own) != noted.uuid:
            raise RunOver(f'table "{table}": the rows of run {run} of its full refresh are gone; begin a new run')
        await self._align(table, own)
        return Stage(own)

    async def end(self, table: str, run: int) -> None:
        """Puts the rows of a run in the place of all rows of its table."""
        noted = await self._noted(table)
        if noted is None or noted.run != run:
            raise RunOver(f'table "{table}": run {run} of its full refresh was overtaken; nothing was changed')
        await self._run(table, f"EXCHANGE TABLES {self._called(table)} AND {self._called(self._name(table, run))}{self._cluster}")
        await self._note(table, noted._replace(state=ENDED))
        await self._drop_all(table)

    async def abandon(self, table: str) -> None:
        """Ends the open run of a table and drops what waits."""
        noted = await self._noted(table)
        if noted is None or noted.state != OPEN:
            return
        done = (await self._tables(table)).get(table) == noted.uuid
        await self._note(table, noted._replace(state=ENDED if done else GIVEN_UP))
        await self._drop_all(table)

    async def forget(self) -> None:
        """Removes the notes of the connection's runs."""
        await self._noted("")
        forgotten = statements.forget(self._database, self._options.cluster, statements.RUNS)
        await self._link.run("cleaning the table of runs of", forgotten, parameters={"connection": self._connection})

    async def _begin(self, table: str, run: int) -> Stage:
        """Makes the table of a run; one that is there without a note has no rows."""
        await self._drop_all(table)
        own = self._name(table, run)
        await self._run(table, f"CREATE TABLE {self._called(own)}{self._cluster} AS {self._called(table)}")
        uuid = (await self._tables(table)).get(own)
        if uuid is None:
            raise TableChanged(f'table "{table}": the table of its run was dropped meanwhile')
        await self._note(table, Noted(run, uuid, OPEN))
        return Stage(own)

    async def _align(self, table: str, own: str) -> None:
        """Gives the table of a run the columns and types that the other one got meanwhile."""
        columns: dict[str, dict[str, str]] = {table: {}, own: {}}
        for row in await self._fetch(statements.COLUMNS, tables=[table, own]):
            default = f" {row['default_kind']} {row['default_expression']}" if row["default_kind"] else ""
            comment = f" COMMENT {literal(row['comment'])}" if row["comment"] else ""
            columns[row["table"]][row["name"]] = f"{identifier(row['name'])} {row['type']}{default}{comment}"
        changes = [
            f"{'MODIFY COLUMN' if name in columns[own] else 'ADD COLUMN IF NOT EXISTS'} {definition}"
            for name, definition in columns[table].items()
            if columns[own].get(name) != definition
        ]
        if changes:
            await self._run(table, f"ALTER TABLE {self._called(own)}{self._cluster} {', '.join(changes)}")

    async def _drop_all(self, table: str) -> None:
        """Drops what waits of any run, and after an exchange the old rows."""
        names = [name for name in await self._tables(table) if name != table]
        if not names:
            return
        # a table larger than this many bytes is not dropped by accident; newer servers let a statement say that it is none
        settings = await self._fetch(statements.DROP_LIMIT)
        parameters: Mapping[str, Value] = {row["name"]: 0 for row in settings}
        for name in names:
            await self._run(table, f"DROP TABLE IF EXISTS {self._called(name)}{self._cluster} SYNC", parameters)

    async def _tables(self, table: str) -> dict[str, str]:
        """Returns the UUIDs of a table and of those in which rows for it wait, by name."""
        rows = await self._fetch(statements.UUIDS, table=table, prefix=self._prefix(table))
        return {row["name"]: row["uuid"] for row in rows}

    async def _noted(self, table: str) -> Noted | None:
        if not self._made:
            engine = self._options.engine.replace("MergeTree", "ReplacingMergeTree") + "(version)"
            made = statements.create_runs(self._database, self._options.cluster, engine)
            await self._link.run("making the table of runs of", made)
            self._made = True
        rows = await self._fetch(statements.read_run(self._database), connection=self._connection, table=table)
        return Noted(int(rows[0]["run"]), rows[0]["uuid"], int(rows[0]["state"])) if rows else None

    async def _note(self, table: str, noted: Noted) -> None:
        """Writes the state of a run.

        Raises:
            Fenced: a newer epoch is there.
        """
        row: dict[str, Value] = {
            "connection": self._connection,
            "table": table,
            "epoch": self._epoch,
            "run": noted.run,
            "uuid": noted.uuid,
            "state": noted.state,
        }
        try:
            await self._link.run("writing the table of runs of", statements.write_run(self._database), parameters=row)
        except PenstockError as error:
            if threw(error.__cause__, statements.FENCED):
                raise Fenced(f'connection "{self._connection}": {statements.FENCED}') from error
            raise

    async def _run(self, table: str, statement: str, settings: Mapping[str, Value] | None = None) -> None:
        await self._link.run(f'refreshing table "{table}" of', statement, table, settings=settings)

    async def _fetch(self, query: str, **parameters: Value) -> list[Mapping[str, Any]]:
        return await self._link.fetch("refreshing tables of", query, database=self._database, **parameters)

    def _called(self, name: str) -> str:
        return qualified(self._database, name)

    def _prefix(self, table: str) -> str:
        of = "\0".join((self._connection, table)).encode("utf-8", "surrogatepass")
        return f"{PREFIX}{hashlib.sha256(of).hexdigest()[:12]}_"

    def _name(self, table: str, run: int) -> str:
        return f"{self._prefix(table)}{run}_{self._epoch}"
