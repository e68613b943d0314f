"""ClickHouse: rows as Arrow streams over HTTP, appended to a MergeTree or merged by a ReplacingMergeTree; not transactional.

A repeat is dropped by the server itself, which knows its token (`session.py` says how that comes to exactly once). A merge is
eventual: the server collapses rows of one key in the background, and readers who cannot wait read the view `<table>_final`.

    connect.py     options, HTTP          live.py    tables as the server describes them    types.py   types and kinds
    statements.py  SQL                    patch.py   how tables change                      encode.py  Arrow streams
    errors.py      translation            session.py the fence, loads                       refresh.py full refreshes
    inserts.py     how a load is cut              staged.py  rows that the server pulls from a staging store

https://clickhouse.com/docs/interfaces/http, https://clickhouse.com/docs/engines/table-engines/mergetree-family/replacingmergetree
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from loader.contract.check import check_destination
from loader.contract.forgets import person_columns
from loader.contract.warehouse import Capabilities, CheckResult, Destination, Environment, Session
from loader.sql.text import LEDGER, id_columns_of
from loader.warehouses.clickhouse import staged, statements
from loader.warehouses.clickhouse.connect import Link, Options
from loader.warehouses.clickhouse.live import read_tables
from loader.warehouses.clickhouse.refresh import EXCHANGING, Refresher
from loader.warehouses.clickhouse.session import ClickHouseSession, comment_of
from loader.warehouses.clickhouse.types import OLD, WIDE, WIDEN, Era
from shared.errors import SetupError
from shared.stores.staging import Staging
from shared.syncs.naming import is_of_sync
from shared.threads import ThreadGate

OPTIONS = Options
CAPABILITIES = Capabilities(
    # a table's directory is named by it, every byte that is no letter or digit as three; 255 is the limit of that
    name_limit=63,
    name_unit="bytes",
    transactional=False,
    merge="eventually",
    replace=True,
    coalesce=False,
    empties=True,
    stream=True,
    evolve=True,
    widen=WIDEN,
    system_columns=frozenset({"_part", "_partition_id"}),
)

IDS_TOGETHER = 100
"""Ids of one question: they are in its URL."""


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:
    """Returns the destination; each session connects for itself.

    Raises:
        SetupError: the driver is not installed.
    """
    if find_spec("aiochclient") is None:
        raise SetupError(f'clickhouse destination "{name}" needs its driver: pip install "penstock[clickhouse]"')
    staging = None
    if options.staging is not None:
        staging = await environment.open_staging(options.staging, f'clickhouse destination "{name}"')
    return ClickHouseDestination(name, options, environment.gate, staging)


class ClickHouseDestination:
    """One database of one server or cluster."""

    def __init__(self, name: str, options: Options, gate: ThreadGate, staging: Staging | None) -> None:
        self.capabilities = CAPABILITIES
        self._name = name
        self._options = options
        self._gate = gate
        self._staging = staging
        self._link = Link(name, options, "penstock")
        self._era: Era | None = None

    async def check(self) -> Sequence[CheckResult]:
        results = list(await check_destination(self, self._count, self._drop))
        if self._staging is not None and all(each.ok for each in results):
            results.append(await staged.check(self._staging, self._link, f"penstock_check_{secrets.token_hex(4)}"))
        return results

    async def open_session(self, connection: str, epoch: int) -> Session:
        if self._era is None:
            ((row),) = await self._link.fetch("opening", statements.RANGES)
            engines = await self._link.fetch("opening", statements.DATABASE_ENGINE, database=self._options.database)
            self.capabilities = replace(CAPABILITIES, replace=any(each["engine"] in EXCHANGING for each in engines))
            self._era = WIDE if row["days"] == "0001-01-019999-12-31" else OLD
        comment = comment_of(connection, epoch)
        link = Link(self._name, self._options, comment)
        session = ClickHouseSession(
            name=self._name,
            link=link,
            options=self._options,
            era=self._era,
            gate=self._gate,
            connection=connection,
            epoch=epoch,
            comment=comment,
            replaces=self.capabilities.replace,
            staging=self._staging,
        )
        try:
            await session.claim()
        except BaseException:
            await session.close()
            raise
        return session

    async def close(self) -> None:
        await self._link.close()
        if self._staging is not None:
            await self._staging.close()

    async def find_ids(self, connection: str, ids: Sequence[str], key: str) -> Mapping[str, Mapping[str, int]]:
        database, doing = self._options.database, "asking for ids in"
        loaded = [row["table_name"] for row in await self._fetch(doing, statements.read_tables(database), connection=connection)]
        found: dict[str, Mapping[str, int]] = {}
        for table, live in (await read_tables(self._link, database, loaded, self._era or WIDE)).items():
            column = next((each for each in id_columns_of(key) if each in live.columns), None)
            if column is not None:
                query = statements.count_ids(database, table, column, final=live.replaces)
                counts: dict[str, int] = {}
                for start in range(0, len(ids), IDS_TOGETHER):
                    rows = await self._fetch(doing, query, ids=list(ids[start : start + IDS_TOGETHER]))
                    counts |= {row["id"]: int(row["times"]) for row in rows}
                found[table] = counts
        return found

    async def forget_person(
        self, names: Sequence[str], *, columns: Sequence[str] = (), epoch: int, delete: bool
    ) -> Mapping[str, int]:
        del epoch  # a mutation is atomic for each part, and its repeat finds nothing
        options, doing = self._options, "looking for a person in"
        database = options.database
        if not await self._fetch(doing, statements.HAS_TABLE, database=database, table=LEDGER):
            return {}
        rows = await self._fetch(doing, statements.read_all_tables(database))
        loaded = sorted({row["table_name"] for row in rows if not is_of_sync(row["connection"])})
        found: dict[str, int] = {}
        for table, live in (await read_tables(self._link, database, loaded, self._era or WIDE)).items():
            searched = person_columns(table, live.columns, columns)
            if not searched:
                continue
            where = statements.is_of(searched, names)
            query = f"SELECT count() AS rows FROM {statements.qualified(database, table)} WHERE {where}"  # noqa: S608 - quoted
            ((row),) = await self._fetch(doing, query)
            found[table] = int(row["rows"])
            if delete and found[table]:
                statement = statements.delete_rows(database, table, where, options.cluster)
                # waits until every replica has written the parts without the rows
                await self._link.run(doing, statement, table, settings={"mutations_sync": 2})
        return found

    async def _fetch(self, doing: str, query: str, **parameters: Any) -> list[Mapping[str, Any]]:
        return await self._link.fetch(doing, query, **parameters)

    async def _count(self, table: str) -> int:
        query = f"SELECT count() AS rows FROM {statements.qualified(self._options.database, table)}"  # noqa: S608 - quoted
        ((row),) = await self._fetch("checking", query)
        return int(row["rows"])

    async def _drop(self, table: str, connection: str) -> None:
        options = self._options
        cluster = statements.on_cluster(options.cluster)
        dropped = f"DROP TABLE IF EXISTS {statements.qualified(options.database, table)}{cluster} SYNC"
        await self._link.run("checking", dropped)
        await self._link.run(
            "checking", statements.forget(options.database, options.cluster), parameters={"connection": connection}
        )
        if self.capabilities.replace:
            await Refresher(self._link, options, connection, 1).forget()
        if self._staging is not None:
            await self._staging.forget(connection)
