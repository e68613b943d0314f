"""The inserts of a load: how its rows are cut, what the server is told about each insert, and its columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from loader.contract.warehouse import LoadPlan, TableLoad
from loader.warehouses.clickhouse import statements
from loader.warehouses.clickhouse.connect import Value
from loader.warehouses.clickhouse.live import LiveTable
from loader.warehouses.clickhouse.types import incoming

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ROWS = 200_000
"""Rows of one insert, all of which the server has in memory. Never change it while plans may be under way: it is part of what a
token stands for."""
ONE_BLOCK = {
    "max_insert_block_size": 1_000_000_000,
    "min_insert_block_size_rows": 1_000_000_000,
    "min_insert_block_size_bytes": 1_000_000_000_000,
    "max_insert_threads": 1,
    # clients choose the times of events, and each month of them is a part
    "max_partitions_per_insert_block": 0,
    "insert_deduplicate": 1,
    "input_format_null_as_default": 1,
    "input_format_arrow_case_insensitive_column_matching": 0,
}
_SYNCHRONOUS = {"async_insert": 0}
_ASYNCHRONOUS = {"async_insert": 1, "wait_for_async_insert": 1, "async_insert_deduplicate": 1}


class Insert(NamedTuple):
    """One insert of a plan; `number`: its place among those of its table."""

    token: str
    number: int
    load: TableLoad


def inserts_of(plan: LoadPlan, loads: Sequence[TableLoad]) -> list[Insert]:
    """Returns the inserts of a plan, each with its token: the same for the same plan."""
    found: list[Insert] = []
    numbers: dict[str, int] = {}
    for load in loads:
        for start in range(0, load.rows.num_rows, BLOCK_ROWS):
            number = numbers[load.table] = numbers.get(load.table, -1) + 1
            token = f"penstock/{plan.connection}/{plan.lane}/{plan.first}-{plan.last}/{load.table}/{number}"
            found.append(Insert(token, number, replace(load, rows=load.rows.slice(start, BLOCK_ROWS))))
    return found


def settings_of(token: str, *, asynchronous: bool = False) -> dict[str, Value]:
    """Returns the settings of an insert; without a token the server remembers nothing of it."""
    settings: dict[str, Value] = {**ONE_BLOCK, **(_ASYNCHRONOUS if asynchronous else _SYNCHRONOUS)}
    if token:
        settings["insert_deduplication_token"] = token
    return settings


def columns_of(rows: pa.Table, load: TableLoad, live: LiveTable) -> list[statements.Incoming]:
    """Returns the columns of rows on their way into a table."""
    return [
        statements.Incoming(
            name,
            incoming(live.columns[name].native or ""),
            live.defaults.get(name) if load.rows.column(name).null_count else None,
        )
        for name in rows.column_names
    ]
