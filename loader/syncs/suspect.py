"""Takes an error that a plug-in does not know for one of a table, where it came again and again.

Such an error is taken as transient at first, so that nothing is lost. If one table is the cause for good, it would hold up all streams of
the sync for ever. So after some sessions that ended with it, the tables are tried one by one, and the streams of tables that fail with it
fail in this run, as with any other fault of a table; their states stay, and the next run reads their rows again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from loader.contract.warehouse import LoadPlan, LoadReport, Session, TableLoad, TablePatch, TableSchema
from shared.errors import TableSetupError, UnknownDriverError

MOST_SESSIONS = 6
"""Sessions in a row that may end with an unknown error; with the waits between them about half a minute."""


class SuspectingSession:
    """A session whose unknown errors are those of the tables that a call is about."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """See `Session.marks`."""
        return await self._session.marks()

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        """See `Session.forget`."""
        await self._session.forget(marks)

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        """See `Session.describe`."""
        with _of_a_table():
            return await self._session.describe(tables)

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """See `Session.create`."""
        with _of_a_table():
            return await self._session.create(patches)

    async def patch(self, patch: TablePatch) -> TableSchema:
        """See `Session.patch`."""
        with _of_a_table():
            return await self._session.patch(patch)

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """See `Session.load`."""
        with _of_a_table():
            return await self._session.load(plan, loads)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """See `Session.probe`."""
        with _of_a_table():
            await self._session.probe(loads)

    async def abandon(self, table: str) -> None:
        """See `Session.abandon`."""
        with _of_a_table():
            await self._session.abandon(table)

    async def close(self) -> None:
        """See `Session.close`."""
        await self._session.close()


@contextlib.contextmanager
def _of_a_table() -> Iterator[None]:
    try:
        yield
    except UnknownDriverError as exc:
        raise TableSetupError(f"the destination fails with an error that Penstock does not know: {exc}") from exc
