"""One session over any store: divides rows, encodes them, stages object by object, and publishes all together.

It needs no transaction: an object's name is the plan (`names.py`), so a repeat after a crash writes the same names again. A
reader sees each object whole or not at all, but may see a load of which only some tables have arrived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from loader.contract.warehouse import LoadPlan, LoadReport, TableLoad, TablePatch, TableSchema
from loader.objects import formats, names
from loader.objects.formats import Compression, Format
from shared.errors import NotConnected, PenstockError, Permanent, TableSetupError, unknown
from shared.stores.contract import Area, KeyRefused
from shared.threads import ThreadGate

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and contents of objects. `prefix` is below the store's root."""

    prefix: str
    format: Format
    compression: Compression

    @property
    def extension(self) -> str:
        """The end of each object's name."""
        return formats.extension(self.format, self.compression)


class FilesSession:
    """A connection's right to write into a store.

    Args:
        area: the store's area for the connection and its epoch.
        layout: what to write.
        gate: for all that blocks.
        connection: the name of the connection.
        what: how messages name the destination.
    """

    def __init__(self, area: Area, layout: Layout, gate: ThreadGate, connection: str, what: str) -> None:
        self._area = area
        self._layout = layout
        self._gate = gate
        self._connection = connection
        self._what = what
        self._closed = False

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """Returns no marks: the names of the objects are the ledger."""
        return {}

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        """Removes nothing: there are no marks."""

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        """Returns no schema: each object has the columns of its rows."""
        return dict.fromkeys(tables)

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """Creates nothing; returns the tables as the patches describe them."""
        return {patch.table: await self.patch(patch) for patch in patches}

    async def patch(self, patch: TablePatch) -> TableSchema:
        """Changes nothing; returns the table as the patch describes it."""
        return TableSchema({column.name: column for column in (*patch.add, *patch.widen)}, patch.primary_key or ())

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """Writes the objects of a plan; they appear one after the other, each whole."""
        return await self._bring(plan, loads, publish=True)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """Writes the objects where no reader sees them, and removes them."""
        await self._bring(LoadPlan(self._connection, "probe", 0, 0), loads, publish=False)

    async def abandon(self, table: str) -> None:
        """Gives up nothing: there are no full refreshes."""

    async def close(self) -> None:
        """Ends the session. Never raises."""
        self._closed = True

    async def _bring(self, plan: LoadPlan, loads: Sequence[TableLoad], *, publish: bool) -> LoadReport:
        what = f"loading into {self._what}"
        if self._closed:
            raise NotConnected(f"{what}: the session is closed")
        if any(load.write not in ("append", "replace") for load in loads):
            raise Permanent(f"{what}: files cannot merge; set deduplicate: false")
        if any(load.write == "replace" for load in loads):
            raise Permanent(f"{what}: files cannot be refreshed as a whole, because their readers would see half of it")
        started = perf_counter()
        size = 0
        try:
            for load in await self._gate.run(_joined, loads):
                objects = names.divide(load, plan, self._layout.prefix, self._layout.extension)
                while (found := await self._gate.run(next, objects, None)) is not None:
                    size += await self._stage(load.table, *found)
            staged = perf_counter()
            if publish:
                await self._area.publish()
        except PenstockError:
            raise
        except Exception as error:
            raise unknown(error, f"{what}: {type(error).__name__}: {error}") from error
        finally:
            await self._area.discard()
        rows: dict[str, int] = {}
        for load in loads:
            rows[load.table] = rows.get(load.table, 0) + load.rows.num_rows
        return LoadReport(rows, size, {"encode": staged - started, "commit": perf_counter() - staged})

    async def _stage(self, table: str, path: str, rows: pa.Table) -> int:
        layout = self._layout
        write = partial(formats.write, rows, format_=layout.format, compression=layout.compression)
        try:
            return await self._area.stage(path, write)
        except KeyRefused as error:
            raise TableSetupError(f'table "{table}": {error}') from error


def _joined(loads: Sequence[TableLoad]) -> Sequence[TableLoad]:
    """Returns one load for each table: two loads of a table would get the same name."""
    tables: dict[str, list[TableLoad]] = {}
    for load in loads:
        tables.setdefault(load.table, []).append(load)
    if len(tables) == len(loads):
        return loads
    import pyarrow as pa

    return [
        TableLoad(table, pa.concat_tables([load.rows for load in parts], promote_options="default"))
        for table, parts in tables.items()
    ]
