"""The database file: opened for a piece of work, closed soon after, so that other programs can read it.

DuckDB lets one process write, or many read, never both. Opening costs 15 ms, closing 10 ms and more (it moves the log into the
file); a stream of small loads would do nothing else. So the file stays open for `linger` after each piece of work, and, where
work never pauses, is closed every `share_every` for at least `SHARE_SECONDS`, in which a reader that keeps trying gets in.

It is attached to an empty database in memory, because only ATTACH takes the size of row groups: DuckDB compresses a row group as
a whole, and its own 122,880 rows of 30 text columns are 500 MB on the way to the disk. A quarter of that needs half the memory
and, written in loads of 20,000 rows, a third less CPU time; readers do not notice.

All work on one path within a process is serial (`Environment.locks`); against other processes DuckDB's own lock on the file
counts, and is waited for. Commit means durable: DuckDB syncs its log before it returns. A file that was removed or replaced while
it was open is written all the same, where no reader looks; so the loader looks for it, and what was done counts as not done.

What does not fit into `memory_limit` goes to the scratch space of the process (`shared/scratch.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, field

from loader.contract.warehouse import Environment
from loader.sql.steps import Ask, Commit, Moment, Rollback, Run, Step, Steps
from loader.warehouses.duckdb.bulk import ROWS, Scan
from loader.warehouses.duckdb.dialect import DIALECT
from loader.warehouses.duckdb.errors import translate
from loader.warehouses.duckdb.read_copy import ReadCopy
from shared.driving.duckdb import is_locked
from shared.driving.steps import drive
from shared.errors import NotConnected, RowsRejected
from shared.reading.units import ByteSize, Duration
from shared.threads import Stop

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

SETTINGS = "SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false"
ROW_GROUP_ROWS = 30 * 1024
CATALOG = "_penstock"
"""What the file is called while it is open; its own name might be that of a schema in it, which DuckDB finds ambiguous."""

SHARE_SECONDS = 0.1
RETRY_SECONDS = 0.02
MAX_RETRY_SECONDS = 0.25


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a DuckDB destination."""

    path: Annotated[str, Meta(min_length=1, description="the database file; made when missing, with its directory")]
    schema: Annotated[str, Meta(min_length=1, description="schema of the tables; made when missing")] = "main"
    memory_limit: Annotated[
        ByteSize | None, Meta(description="memory DuckDB may use; default: its own, four fifths of the machine's")
    ] = None
    threads: Annotated[
        int, Meta(ge=1, le=64, description="DuckDB's own threads; loading gains nothing from more than one or two")
    ] = 1
    linger: Annotated[
        Duration,
        Meta(description="how long the file stays open for a next load; 0 closes it after each, for the sake of readers"),
    ] = field(default_factory=lambda: Duration(0.2))
    share_every: Annotated[
        Duration, Meta(description="where loads never pause: how often the file is closed for a moment, so that readers get in")
    ] = field(default_factory=lambda: Duration(5))
    lock_timeout: Annotated[Duration, Meta(description="how long a load waits for other processes to close the file")] = field(
        default_factory=lambda: Duration(10)
    )

    read_copy: Annotated[
        str | None,
        Meta(description="path of a copy of the file that any program can read while events are loaded; default: none is made"),
    ] = None
    read_copy_every: Annotated[
        Duration, Meta(description="how often the copy is replaced; each time the whole file is copied")
    ] = field(default_factory=lambda: Duration(60))

    def __post_init__(self) -> None:
        if self.path.startswith((":memory:", "md:", "motherduck:")) or "://" in self.path:
            raise ValueError(f"path {self.path!r} is not a local file, which is what this destination writes")
        if self.read_copy is not None and Path(self.read_copy).resolve() == Path(self.path).resolve():
            raise ValueError("read_copy must be another file than path")


class DatabaseFile:
    """One file, as one destination uses it.

    `path` is that of the options, resolved.
    """

    def __init__(self, path: Path, options: Options, environment: Environment) -> None:
        self._path = path
        self._options = options
        self._gate = environment.gate
        self._lock = environment.locks.of(f"duckdb:{path}")
        self._telemetry = environment.telemetry
        self._scratch = environment.scratch
        self._settings = f"{SETTINGS}; SET threads = {options.threads}"
        if options.memory_limit is not None:
            self._settings += f"; SET memory_limit = {DIALECT.literal(f'{options.memory_limit}B')}"
        self._link: duckdb.DuckDBPyConnection | None = None
        self._identity: tuple[int, int] | None = None
        self._opened_at = 0.0
        self._used_at = 0.0
        self._shared_at = float("-inf")
        self._closer: asyncio.Task[None] | None = None
        self._read_copy: ReadCopy | None = None
        if options.read_copy is not None:
            target, every = Path(options.read_copy).resolve(), options.read_copy_every
            self._read_copy = ReadCopy(
                path=path, target=target, gate=self._gate, lock=self._lock, every_seconds=every, telemetry=environment.telemetry
            )

    async def run(self, what: str, steps: Steps[T]) -> T:
        """Does a piece of work with the file open, and translates what it raises.

        Raises:
            the errors of our tree; `Transient` where another process holds the file for longer than the wait.
        """
        async with self._lock:
            try:
                link = self._link or await self._open(what)
                stop = Stop()

                def interrupt() -> None:
                    stop.set()
                    link.interrupt()

                def guarded() -> T:
                    self._require_same_file(what)
                    try:
                        result = drive(steps, lambda step: _perform(link, stop, step))
                    finally:
                        with suppress(Exception):  # of a link that is broken and was closed for that
                            link.unregister(ROWS)
                    self._require_same_file(what)
                    return result

                result = await self._gate.run_interruptible(interrupt, guarded)
            except RowsRejected:
                self._used_at = asyncio.get_running_loop().time()
                await self._after()
                raise
            except BaseException as error:
                # an open transaction, or a database that declared itself broken, ends with its link
                await self._shut()
                if isinstance(error, Exception):
                    raise translate(error, what) from error
                raise
            await self._after()
            return result

    async def close(self) -> None:
        """Closes the file."""
        closer, self._closer = self._closer, None
        if closer is not None:
            closer.cancel()
            await asyncio.wait([closer])
        async with self._lock:
            await self._shut()
        if self._read_copy is not None:
            await self._read_copy.close()

    async def _open(self, what: str) -> duckdb.DuckDBPyConnection:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._shared_at + SHARE_SECONDS - loop.time()))
        deadline = loop.time() + self._options.lock_timeout
        delay = RETRY_SECONDS
        while True:
            try:
                link = await self._gate.run(self._connect)
            except Exception as error:
                if not is_locked(error) or loop.time() > deadline:
                    raise translate(error, what) from error
                self._telemetry.count("destination_retries_total", plugin="duckdb", reason="locked")
            else:
                self._opened_at = loop.time()
                return link
            # a lock on a file cannot be waited for: DuckDB asks for it without waiting
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_RETRY_SECONDS)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        self._path.parent.mkdir(parents=True, exist_ok=True)
        # one for the file: two destinations with one file share the database. Else it would be `.tmp` wherever the loader runs
        spill = self._scratch.folder(f"duckdb-{hashlib.sha256(str(self._path).encode()).hexdigest()[:12]}")
        # named, so that two destinations of this process with one file share the open database, as a path alone would
        config: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": str(spill),
            "max_temp_directory_size": f"{self._scratch.most_bytes}B",
        }
        link = duckdb.connect(f":memory:{self._path}", config=config)
        try:
            link.execute(self._settings)
            link.execute(
                f"ATTACH IF NOT EXISTS {DIALECT.literal(str(self._path))} AS {CATALOG} (TYPE duckdb, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
            )
            link.execute(f"USE {CATALOG}")
        except BaseException:
            link.close()
            raise
        self._identity = self._identify()
        self._link = link  # here, where no cancellation can come between: it must be closed
        return link

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _require_same_file(self, what: str) -> None:
        if self._identify() != self._identity:
            raise NotConnected(
                f"{what}: {self._path} was removed or replaced while it was open; the load begins again in the new file"
            )

    async def _after(self) -> None:
        """Closes now, or leaves it to the closer."""
        now = self._used_at = asyncio.get_running_loop().time()
        if self._options.linger <= 0 or now - self._opened_at >= self._options.share_every:
            await self._shut()
            if self._options.linger > 0:
                self._shared_at = asyncio.get_running_loop().time()
        elif self._closer is None or self._closer.done():
            self._closer = asyncio.create_task(self._close_when_idle())

    async def _close_when_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while self._link is not None:
            idle = loop.time() - self._used_at
            if idle < self._options.linger:
                await asyncio.sleep(self._options.linger - idle)
                continue
            async with self._lock:
                if loop.time() - self._used_at >= self._options.linger:
                    await self._shut()

    async def _shut(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await self._gate.run(_close, link)
            if self._read_copy is not None:
                await self._read_copy.file_closed()


def _perform(link: duckdb.DuckDBPyConnection, stop: Stop, step: Step) -> Any:
    """Does one step; none, and so no COMMIT, once the end of the work was asked for."""
    stop.check()
    if isinstance(step, Ask):
        return link.execute(step.sql, list(step.values)).fetchall()
    if isinstance(step, Run):
        link.execute(step.sql)
    elif isinstance(step, Scan):
        link.register(ROWS, step.rows)
    elif isinstance(step, Moment):
        return perf_counter()
    elif isinstance(step, Rollback):
        with suppress(Exception):  # none is open, or it ended with the error whose words this one would hide
            link.execute("ROLLBACK")
    else:
        assert isinstance(step, Commit)  # noqa: S101 - there are no others
        link.execute("COMMIT")
    return None


def _close(link: duckdb.DuckDBPyConnection) -> None:
    # closing moves the log into the file; where that fails the log stays beside it and the next opening reads it
    with suppress(Exception):
        link.close()
