"""DuckDB: tables and views of one database file, read whole or by a cursor.

    options.py  what the user writes    types.py      types and kinds          catalogue.py  tables, columns, keys
    source.py   the calls               database.py   the open file            errors.py     translation

The file is opened for reading at a call's first question and closed with the source. DuckDB lets one process write a file, or many read it.
"""

from __future__ import annotations

from connector_runner.contract import Environment, Source
from connector_runner.sources.duckdb.options import OPTIONS as OPTIONS
from connector_runner.sources.duckdb.source import DuckDBSource


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Returns the source; its first call opens the file."""
    return DuckDBSource(name, options, environment)
