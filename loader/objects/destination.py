"""One destination over a store, for all file plug-ins once their store is open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from io import BytesIO

from loader.contract.check import check_destination
from loader.contract.forgets import Changed, ObjectRows
from loader.contract.warehouse import Capabilities, CheckResult, Session
from loader.objects import forgetting, formats, names
from loader.objects.session import FilesSession, Layout
from shared.stores.contract import Store
from shared.threads import ThreadGate

CAPABILITIES = Capabilities(
    name_limit=128,
    name_unit="bytes",
    transactional=False,
    merge="no",
    stream=False,
    evolve=False,
    max_columns=10_000,
)
"""Capabilities of all kinds of files."""


class FilesDestination:
    """Objects in a store.

    Args:
        store: the place of the objects.
        layout: names and formats of the objects.
        gate: for all blocking calls.
        what: its name in messages, such as `local destination "lake"`.
    """

    capabilities = CAPABILITIES

    def __init__(self, store: Store, layout: Layout, gate: ThreadGate, what: str) -> None:
        self._store = store
        self._layout = layout
        self._gate = gate
        self._what = what

    async def check(self) -> Sequence[CheckResult]:
        """Tries every step that loading needs, with a test table."""
        return await check_destination(self, self._count, self._drop)

    async def open_session(self, connection: str, epoch: int) -> Session:
        """Fences every session of the connection with a lower epoch, and opens one."""
        area = await self._store.claim(connection, epoch)
        return FilesSession(area=area, layout=self._layout, gate=self._gate, connection=connection, what=self._what)

    def forget_in_objects(
        self, names: Sequence[str], *, columns: Sequence[str], epoch: int, delete: bool, changed: Changed | None = None
    ) -> AsyncIterator[ObjectRows]:
        """See `ForgetsPeopleInObjects`."""
        rewriting = forgetting.Rewriting(
            store=self._store, gate=self._gate, prefix=self._layout.prefix, names=names, columns=columns, epoch=epoch
        )
        return rewriting.run(changed, delete=delete)

    async def remains(self) -> str:
        """See `ForgetsPeopleInObjects`."""
        return await forgetting.remains(self._store)

    async def close(self) -> None:
        """Closes the store."""
        await self._store.close()

    async def _count(self, table: str) -> int:
        rows = 0
        for key in await self._keys(table):
            data = await self._store.get(key)
            if data is not None:
                rows += await self._gate.run(formats.count_rows, BytesIO(data), self._layout.format, self._layout.compression)
        return rows

    async def _drop(self, table: str, connection: str) -> None:
        await self._store.delete(await self._keys(table))
        await self._store.forget(connection)

    async def _keys(self, table: str) -> list[str]:
        """Returns the objects of the check; its connection has the name of its table."""
        folder = names.folder(self._layout.prefix, table)
        return [entry.key for entry in await self._store.list(f"{folder}/{names.segment(table)}-")]
