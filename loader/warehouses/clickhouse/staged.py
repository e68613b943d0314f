"""Large inserts by way of a staging store: the loader puts Parquet there, and the server pulls it with `s3()` or `file()`.

A repeat of an insert sends its rows no second time if they are there already. Fence and token are those of every insert, so it does
not matter who reads the object how often.

The keys for the bucket are in the statement. The server hides them in its logs, and we hide them in errors.

https://clickhouse.com/docs/sql-reference/table-functions/s3
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import IO, TYPE_CHECKING

from loader.contract.check import ROWS, rows_of_check
from loader.contract.warehouse import CheckResult
from loader.warehouses.clickhouse.statements import Incoming, literal, structure
from shared.errors import PenstockError, SetupError
from shared.reading.mask import Mask
from shared.stores.staging import Staged, Staging

if TYPE_CHECKING:
    import pyarrow as pa

    from loader.warehouses.clickhouse.connect import Link

ROW_GROUP_ROWS = 64 * 1024
CHECKED = (Incoming("id", "String"), Incoming("at", "DateTime64(6, 'UTC')"))
"""Columns of the rows of a check."""


def source(staged: Staged, columns: Sequence[Incoming]) -> str:
    """Returns the table function that reads a staged object."""
    where = literal(staged.address)
    if staged.url.startswith("file:"):
        return f"file({where}, 'Parquet', {structure(columns)})"
    login = ""
    if staged.keys is not None:
        given = (staged.keys.access_key_id, staged.keys.secret_access_key, staged.keys.session_token)
        login = "".join(f", {literal(each)}" for each in given if each is not None)
    return f"s3({where}{login}, 'Parquet', {structure(columns)})"


def mask_of(staged: Staged) -> Mask:
    """Returns what hides the lent keys in the server's words."""
    return Mask([staged.keys.secret_access_key, staged.keys.session_token] if staged.keys else [])


def write_parquet(rows: pa.Table, output: IO[bytes]) -> None:
    """Writes rows; equal rows are equal bytes."""
    import pyarrow.parquet as pq

    pq.write_table(rows, output, compression="zstd", row_group_size=ROW_GROUP_ROWS)


async def check(staging: Staging, link: Link, connection: str) -> CheckResult:
    """Tries whether the loader can put objects, the server can read them, and the loader can remove them."""
    try:
        area = await staging.claim(connection, 1)
        try:
            staged = await area.put(connection, "check.parquet", partial(write_parquet, rows_of_check()))
            try:
                (found,) = await link.fetch("checking the staging of", f"SELECT count() AS rows FROM {source(staged, CHECKED)}")  # noqa: S608 - quoted
            except PenstockError as error:
                mask_of(staged).error(error)
                raise
            if int(found["rows"]) != ROWS:
                raise SetupError(f"staged {ROWS} rows, and the server read {found['rows']}")
        finally:
            await area.remove(connection)
        await staging.forget(connection)
    except PenstockError as error:
        return CheckResult("stage", ok=False, message=str(error))
    return CheckResult("stage", ok=True)
