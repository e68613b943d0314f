"""What a user writes for a MySQL source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from connector_runner.sql.plan import PAGE_ROWS, Lookback, PageRows
from connector_runner.sql.wanted import Exclude, Include
from shared.driving.mysql import MySQLOptions
from shared.reading.units import Duration


class OPTIONS(MySQLOptions, frozen=True, kw_only=True):
    """Options of a MySQL source."""

    include: Include = field(default_factory=lambda: ["*"])
    exclude: Exclude = field(default_factory=list)
    page_rows: PageRows = PAGE_ROWS
    lookback: Lookback = field(default_factory=lambda: Duration(0))
    booleans: Annotated[
        bool, Meta(description="read tinyint(1), which MySQL calls BOOLEAN, as true and false; every number but 0 is true then")
    ] = False
    statement_timeout: Annotated[
        Duration, Meta(description="how long the server may be silent, such as while it looks for the first row")
    ] = field(default_factory=lambda: Duration(600))
    stall_timeout: Annotated[Duration, Meta(description="how long until a server whose machine is gone counts as lost")] = field(
        default_factory=lambda: Duration(30)
    )
