"""ClickHouse: tables and views of one database, read whole or by a cursor, over HTTP as Arrow streams.

    options.py  what the user writes    types.py      types, and what they are cast to    catalogue.py  tables, columns, keys
    source.py   the calls               link.py       HTTP                                stream.py     Arrow streams, as they arrive
    errors.py   translation

https://clickhouse.com/docs/interfaces/http, https://clickhouse.com/docs/interfaces/formats/ArrowStream
"""

from __future__ import annotations

from connector_runner.contract import Environment, Source
from connector_runner.sources.clickhouse.options import OPTIONS as OPTIONS
from connector_runner.sources.clickhouse.source import ClickHouseSource


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:  # noqa: ARG001
    """Returns the source; its first call connects."""
    return ClickHouseSource(name, options)
