"""Rows that are gone at the source because they are older than a cursor: a merging table gets newer rows of them, with the mark."""

from __future__ import annotations

from collections.abc import Mapping

from loader.contract.warehouse import TableLoad
from loader.warehouses.clickhouse import statements
from loader.warehouses.clickhouse.connect import Link, Value
from loader.warehouses.clickhouse.inserts import settings_of
from loader.warehouses.clickhouse.live import LiveTable
from shared.errors import Permanent


async def empty(link: Link, database: str, load: TableLoad, live: LiveTable, holder: Mapping[str, Value]) -> None:
    """Marks the rows that `load.emptied` means.

    Args:
        holder: what the fence compares.

    Raises:
        Permanent: they are to be deleted, which no load does.
        All that a statement raises.
    """
    emptied = load.emptied
    if emptied is None or emptied.marked is None or load.cursor is None:
        raise Permanent(f'table "{load.table}": no load of ClickHouse deletes rows')
    columns = [name for name, column in live.columns.items() if column.writable]
    statement = statements.mark_older(database, load.table, columns, cursor=load.cursor, marked=emptied.marked)
    at = emptied.at.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
    parameters: dict[str, Value] = {**holder, "before": emptied.before, "at": at}
    doing = f'marking rows in table "{load.table}" of'
    await link.run(doing, statement, load.table, parameters=parameters, settings=settings_of(""), data=True)
