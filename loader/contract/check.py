"""The trial of `penstock check`, the same for all destinations: reach, create, write, read, replace if the destination can, drop,
on a test table.

It goes through a session, as loads do, so a step that passes here works there. If a step fails, the rest is left out and the test
table is dropped.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from loader.contract.warehouse import (
    CheckResult,
    Column,
    Destination,
    Kind,
    LoadPlan,
    Part,
    Session,
    TableLoad,
    TablePatch,
)
from shared.errors import PenstockError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

ROWS = 3


async def check_destination(
    destination: Destination, count: Callable[[str], Awaitable[int]], drop: Callable[[str, str], Awaitable[None]]
) -> Sequence[CheckResult]:
    """Tries every step.

    Args:
        destination: the destination to try.
        count: returns the rows of a table.
        drop: drops a table if it exists, and the ledger's rows of a connection.
    """
    # unique names, so that two checks at once, or a check beside loaders, do not meet
    name = f"penstock_check_{secrets.token_hex(4)}"
    trial = _Trial(name)
    session = await trial.step("reach", lambda: destination.open_session(name, 1))
    if session is not None:
        try:
            await trial.step("create", lambda: _create(session, name))
            await trial.step("write", lambda: _write(session, name))
            await trial.step("read", lambda: _read(count, name))
            if destination.capabilities.replace:
                await trial.step("replace", lambda: _replace(session, count, name))
        finally:
            await session.close()
        failed = trial.failed
        trial.failed = False
        await trial.step("drop", lambda: drop(name, name))
        trial.failed = trial.failed or failed
    return trial.results


class _Trial:
    """The steps so far; after a failed step no other is tried."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.results: list[CheckResult] = []
        self.failed = False

    async def step(self, step: str, call: Callable[[], Awaitable[T]]) -> T | None:
        if self.failed:
            return None
        try:
            result = await call()
        except PenstockError as error:
            self.failed = True
            self.results.append(CheckResult(step, ok=False, message=str(error)))
            return None
        self.results.append(CheckResult(step, ok=True))
        return result


async def _create(session: Session, table: str) -> None:
    await session.patch(TablePatch(table, add=(Column("id", Kind.TEXT), Column("at", Kind.TIMESTAMP))))


async def _write(session: Session, table: str) -> None:
    await session.load(LoadPlan(table, "check", 1, ROWS), [TableLoad(table, rows_of_check())])


async def _replace(session: Session, count: Callable[[str], Awaitable[int]], table: str) -> None:
    try:
        load = TableLoad(table, rows_of_check(), "replace", part=Part(run=1, ends=True))
        await session.load(LoadPlan(table, "check", ROWS + 1, 2 * ROWS), [load])
    except PenstockError:
        with contextlib.suppress(PenstockError):  # the first error says more
            await session.abandon(table)
        raise
    await _read(count, table)


def rows_of_check() -> pa.Table:
    """Returns the rows of a check: `id`, a text, and `at`, a time."""
    import pyarrow as pa

    at = pa.array([0] * ROWS, pa.timestamp("us", "UTC"))
    return pa.table({"id": [str(number) for number in range(ROWS)], "at": at})


async def _read(count: Callable[[str], Awaitable[int]], table: str) -> None:
    found = await count(table)
    if found != ROWS:
        raise PenstockError(f"wrote {ROWS} rows and read {found}")
