"""A copy of the database file that anybody may read at any time, published at a period: option `read_copy` of a DuckDB
destination.

The file itself has one user at a time, and while events flow that is the loader. The copy is made while the file is closed, by
replacing the one before it whole, so a reader sees one state or the next; one that has the old copy open keeps it. While it is
made the file is open for reading, which keeps the writers of other processes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from pathlib import Path

from shared.driving.duckdb import describe
from shared.telemetry.counts import Counts
from shared.threads import ThreadGate

log = logging.getLogger(__name__)


class ReadCopy:
    """Publishes copies of one file.

    Args:
        lock: held by the part of this process that has the file open.
        every_seconds: at most one copy in so long; what changed last is copied when that time is over.
        telemetry: counts the copies that could not be written.
    """

    def __init__(
        self, path: Path, target: Path, gate: ThreadGate, lock: asyncio.Lock, every_seconds: float, telemetry: Counts
    ) -> None:
        self._path = path
        self._target = target
        self._gate = gate
        self._lock = lock
        self._every_seconds = every_seconds
        self._telemetry = telemetry
        self._copied_at = float("-inf")
        self._stale = False
        self._later: asyncio.Task[None] | None = None

    async def file_closed(self) -> None:
        """Copies the file, now or when it is time; the caller holds the lock."""
        self._stale = True
        wait = self._copied_at + self._every_seconds - asyncio.get_running_loop().time()
        if wait <= 0:
            await self._copy()
        elif self._later is None or self._later.done():
            self._later = asyncio.create_task(self._copy_later(wait))

    async def close(self) -> None:
        """Copies the new part. The file is closed, and its lock is free."""
        later, self._later = self._later, None
        if later is not None:
            later.cancel()
            await asyncio.wait([later])
        async with self._lock:
            if self._stale:
                await self._copy()

    async def _copy_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with self._lock:
            if self._stale:
                await self._copy()

    async def _copy(self) -> None:
        self._copied_at = asyncio.get_running_loop().time()
        try:
            await self._gate.run(_replace, self._path, self._target)
            self._stale = False
        except Exception as error:  # noqa: BLE001 - the load is done; a copy that fails is tried again with the next one
            self._telemetry.count("destination_retries_total", plugin="duckdb", reason="read_copy")
            log.warning("the read copy could not be written", extra={"path": str(self._target), "error": describe(error)})


def _replace(path: Path, target: Path) -> None:
    import duckdb

    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path), read_only=True):
        try:
            shutil.copyfile(path, fresh)
            os.replace(fresh, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
