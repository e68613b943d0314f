"""ClickHouse under test: a database of its own, asked over HTTP."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Any

import pyarrow as pa

from tests.support.clickhouse import Place, ask
from tests.support.destinations.subject import Row, Shape

_CLICKHOUSE_WORDS = {
    "timestamptz": "DateTime64(6, 'UTC')", "uuid": "UUID", "json": "String", "TYPE varchar": "TYPE Nullable(String)", "extra varchar": "extra Nullable(String)", "PRIMARY KEY": "",
}  # fmt: skip
"""What the tests call a type, and the server otherwise."""
_CLICKHOUSE_WIDE = (
    "SELECT name || if(type LIKE '%DateTime%', ' at', '') FROM system.columns WHERE database = {database:String} AND table = {table:String}"
    " AND match(type, 'Int(128|256)|UUID|IPv|Enum|DateTime[(]?$|DateTime[^6]|Decimal\\\\(76')"
)
"""Columns of types that Arrow has not, which are read as text."""


class ClickHouseSubject:
    """A database of its own in a server; rows of merging tables are read as they are in the end."""

    label = "clickhouse"

    def __init__(self, place: Place, **options: Any) -> None:
        self.place = place
        self.database = f"t_{secrets.token_hex(6)}"
        self.document: dict[str, Any] = {
            "type": "clickhouse", "url": place.url, "user": place.user, "password": place.password, "database": self.database,
            "fsync": False, **options,
        }  # fmt: skip
        ask(place, f"CREATE DATABASE {self.database}")

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        return await asyncio.to_thread(self._rows, table)

    def _rows(self, table: str) -> list[Row]:
        quoted = "`" + table.replace("\\", "\\\\").replace("`", "\\`") + "`"
        escaped = table.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
        parameters: dict[str, Any] = {"param_database": self.database, "param_table": escaped}
        wide = ask(self.place, _CLICKHOUSE_WIDE, **parameters).decode().splitlines()
        star = "*" + (f" REPLACE ({', '.join(_clickhouse_read(name) for name in wide)})" if wide else "")
        try:
            answer = ask(
                self.place, f"SELECT {star} FROM {quoted}", database=self.database, default_format="ArrowStream", final=1,
                asterisk_include_materialized_columns=1,
                output_format_arrow_string_as_string=1, output_format_arrow_low_cardinality_as_dictionary=0,
            )  # fmt: skip
        except RuntimeError as error:
            if "UNKNOWN_TABLE" in str(error):
                return []
            raise
        rows: list[Row] = pa.ipc.open_stream(answer).read_all().to_pylist() if answer else []
        return rows

    async def run(self, statement: str) -> None:
        for word, own in _CLICKHOUSE_WORDS.items():
            statement = re.sub(rf"\b{word}\b", own, statement)
        # as everywhere else, a column may be null unless it says NOT NULL
        await self.ask(statement, data_type_default_nullable=1)

    async def tables(self) -> list[str]:
        """Returns the names of all tables."""
        return (await self.ask("SELECT name FROM system.tables WHERE database = '{}'")).split()

    async def ask(self, query: str, **settings: Any) -> str:
        """Returns what a query answers, tab-separated; `{}` stands for the database."""
        query = query.replace("{}", self.database)
        return (await asyncio.to_thread(ask, self.place, query, database=self.database, **settings)).decode()

    async def drop(self) -> None:
        """Drops the database."""
        await self.run("DROP DATABASE {} SYNC")


def _clickhouse_read(name: str) -> str:
    name, at, _ = name.partition(" at")
    return f"toDateTime64(`{name}`, 0, 'UTC') AS `{name}`" if at else f"toString(`{name}`) AS `{name}`"
