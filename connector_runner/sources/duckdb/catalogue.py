"""What DuckDB's catalogue says of a file: tables, views, columns, keys."""

# ruff: noqa: S608 - constants are put in
from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from connector_runner.contract import StreamName
from connector_runner.sources.duckdb.types import column_of
from connector_runner.sql.dialect import Dialect
from connector_runner.sql.tables import Column, Table
from connector_runner.sql.wanted import is_wanted

Ask = Callable[[str], Awaitable[Sequence[Sequence[str | None]]]]

MAIN = "main"
"""The schema whose tables are named without it."""
_HERE = "database_name = current_database() AND NOT internal"
_TABLES = (
    f"SELECT schema_name, table_name, estimated_size::VARCHAR FROM duckdb_tables() WHERE {_HERE} AND NOT temporary "
    f"UNION ALL SELECT schema_name, view_name, NULL FROM duckdb_views() WHERE {_HERE} ORDER BY 1, 2"
)
_COLUMNS = (
    "SELECT schema_name, table_name, column_name, data_type, is_nullable::VARCHAR FROM duckdb_columns() "
    f"WHERE {_HERE} ORDER BY schema_name, table_name, column_index"
)
_KEYS = (
    "SELECT schema_name, table_name, name FROM (SELECT schema_name, table_name, unnest(constraint_column_names) AS name, "
    "generate_subscripts(constraint_column_names, 1) AS place FROM duckdb_constraints() "
    "WHERE constraint_type = 'PRIMARY KEY' AND database_name = current_database()) ORDER BY schema_name, table_name, place"
)


class DuckDB(Dialect):
    """DuckDB's SQL."""

    def text(self, column: Column) -> str:
        return f"CAST({self.identifier(column.name)} AS VARCHAR)"

    def value(self, column: Column, text: str) -> str:
        return f"CAST({self.literal(text)} AS {column.native})"


SQL = DuckDB()


async def read_tables(ask: Ask, include: Sequence[str], exclude: Sequence[str]) -> list[Table]:
    """Returns the wanted tables and views of the open file; `ask` asks it."""
    columns: dict[tuple[str, str], list[Column]] = defaultdict(list)
    for schema, table, name, native, nullable in await ask(_COLUMNS):
        quoted = SQL.identifier(name or "")
        columns[schema or "", table or ""].append(column_of(name or "", native or "", quoted=quoted, nullable=nullable == "true"))
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for schema, table, name in await ask(_KEYS):
        keys[schema or "", table or ""].append(name or "")
    found: list[Table] = []
    for schema, table, rows in await ask(_TABLES):
        place = (schema or "", table or "")
        stream = StreamName(place[1], None if schema == MAIN else schema)
        if is_wanted(stream, include, exclude):
            source = SQL.qualified(*place)
            key = tuple(keys[place])
            found.append(Table(stream, source, tuple(columns[place]), key=key, rows=None if rows is None else int(rows)))
    return found
