"""The ledger in MySQL: what of each lane is loaded into which table, and which epoch may load.

The epoch's row is locked for the moments between the check and COMMIT only, never while rows travel: a loader frozen in the middle of
its rows must not hold up its successor.
"""

# ruff: noqa: S608 - names and values are quoted by the dialect

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loader.contract.warehouse import LoadPlan
from loader.sql.text import LEDGER
from loader.warehouses.mysql.dialect import SQL
from loader.warehouses.mysql.errors import NO_TABLE, number_of
from shared.errors import Fenced, WentBack

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

_NOW = "utc_timestamp(6)"


class Ledger:
    """The rows of one connection in the ledger of one database."""

    def __init__(self, schema: str, connection: str) -> None:
        self._table = SQL.qualified(schema, LEDGER)
        self._name = connection
        self._connection = SQL.literal(connection)
        self._head = f"connection = {self._connection} AND table_name = '' AND lane = ''"

    async def make(self, link: Link, collation: str) -> None:
        """Makes the ledger if it is missing; asking first, because IF NOT EXISTS wants the permission even when it exists."""
        try:
            await link.run(f"SELECT 1 FROM {self._table} LIMIT 0")
        except Exception as error:
            if number_of(error) != NO_TABLE:
                raise
            await link.run(
                f"CREATE TABLE IF NOT EXISTS {self._table} ("
                "connection varchar(255) NOT NULL, table_name varchar(64) NOT NULL, lane varchar(400) NOT NULL, epoch bigint NOT NULL, "
                "last_sequence bigint NOT NULL, `rows` bigint NOT NULL, loaded_at datetime(6) NOT NULL, "
                f"PRIMARY KEY (connection, table_name, lane)) ENGINE = InnoDB, DEFAULT CHARACTER SET utf8mb4, COLLATE {collation}"
            )

    async def newest(self, link: Link) -> int | None:
        """Returns the epoch of the connection; None where it was never loaded."""
        rows = (await link.run(f"SELECT epoch FROM {self._table} WHERE {self._head}")).rows
        return int(rows[0][0]) if rows else None

    async def claim(self, link: Link, epoch: int) -> int:
        """Raises the epoch of the connection; returns how many loads it counts.

        Raises:
            Fenced: a session with a higher epoch exists.
        """
        await link.run("START TRANSACTION")
        await link.run(
            f"INSERT INTO {self._table} VALUES ({self._connection}, '', '', {epoch}, 0, 0, {_NOW}) "
            f"ON DUPLICATE KEY UPDATE loaded_at = IF(epoch <= VALUES(epoch), VALUES(loaded_at), loaded_at), "
            "epoch = GREATEST(epoch, VALUES(epoch))"
        )
        ((newest, loads),) = (
            await link.run(f"SELECT epoch, last_sequence FROM {self._table} WHERE {self._head} FOR UPDATE")
        ).rows
        if int(newest) > epoch:
            await link.run("ROLLBACK")
            raise Fenced(f'connection "{self._name}": a loader with a newer epoch than {epoch} holds it', int(newest))
        await link.run("COMMIT")
        return int(loads)

    async def read_marks(self, link: Link) -> Mapping[tuple[str, str], int]:
        """Returns the last loaded sequence by table and lane."""
        rows = (
            await link.run(
                f"SELECT table_name, lane, last_sequence FROM {self._table} WHERE connection = {self._connection} AND table_name <> ''"
            )
        ).rows
        return {(table, lane): int(last) for table, lane, last in rows}

    async def forget_marks(self, link: Link, marks: Sequence[tuple[str, str]]) -> None:
        """Removes marks by table and lane."""
        if marks:
            pairs = ", ".join(f"({SQL.literal(table)}, {SQL.literal(lane)})" for table, lane in marks)
            await link.run(
                f"DELETE FROM {self._table} WHERE connection = {self._connection} AND table_name <> '' AND (table_name, lane) IN ({pairs})"
            )

    async def write_marks(self, link: Link, epoch: int, loads: int, plan: LoadPlan, rows: Mapping[str, int]) -> None:
        """Checks the epoch, counts the load and writes its marks; the next statement must be COMMIT.

        Args:
            loads: how many the ledger counts, if it is as the session left it.

        Raises:
            Fenced: the epoch is not ours any more.
            WentBack: the ledger is older than the session.
        """
        # the lock on this row makes a successor wait for our COMMIT, and us for its claim, whichever came first
        mine = await link.run(
            f"UPDATE {self._table} SET last_sequence = last_sequence + 1, loaded_at = {_NOW} "
            f"WHERE {self._head} AND epoch = {epoch} AND last_sequence = {loads}"
        )
        if mine.changed != 1:
            newest = await self.newest(link)
            if newest is not None and newest > epoch:
                raise Fenced(f'connection "{self._name}": a newer epoch than {epoch} exists; nothing was loaded', newest)
            raise WentBack(f'connection "{self._name}": the ledger is not as this loader left it, an older state was put back')
        lane = SQL.literal(plan.lane)
        values = ", ".join(
            f"({self._connection}, {SQL.literal(table)}, {lane}, {epoch}, {plan.last}, {count}, {_NOW})"
            for table, count in sorted(rows.items())
        )
        await link.run(
            f"INSERT INTO {self._table} VALUES {values} ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), "
            "last_sequence = GREATEST(last_sequence, VALUES(last_sequence)), `rows` = `rows` + VALUES(`rows`), loaded_at = VALUES(loaded_at)"
        )
