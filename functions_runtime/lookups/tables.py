"""The tables of a process, each read once however many connections use it, and read again on its period.

    read, build aside, swap      a reader has the table of before or of after, never half of one
    cannot be read again         the table of before stays, `/ready` warns, a metric tells

A table lives while a connection of this process uses it. Until it is read for the first time the events of its connections wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from functions_runtime.lookups.databases import read_database
from functions_runtime.lookups.files import read_file
from functions_runtime.lookups.source import Source
from functions_runtime.rules.joining import Join, Table
from shared.backoff import Backoff
from shared.errors import NotConnected, PenstockError, SetupError
from shared.project.lookups import Lookup, LookupUse
from shared.project.model import Connection
from shared.secrets.reading import reveal
from shared.service import ServiceContext

AGAIN_SECONDS = (1.0, 60.0)
"""First and longest wait after a table could not be read; never longer than its period."""

log = logging.getLogger(__name__)


async def read(source: Source, known: str = "") -> tuple[Table | None, str]:
    """Returns the table of a source, and its version; no table where the version is the known one.

    Raises:
        PenstockError: it cannot be read; the text says why and what to do.
    """
    if not source.place:
        given = await asyncio.to_thread(reveal, {"headers": source.lookup.headers, "s3": source.lookup.s3})
        lookup = _with(source.lookup, given)
        return await read_file(lookup, source.what, known)
    place = await asyncio.to_thread(reveal, source.place)
    return await read_database(source.lookup, place, source.what), ""


def _with(lookup: Lookup, given: Mapping[str, Any]) -> Lookup:
    return msgspec.structs.replace(lookup, headers=given["headers"], s3=given["s3"])


class Uses(Protocol):
    """What of a connection's definition says how it looks events up."""

    @property
    def connection(self) -> Connection:
        """The connection, with its lookups."""
        ...

    @property
    def lookups(self) -> Mapping[str, Source]:
        """The tables that these name."""
        ...


async def joined(wanted: Uses) -> Join | None:
    """Returns what a connection adds to events, its tables read now, for trials; None where it adds nothing.

    Raises:
        PenstockError: a table cannot be read.
    """
    if not wanted.lookups:
        return None
    tables = {name: (await read(source))[0] for name, source in wanted.lookups.items()}
    keys = {name: source.lookup.key for name, source in wanted.lookups.items()}
    return Join(wanted.connection.lookups, {name: table for name, table in tables.items() if table is not None}, keys)


class _Kept:
    """One table, as long as connections use it."""

    def __init__(self, context: ServiceContext, source: Source) -> None:
        self.source = source
        self.table: Table | None = None
        self.error: PenstockError | None = None
        self.users: set[str] = set()
        self.tried = asyncio.Event()
        self._context = context
        self._read_at = ""
        self._version = ""
        self.task = asyncio.create_task(self._keep(), name=f"lookup-{source.name}")

    async def _keep(self) -> None:
        every = float(self.source.lookup.every)
        backoff = Backoff(AGAIN_SECONDS[0], min(every, AGAIN_SECONDS[1]))
        while True:
            if await self._read():
                backoff.reset()
                pause = every
            else:
                pause = backoff.next()
            self.tried.set()
            await asyncio.sleep(pause)

    async def _read(self) -> bool:
        name, telemetry, health, part = self.source.name, self._context.telemetry, self._context.health, self._part
        try:
            table, self._version = await read(self.source, self._version if self.table is not None else "")
        except Exception as exc:  # noqa: BLE001  # a driver's own error too leaves the table of before in force
            self.error = exc if isinstance(exc, PenstockError) else SetupError(f"{self.source.what}: {type(exc).__name__}: {exc}")
            telemetry.count("functions_lookup_loads_total", table=name, result="failed")
            telemetry.gauge("functions_lookup_failing", 1, table=name)
            if self.table is not None:
                rows = len(self.table.rows)
                health.warn(part, f"{self.error}; the table read at {self._read_at} ({rows} rows) stays in force")
            log.warning(
                "a lookup cannot be read", extra={"table": name, "error": str(self.error), "kept": self.table is not None}
            )
            return False
        if table is not None:
            self.table = table
            telemetry.gauge("functions_lookup_rows", len(table.rows), table=name)
            telemetry.gauge("functions_lookup_bytes", table.bytes, table=name)
            log.info(
                "lookup read",
                extra={"table": name, "rows": len(table.rows), "repeated": table.repeated, "without_key": table.without_key},
            )
        self._read_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.error = None
        telemetry.count("functions_lookup_loads_total", table=name, result="read" if table is not None else "unchanged")
        telemetry.gauge("functions_lookup_failing", 0, table=name)
        telemetry.gauge("functions_lookup_read_seconds", time.time(), table=name)
        health.good(part)
        return True

    @property
    def _part(self) -> str:
        return f"lookup {self.source.name}"

    def end(self) -> None:
        """Reads no more, and shows no more: a process that left a failing table would hold its alert."""
        self.task.cancel()
        self.tried.set()  # a waiting connection asks again
        self._context.health.good(self._part)
        self._context.telemetry.forget(
            "functions_lookup_failing",
            "functions_lookup_rows",
            "functions_lookup_bytes",
            "functions_lookup_read_seconds",
            table=self.source.name,
        )


class Tables:
    """The tables that the connections of a process use."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._kept: dict[str, _Kept] = {}
        self._joins: dict[str, tuple[Sequence[LookupUse], list[Table], Join]] = {}

    async def join(self, connection: str, wanted: Uses) -> Join:
        """Returns what a connection adds to events now.

        Args:
            wanted: its definition.

        Raises:
            PenstockError: a table was never read; the events wait. Or it lacks a column that the connection adds.
        """
        uses, sources = wanted.connection.lookups, wanted.lookups
        for name in [name for name, kept in self._kept.items() if connection in kept.users and name not in sources]:
            self._leave(connection, name)
        tables: dict[str, Table] = {}
        for name, source in sources.items():
            kept = self._kept.get(name)
            if kept is None or kept.source != source:
                before = self._kept.pop(name, None)
                if before is not None:
                    before.end()
                kept = self._kept[name] = _Kept(self._context, source)
            kept.users.add(connection)
            await kept.tried.wait()
            if kept.table is None:
                raise kept.error or NotConnected(f"{source.what} is not read yet")
            tables[name] = kept.table
        known = self._joins.get(connection)
        now = list(tables.values())
        if known is None or known[0] is not uses or list(map(id, known[1])) != list(map(id, now)):
            keys = {name: source.lookup.key for name, source in sources.items()}
            known = self._joins[connection] = (uses, now, Join(uses, tables, keys))
        return known[2]

    def count(self, connection: str, join: Join) -> None:
        """Counts the events of a frame whose keys had no row."""
        for name, amount in join.missed.items():
            self._context.telemetry.count("functions_lookup_missed_total", amount, connection=connection, table=name)
        join.missed.clear()

    def leave(self, connection: str) -> None:
        """Forgets the tables that only this connection used."""
        self._joins.pop(connection, None)
        for name in [name for name, kept in self._kept.items() if connection in kept.users]:
            self._leave(connection, name)

    def _leave(self, connection: str, name: str) -> None:
        kept = self._kept[name]
        kept.users.discard(connection)
        if not kept.users:
            kept.end()
            del self._kept[name]

    async def close(self) -> None:
        """Ends all reading."""
        tasks = [kept.task for kept in self._kept.values()]
        for kept in self._kept.values():
            kept.end()
        self._kept.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
