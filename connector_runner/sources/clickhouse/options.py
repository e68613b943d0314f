"""What a user writes for a ClickHouse source."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from connector_runner.sql.plan import PAGE_ROWS, Lookback, PageRows
from connector_runner.sql.wanted import Exclude, Include
from shared.driving.clickhouse import check_url
from shared.reading.units import Duration


class OPTIONS(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a ClickHouse source."""

    url: Annotated[str, Meta(description="address of the HTTP interface, such as http://host:8123 or https://host:8443")]
    user: Annotated[str, Meta(min_length=1, description="user name")] = "default"
    password: Annotated[
        str | None, Meta(description="password; write ${NAME} and set the environment variable", extra={"secret": True})
    ] = None
    database: Annotated[str, Meta(min_length=1, description="database of the tables")] = "default"
    include: Include = field(default_factory=lambda: ["*"])
    exclude: Exclude = field(default_factory=list)
    final: Annotated[
        bool,
        Meta(
            description="of tables whose engine collapses rows, read the last form of each row (FINAL); false: all that is stored"
        ),
    ] = True
    page_rows: PageRows = PAGE_ROWS
    lookback: Lookback = field(default_factory=lambda: Duration(0))
    connect_timeout: Annotated[Duration, Meta(description="how long opening a connection may take")] = field(
        default_factory=lambda: Duration(10)
    )
    statement_timeout: Annotated[
        Duration, Meta(description="how long the server may be silent, such as while it looks for the first row")
    ] = field(default_factory=lambda: Duration(600))

    def __post_init__(self) -> None:
        check_url(self.url)
