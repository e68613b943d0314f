"""Tables of a PostgreSQL database: whole, or by a cursor column.

    shop:
      type: postgres
      dsn: postgresql://reader:${PASSWORD}@db.example.com/shop
      schemas: [public]

Rows come by COPY, in columns (`copying.py`), changes by logical replication (`changes/`); types come from the catalogue (`types.py`).
https://www.postgresql.org/docs/current/sql-copy.html

Traps: a time may be infinite, before Christ or behind the year 9999, which Arrow and most warehouses have not; a numeric may be
`NaN`; a transaction that commits late brings rows with an old cursor (`lookback`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from connector_runner.contract import Environment, Source
from shared.driving.server import ServerOptions
from shared.reading.units import ByteSize, Duration


class OPTIONS(ServerOptions, frozen=True, kw_only=True):
    """Options of a PostgreSQL connector."""

    ssl: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None,
        Meta(description="as libpq's sslmode; default: the dsn's, else prefer"),
    ] = None
    schemas: Annotated[list[str], Meta(description="schemas to look into; empty: all but the system's")] = field(
        default_factory=list
    )
    tables: Annotated[
        list[str], Meta(description="tables and views to offer, as `orders`, `public.orders` or `public.*`; empty: all")
    ] = field(default_factory=list)
    exclude: Annotated[list[str], Meta(description="tables and views to leave out, written as in `tables`")] = field(
        default_factory=list
    )
    method: Annotated[
        Literal["cursor", "cdc"],
        Meta(description="how changes are found: by a cursor column, or in the server's log (`cdc`, change data capture)"),
    ] = "cursor"
    slot: Annotated[
        Annotated[str, Meta(pattern="^[a-z0-9_]{1,63}$")] | None,
        Meta(description="of `cdc`: the replication slot; made when missing; default: `penstock_` and the connector's name"),
    ] = None
    publication: Annotated[
        Annotated[str, Meta(min_length=1, max_length=63)] | None,
        Meta(description="of `cdc`: a publication that a person made; default: one of our own"),
    ] = None
    follow: Annotated[
        Duration,
        Meta(description="of `cdc`: how long a read goes on for new changes; by default it ends with the changes that are there"),
    ] = field(default_factory=lambda: Duration(0))
    before_image: Annotated[
        bool, Meta(description="of `cdc`: give the former values that the log tells in a column `_before`")
    ] = False
    signals: Annotated[
        str | None,
        Meta(
            description="of `cdc`: a table, as `public.signals`; a row in it that holds a stream's name asks for a copy of that table"
        ),
    ] = None
    lookback: Annotated[
        Duration,
        Meta(description="how far before the stored cursor a read begins, for rows that are committed late; of times only"),
    ] = field(default_factory=lambda: Duration(0))
    fetch_size: Annotated[ByteSize, Meta(description="bytes of rows that are read before they are given on")] = field(
        default_factory=lambda: ByteSize(1 << 20)
    )
    checkpoint_rows: Annotated[int, Meta(ge=1, description="rows between two states of a read in progress")] = 50_000
    statement_timeout: Annotated[
        Duration, Meta(description="how long a statement may take; one that reads rows may take any time")
    ] = field(default_factory=lambda: Duration(60))
    stall_timeout: Annotated[Duration, Meta(description="how long the network may be silent before the link counts as lost")] = (
        field(default_factory=lambda: Duration(30))
    )

    def __post_init__(self) -> None:
        if self.dsn and not self.dsn.startswith(("postgresql://", "postgres://")):  # not quoted: a password may stand in it
            raise ValueError("dsn: expected an address such as postgresql://user:password@host:5432/database")


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Opens a connector; connects with its first call."""
    from connector_runner.sources.postgres.source import PostgresSource

    return PostgresSource(name, options, environment.heard)
