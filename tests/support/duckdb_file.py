"""A DuckDB file for the eyes of a test. One holder at a time may have it open for writing, so a test waits until the others have closed it."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import duckdb

PATIENCE_SECONDS = 60.0
COLLECT_SECONDS = 5.0
_LOOK_SECONDS = 0.02


def opened(path: Path | str, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """Opens the file as soon as no other process has it; the calling thread sleeps meanwhile.

    Raises:
        duckdb.Error: it was held for `PATIENCE_SECONDS`, or cannot be opened.
    """
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while (link := _attempt(path, read_only, ends_at)) is None:
        time.sleep(_LOOK_SECONDS)
    return link


async def opened_here(path: Path | str) -> duckdb.DuckDBPyConnection:
    """Opens the file as soon as tasks and threads of this process have closed it too.

    Raises:
        duckdb.Error: it was held for `PATIENCE_SECONDS`, or cannot be opened.
    """
    begun_at = time.monotonic()
    while (link := _attempt(path, False, begun_at + PATIENCE_SECONDS)) is None:
        await asyncio.sleep(_LOOK_SECONDS)
        if time.monotonic() > begun_at + COLLECT_SECONDS:
            gc.collect()  # what a killed part of this process held closes its file when it is collected, and an idle process collects nothing
            await asyncio.sleep(1)
    return link


def _attempt(path: Path | str, read_only: bool, ends_at: float) -> duckdb.DuckDBPyConnection | None:
    try:
        return duckdb.connect(str(path), read_only=read_only)
    # the first is raised for a file of another process, the others for one that this process has open in another way
    except (duckdb.IOException, duckdb.ConnectionException, duckdb.BinderException):
        if time.monotonic() > ends_at:
            raise
        return None
