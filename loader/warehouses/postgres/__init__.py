"""Postgres: rows arrive by binary COPY, repeats merge by INSERT ... ON CONFLICT, and the ledger commits with them.

One connection a session, opened under a name by which the successor ends it (`loader/warehouses/postgres/connect.py`). A load is one
transaction: lock the tables against alteration, COPY, merge, check the epoch, write the marks, COMMIT (`loader/sql/load.py`).

What to know: a COMMIT that was sent is waited for even when the load is cancelled, so that its outcome is known; a cancelled or
stalled load closes its connection, and the session answers `NotConnected` from then on. A load that fails on its rows rolls back
and leaves the session usable. A number outside the range of an `integer` or `real` column names its rows without asking the server.

https://www.postgresql.org/docs/current/sql-copy.html, https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from loader.contract.warehouse import Capabilities, Destination, Environment, Session
from loader.sql import ledger
from loader.sql.ledger import Holder
from loader.sql.session import SqlDestination, SqlSession
from loader.sql.steps import Ask, Commit, Moment, Rollback, Run, Step, Steps
from loader.warehouses.postgres.bulk import Copy, CopyBulk, copy
from loader.warehouses.postgres.connect import NAME_BYTES, Options, connect, end_older
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import translate
from loader.warehouses.postgres.types import TYPES
from shared.driving.server import session_name
from shared.driving.steps import drive_waiting
from shared.driving.watch import Watch
from shared.errors import NotConnected, PenstockError, is_panic
from shared.tasks import timeout, to_the_end

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")

OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=63,
    name_unit="bytes",
    transactional=True,
    merge="now",
    stream=True,
    evolve=True,
    widen=TYPES.pairs,
    max_columns=1500,  # the server's limit is 1600, and dropped columns count
    system_columns=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
)

ROLLBACK_SECONDS = 5.0
COMMIT_SECONDS = 60.0


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:  # noqa: ARG001
    """Returns the destination; connections are opened by its sessions."""
    return PostgresDestination(name, options)


class PostgresDestination(SqlDestination):
    """One schema of one database; there is nothing outside the sessions."""

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(f'postgres destination "{name}"', DIALECT, options.schema)
        self._options = options

    async def open_session(self, connection: str, epoch: int) -> Session:
        schema = self._options.schema
        what = f"opening {self._called}"
        link = await connect(self._options, session_name(schema, connection, epoch, NAME_BYTES), what)
        try:
            # first those that may hold the epoch's row, then, with the epoch ours, those that came meanwhile
            async with timeout(self._options.stall_timeout):
                await end_older(link, schema, connection, epoch - 1)
                holder = await drive_waiting(ledger.claim(DIALECT, schema, connection, epoch), lambda step: perform(link, step))
                await end_older(link, schema, connection, epoch)
        except BaseException as error:
            link.terminate()
            if isinstance(error, Exception):
                raise translate(error, what) from error
            raise
        return PostgresSession(self._called, self._options, link, holder)

    async def close(self) -> None:
        pass

    async def _once(self, what: str, steps: Steps[T]) -> T:
        link = await connect(self._options, "penstock/check", what)
        try:
            async with timeout(self._options.stall_timeout):
                return await drive_waiting(steps, lambda step: perform(link, step))
        except Exception as error:
            raise translate(error, what) from error
        finally:
            link.terminate()


class PostgresSession(SqlSession):
    """A connection's right to write, and the one link to the server it has."""

    def __init__(self, called: str, options: Options, link: asyncpg.Connection, holder: Holder) -> None:
        super().__init__(called, DIALECT, CopyBulk(options.schema), options.schema, holder)
        self._options = options
        self._link = link

    async def close(self) -> None:
        try:
            async with timeout(ROLLBACK_SECONDS):
                await self._link.close()
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is given up
            self._link.terminate()

    async def _run(self, what: str, steps: Steps[T]) -> T:
        """Does a piece of work under the watch; what a failed one left open ends by ROLLBACK where the server answers, else by
        hanging up.

        asyncpg has two ways to wait for ever: a server that answers nothing, and a connection lost while its socket's buffer was
        full (`writing_allowed` is then never set again). The watch ends both.
        """
        link = self._link
        if link.is_closed():
            raise NotConnected(f"{what}: the connection is closed")
        try:
            async with Watch(self._options.stall_timeout, self._options.statement_timeout, self._answers) as watch:

                def lost(_: object) -> None:
                    watch.lost()

                link.add_termination_listener(lost)
                try:
                    return await drive_waiting(steps, lambda step: self._perform(step, watch))
                finally:
                    link.remove_termination_listener(lost)
        except BaseException as error:
            await self._abandon(error)
            if isinstance(error, Exception) or is_panic(error):
                raise translate(error, what) from error
            raise

    async def _perform(self, step: Step, watch: Watch) -> Any:
        if isinstance(step, Copy):
            return await copy(self._link, step, watch)
        if not (isinstance(step, Run) or (isinstance(step, Ask) and step.long)):
            return await perform(self._link, step)
        watch.server_works()
        came = await perform(self._link, step)
        watch.moved()
        return came

    async def _answers(self) -> bool:
        try:
            link = await connect(self._options, "penstock/alive", "asking whether the server answers")
        except NotConnected:
            return False
        except PenstockError:
            return True  # it answered: that there is no connection free, perhaps
        link.terminate()
        return True

    async def _abandon(self, error: BaseException) -> None:
        if not (isinstance(error, Exception) or is_panic(error)) or isinstance(error, TimeoutError) or self._link.is_closed():
            self._link.terminate()
            return
        try:
            async with timeout(ROLLBACK_SECONDS):
                if self._link.is_in_transaction():
                    await self._link.execute("ROLLBACK")
        except BaseException as failed:
            self._link.terminate()
            if not isinstance(failed, Exception):
                raise


async def perform(link: asyncpg.Connection, step: Step) -> Any:
    """Does one step; a COMMIT is waited for even when cancelled, because hanging up on it would leave its outcome unknown."""
    if isinstance(step, Ask):
        return await link.fetch(step.sql, *step.values)
    if isinstance(step, Moment):
        return perf_counter()
    if isinstance(step, Run):
        return await link.execute(step.sql)
    if isinstance(step, Rollback):
        return await link.execute("ROLLBACK")
    assert isinstance(step, Commit)  # noqa: S101 - there are no others
    return await to_the_end(link.execute("COMMIT"), COMMIT_SECONDS)
