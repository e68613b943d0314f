"""MySQL and MariaDB: tables and views of one database, read whole or by a cursor.

    options.py    what the user writes       types.py    types and kinds             catalogue.py  tables, columns, keys
    source.py     the calls, the link's life  link.py     answers while they arrive   decode.py     packets to Arrow
    errors.py     translation

Rows are Arrow tables made from the packets of the wire: the driver's own rows, a tuple each, cost ten times as much.
"""

from __future__ import annotations

from connector_runner.contract import Environment, Source
from connector_runner.sources.mysql.options import OPTIONS as OPTIONS
from connector_runner.sources.mysql.source import MySQLSource


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:  # noqa: ARG001
    """Returns the source; its first call opens a link."""
    return MySQLSource(name, options)
