"""Files in a local directory: Parquet, NDJSON or CSV, one object for each table and hour of a load.

Nothing is transactional here, and nothing needs to be: an object's name is the plan (`loader/objects/names.py`), so a load that
is repeated after a crash writes the same names again. Each object is written aside, synced, and renamed into its place: a reader
sees it whole or not at all. Readers that must not see half a load, of which some tables have arrived, wait for the next.

Fencing (`loader/objects/directory.py`): the files on their way live in `_penstock/<connection>/<epoch>/`. A successor notes its
epoch and removes the directories of older ones; a frozen loader that wakes finds the file it wants to rename gone, and stops.
Only the renames of objects that it had begun to put in place when it was frozen can still happen, and they put the same rows
under the same names.

https://parquet.apache.org/docs/, https://github.com/ndjson/ndjson-spec, https://www.rfc-editor.org/rfc/rfc4180
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated

import msgspec
from msgspec import Meta

from loader.contract.check import check_destination
from loader.contract.warehouse import (
    Capabilities,
    CheckResult,
    Destination,
    Environment,
    LoadPlan,
    LoadReport,
    Session,
    TableLoad,
    TablePatch,
    TableSchema,
)
from loader.objects import directory, formats, names
from loader.objects.formats import Compression, Format
from shared.errors import NotConnected, PenstockError, Permanent, SetupError, TableSetupError, unknown
from shared.threads import Stop, ThreadGate


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for a directory of files."""

    path: Annotated[str, Meta(min_length=1, description="the directory; made when missing")]
    format: Annotated[Format, Meta(description="parquet for warehouses, ndjson and csv for everything else")] = "parquet"
    compression: Annotated[Compression | None, Meta(description="default: zstd for parquet, gzip for the others")] = None
    prefix: Annotated[
        str, Meta(description="directories of an object: {table}, and {date} and {hour} of the rows' own time in UTC")
    ] = names.DEFAULT_PREFIX

    def __post_init__(self) -> None:
        names.check_prefix(self.prefix)


_OF_A_TABLE = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
"""The fault of one directory below the root."""

OPTIONS = Options
CAPABILITIES = Capabilities(
    name_limit=128,
    name_unit="bytes",
    transactional=False,
    merge="no",
    stream=False,
    evolve=False,
    max_columns=10_000,
)


async def open_destination(name: str, options: Options, environment: Environment) -> Destination:
    """Returns the destination; the directory is made by the first session."""
    root = await environment.gate.run(lambda: Path(options.path).expanduser().resolve())
    return LocalDestination(name, options, root, environment.gate)


class LocalDestination:
    """One directory."""

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: Options, root: Path, gate: ThreadGate) -> None:
        self._name = name
        self._options = options
        self._root = root
        self._gate = gate

    async def check(self) -> Sequence[CheckResult]:
        """Tries every step that loading needs, with a table of its own."""
        return await check_destination(self, self._count, self._drop)

    async def open_session(self, connection: str, epoch: int) -> Session:
        """Fences every session of the connection with a lower epoch, and opens one."""
        try:
            aside = await self._gate.run(directory.claim, self._root, connection, epoch)
        except OSError as error:
            raise translate(error, f'opening local destination "{self._name}"') from error
        return LocalSession(
            name=self._name,
            options=self._options,
            root=self._root,
            gate=self._gate,
            aside=aside,
            connection=connection,
            epoch=epoch,
        )

    async def close(self) -> None:
        """Closes nothing: no file is open between calls."""

    async def _count(self, table: str) -> int:
        def count() -> int:
            format_ = self._options.format
            compression = self._options.compression or formats.default_compression(format_)
            files = (self._root / names.folder(self._options.prefix, table)).iterdir()
            return sum(formats.count_rows(file, format_, compression) for file in files if file.name.startswith(table))

        return await self._gate.run(count)

    async def _drop(self, table: str, connection: str) -> None:
        def drop() -> None:
            folder = self._root / names.folder(self._options.prefix, table)
            for file in folder.iterdir() if folder.is_dir() else ():
                if file.name.startswith(connection):
                    file.unlink()
            while folder != self._root and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent
            shutil.rmtree(self._root / directory.PRIVATE / connection)

        await self._gate.run(drop)


class LocalSession:
    """A connection's right to write into the directory."""

    def __init__(
        self, name: str, options: Options, root: Path, gate: ThreadGate, aside: Path, connection: str, epoch: int
    ) -> None:
        self._name = name
        self._options = options
        self._root = root
        self._gate = gate
        self._aside = aside
        self._connection = connection
        self._epoch = epoch
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
        """Writes the objects of a plan; they appear one after the other, each of them whole."""
        return await self._bring(plan, loads, place=True)

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """Writes the objects aside and removes them."""
        await self._bring(LoadPlan(self._connection, "probe", 0, 0), loads, place=False)

    async def _bring(self, plan: LoadPlan, loads: Sequence[TableLoad], *, place: bool) -> LoadReport:
        what = f'loading into local destination "{self._name}"'
        if self._closed:
            raise NotConnected(f"{what}: the session is closed")
        if any(load.write == "merge" for load in loads):
            raise Permanent(f"{what}: files cannot merge; set deduplicate: false")
        stop = Stop()
        try:
            return await self._gate.run_interruptible(stop.set, self._load, plan, loads, place, stop)
        except Exception as error:
            raise translate(error, what) from error

    async def close(self) -> None:
        """Ends the session. Never raises."""
        self._closed = True

    def _load(self, plan: LoadPlan, loads: Sequence[TableLoad], place: bool, stop: Stop) -> LoadReport:
        started = perf_counter()
        format_ = self._options.format
        compression = self._options.compression or formats.default_compression(format_)
        end = formats.extension(format_, compression)
        staged: list[tuple[Path, Path]] = []
        folders: list[Path] = []
        rows: dict[str, int] = {}
        size = 0
        try:
            for load in _joined(loads):
                rows[load.table] = load.rows.num_rows
                for path, part in names.divide(load, plan, self._options.prefix, end):
                    stop.check()
                    temporary = self._aside / f"{len(staged)}.part"
                    staged.append((temporary, self._root / path))
                    with directory.create(temporary) as output:
                        formats.write(part, output, format_, compression)
                    size += temporary.stat().st_size
                    folders += self._make_room(load.table, self._root / path)
            written = perf_counter()
            stop.check()
            if place:
                directory.place(self._root, self._connection, self._epoch, staged, folders)
        except FileNotFoundError as error:
            if self._aside.is_dir():
                raise
            raise directory.fenced(self._connection, self._epoch) from error
        finally:
            for temporary, _ in staged:
                temporary.unlink(missing_ok=True)
        return LoadReport(rows, size, {"encode": written - started, "commit": perf_counter() - written})

    def _make_room(self, table: str, target: Path) -> list[Path]:
        try:
            return directory.make_room(target, self._root)
        except OSError as error:
            if error.errno not in _OF_A_TABLE or not os.access(self._root, os.W_OK | os.X_OK):
                raise
            raise TableSetupError(
                f'table "{table}": {error.strerror} ({error.filename}); let this user write there, and remove files that are in the way'
            ) from error


def _joined(loads: Sequence[TableLoad]) -> Sequence[TableLoad]:
    """Returns one load for each table: two of the same table would be given one name."""
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


def translate(error: BaseException, what: str) -> PenstockError:
    """Returns the error of our tree for one of the file system's."""
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return SetupError(f"{what}: {error.strerror or error}{where}; check `path`, its permissions and the space on its disk")
    return unknown(error, f"{what}: {type(error).__name__}: {error}")
