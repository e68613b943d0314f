"""Looks into the DuckDB files of a project: tables, columns, a few rows. Reads only; waits while a loader has the file open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.control.wording import cut
from shared.project.model import Project

if TYPE_CHECKING:
    import duckdb

OPEN_SECONDS = 20.0
RETRY_SECONDS = 0.01
"""Short, because under load the gaps between two loads are."""
SHOWN_COLUMNS = 7
SHOWN_VALUE = 48
_DULL_PREFIXES = ("context_", "original_")
_DULL = {"id", "message_id", "anonymous_id", "sent_at", "uuid_ts", "received_at", "event_text", "timestamp"}


class TableLook(msgspec.Struct, frozen=True, kw_only=True):
    """One table of a warehouse."""

    destination: str
    schema: str
    table: str
    rows: int
    columns: list[str]


async def look_at_tables(project: Project) -> list[TableLook]:
    """Returns the tables in the DuckDB destinations of a project, except the loader's own."""
    found: list[TableLook] = []
    for name, path in _files(project):
        found.extend(await asyncio.to_thread(_look, name, path))
    return found


async def sample_rows(project: Project, look: TableLook, count: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Returns names and values of the most telling columns of a few rows."""
    path = dict(_files(project))[look.destination]
    columns = telling_columns(look.columns)[:SHOWN_COLUMNS]
    rows = await asyncio.to_thread(_rows, path, look, columns, count)
    return columns, [tuple(_short(value) for value in row) for row in rows]


def telling_columns(columns: Sequence[str]) -> list[str]:
    """Returns the columns that differ from table to table, before the columns that every table has."""
    telling = [column for column in columns if column not in _DULL and not column.startswith(_DULL_PREFIXES)]
    return telling or list(columns)


def _files(project: Project) -> Iterator[tuple[str, Path]]:
    seen: set[Path] = set()
    for name, options in project.destinations.items():
        path = Path(str(options.get("path"))).absolute()
        if options.get("type") == "duckdb" and path not in seen and path.exists():
            seen.add(path)
            yield name, path


def open_file(path: Path) -> duckdb.DuckDBPyConnection:
    """Opens a DuckDB file for reading; waits while a loader has it.

    Raises:
        duckdb.IOException: it was not free in time.
    """
    import duckdb

    ends_at = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            return duckdb.connect(str(path), read_only=True)
        except duckdb.IOException:  # the loader has the file open; it closes it between loads
            if time.monotonic() > ends_at:
                raise
            time.sleep(RETRY_SECONDS)


def _look(destination: str, path: Path) -> list[TableLook]:
    with open_file(path) as database:
        columns = database.sql(
            "SELECT table_schema, table_name, list(column_name ORDER BY ordinal_position) FROM information_schema.columns "
            "WHERE NOT starts_with(table_name, '_penstock') AND table_catalog = current_database() GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
        looks: list[TableLook] = []
        for schema, table, names in columns:
            found = database.sql(f"SELECT count(*) FROM {quoted(schema)}.{quoted(table)}").fetchall()  # noqa: S608  # quoted
            rows = int(found[0][0])
            looks.append(TableLook(destination=destination, schema=schema, table=table, rows=rows, columns=list(names)))
        return looks


def _rows(path: Path, look: TableLook, columns: list[str], count: int) -> list[tuple[Any, ...]]:
    # as text: DuckDB's Python value of a time with a zone needs another package
    chosen = ", ".join(f"CAST({quoted(column)} AS VARCHAR)" for column in columns)
    with open_file(path) as database:
        return database.sql(
            f"SELECT {chosen} FROM {quoted(look.schema)}.{quoted(look.table)} LIMIT {count}"  # noqa: S608  # quoted
        ).fetchall()


def quoted(name: str) -> str:
    """Returns an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _short(value: Any) -> Any:
    return value if value is None or len(str(value)) <= SHOWN_VALUE else cut(str(value), SHOWN_VALUE)
