"""The ledger in Postgres: what of each lane is loaded into which table, and which epoch may load.

The epoch's row is locked for the moments between the check and COMMIT only, never while rows travel: a loader frozen in its COPY
must not hold up its successor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loader.contract.warehouse import LoadPlan
from loader.sql.text import LEDGER
from loader.warehouses.postgres import statements
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.patch import make_schema
from shared.errors import Fenced, WentBack

if TYPE_CHECKING:
    import asyncpg


async def claim(connection: asyncpg.Connection, schema: str, name: str, epoch: int) -> int:
    """Makes the ledger if it is missing and raises the epoch of a connection; returns how many loads it counts.

    Raises:
        Fenced: a session with a higher epoch exists.
    """
    async with connection.transaction():
        if await connection.fetchval("SELECT to_regclass($1)", DIALECT.qualified(schema, LEDGER)) is None:
            await connection.fetch(statements.ADVISORY_LOCKS, [f"{schema}.{LEDGER}"])
            await make_schema(connection, schema)
            await connection.execute(statements.create_ledger(schema))
        loads: int | None = await connection.fetchval(statements.raise_epoch(schema), name, epoch)
        if loads is None:
            newest = await connection.fetchval(statements.read_epoch(schema), name)
            raise Fenced(f'connection "{name}": a loader with a newer epoch than {epoch} holds it', newest or 0)
        return loads


async def read_marks(connection: asyncpg.Connection, schema: str, name: str) -> Mapping[tuple[str, str], int]:
    """Returns the last loaded sequence by table and lane."""
    rows = await connection.fetch(statements.read_marks(schema), name)
    return {(row["table_name"], row["lane"]): row["last_sequence"] for row in rows}


async def forget_marks(connection: asyncpg.Connection, schema: str, name: str, marks: Sequence[tuple[str, str]]) -> None:
    """Removes marks by table and lane."""
    await connection.execute(statements.forget_marks(schema), name, [table for table, _ in marks], [lane for _, lane in marks])


async def write_marks(
    connection: asyncpg.Connection, schema: str, epoch: int, loads: int, plan: LoadPlan, rows: Mapping[str, int]
) -> None:
    """Checks the epoch and writes the marks of a load; the next statement must be COMMIT.

    Args:
        loads: how many the ledger counts, if it is as the session left it.

    Raises:
        Fenced: the epoch is not ours any more.
        WentBack: the ledger is older than the session.
    """
    written = await connection.fetch(
        statements.write_marks(schema), plan.connection, epoch, plan.lane, plan.last, list(rows), list(rows.values()), loads
    )
    if len(written) != len(rows):
        newest = await connection.fetchval(statements.read_epoch(schema), plan.connection)
        if newest is not None and newest > epoch:
            raise Fenced(f'connection "{plan.connection}": a newer epoch than {epoch} exists; nothing was loaded', newest)
        raise WentBack(f'connection "{plan.connection}": the ledger is not as this loader left it, an older state was put back')
