"""Postgres: rows arrive by binary COPY, repeats merge by INSERT ... ON CONFLICT, and the ledger commits with them.

A load is one transaction over the session's link (`loader/servers/session.py`): lock the tables against alteration, COPY, merge, check
the epoch, write the marks, COMMIT (`loader/sql/load.py`). A number outside the range of an `integer` or `real` column names its rows
without asking the server.

https://www.postgresql.org/docs/current/sql-copy.html, https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT
"""

from __future__ import annotations

from collections.abc import Sequence

from loader.contract.warehouse import Capabilities, Destination, Environment
from loader.servers.session import ServerDestination
from loader.sql.dialect import Dialect
from loader.sql.steps import Ask, Steps
from loader.warehouses.postgres import catalogue
from loader.warehouses.postgres.bulk import CopyBulk
from loader.warehouses.postgres.connect import Link, Options, connect
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import ERRORS
from loader.warehouses.postgres.types import TYPES
from shared.driving.server import epoch_of, session_name

NAME_BYTES = 63
"""NAMEDATALEN - 1: the server cuts longer application names without a word."""

OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=63,
    name_unit="bytes",
    transactional=True,
    merge="now",
    replace=True,
    deletes=True,
    marks=True,
    empties=True,
    insert_only=True,
    history=True,
    stream=True,
    evolve=True,
    widen=TYPES.pairs,
    max_columns=1500,  # the server's limit is 1600, and dropped columns count
    system_columns=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
)


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:  # noqa: ARG001
    """Returns the destination; links are opened by its sessions."""
    return PostgresDestination(f'postgres destination "{name}"', options, options.schema)


class PostgresDestination(ServerDestination[Link, Options]):
    """One schema of one database."""

    capabilities = CAPABILITIES
    errors = ERRORS
    dialect = DIALECT
    bulk = CopyBulk

    async def connect(self, what: str, connection: str = "", epoch: int = 0) -> Link:
        name = session_name(self._schema, connection, epoch, NAME_BYTES) if connection else "penstock/check"
        return await connect(self._options, name, what)

    def older(self, dialect: Dialect, connection: str, epoch: int, *, claimed: bool) -> Steps[Sequence[int]]:  # noqa: ARG002
        """Returns backends. One of the same epoch is ours from before a reconnect: a COMMIT may still be on its way through it, so it
        too must be gone before the ledger is read."""
        found = {pid: epoch_of(name, self._schema, connection, NAME_BYTES) for pid, name in (yield Ask(catalogue.BACKENDS))}
        return [pid for pid, held in found.items() if held is not None and held < epoch + claimed]

    def end(self, numbers: Sequence[int]) -> Steps[None]:
        yield Ask(catalogue.END, (numbers,))
