"""MySQL and MariaDB: rows arrive by LOAD DATA LOCAL from memory, repeats merge by ON DUPLICATE KEY UPDATE, the ledger commits with them.

A load is one transaction over the session's link (`loader/servers/session.py`): look at the tables, which keeps others from altering
them, LOAD DATA, merge, check the epoch, write the marks, COMMIT. DDL commits by itself here, so a table is patched before the
transaction, and read again inside it.

Every session holds a lock of the server (`GET_LOCK`) named after its database and connection, for as long as its link lives. Its
successor asks the server who holds the lock and ends that (`KILL`), which any user may do to its own links.

https://dev.mysql.com/doc/refman/8.0/en/load-data.html, https://mariadb.com/kb/en/load-data-infile/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loader.contract.warehouse import Capabilities, Destination, Environment
from loader.servers.session import ServerDestination
from loader.sql import ledger
from loader.sql.dialect import Dialect
from loader.sql.steps import Ask, Steps
from loader.warehouses.mysql.bulk import LoadBulk
from loader.warehouses.mysql.connect import Options, connect
from loader.warehouses.mysql.dialect import SQL, TABLE_LIMIT, UNFIT, MySQL, lock_name
from loader.warehouses.mysql.errors import ERRORS, NO_SUCH_THREAD
from shared.driving.mysql import database_of
from shared.errors import Fenced

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=64,
    name_unit="characters",
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
    widen=SQL.types.pairs,
    max_columns=1000,  # InnoDB's limit is 1017
    case="lower",
    unfit=UNFIT,
    table_limit=TABLE_LIMIT,
)


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:  # noqa: ARG001
    """Returns the destination; links are opened by its sessions."""
    return MySQLDestination(f'mysql destination "{name}"', options, database_of(options))


class MySQLDestination(ServerDestination["Link", Options]):
    """One database of a server."""

    capabilities = CAPABILITIES
    errors = ERRORS
    bulk = LoadBulk

    async def connect(self, what: str, connection: str = "", epoch: int = 0) -> Link:  # noqa: ARG002
        return await connect(self._options, what)

    def dialect_of(self, link: Link) -> Dialect:
        return MySQL(mariadb=link.is_mariadb, lock_seconds=self._options.lock_timeout)

    def older(self, dialect: Dialect, connection: str, epoch: int, *, claimed: bool) -> Steps[Sequence[int]]:  # noqa: ARG002
        """Takes the lock, or returns who has it. The ledger is read first, because a newer session must not be ended."""
        held = yield from ledger.newest(dialect, self._schema, connection)
        if held is not None and held > epoch:
            raise Fenced(f'connection "{connection}": a loader with a newer epoch than {epoch} holds it', held)
        name = dialect.literal(lock_name(self._schema, connection))
        ((taken, holder),) = yield Ask(f"SELECT GET_LOCK({name}, 0), IS_USED_LOCK({name})")
        return [] if taken == 1 else [holder or 0]

    def end(self, numbers: Sequence[int]) -> Steps[None]:
        for number in numbers:
            try:
                yield Ask(f"KILL CONNECTION {int(number)}")
            except Exception as error:
                if ERRORS.code(error) != NO_SUCH_THREAD:
                    raise
