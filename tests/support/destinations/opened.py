"""A subject with its destination open, and loads in one line: patch a table, append, merge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pyarrow as pa

from loader import registry
from loader.contract.warehouse import (
    Capabilities,
    Column,
    Destination,
    Environment,
    LoadPlan,
    Session,
    TableLoad,
    TablePatch,
)
from loader.types.lattice import ARROW
from shared.threads import ThreadGate
from tests.support.counted import Counted
from tests.support.destinations.subject import Row, Shape, Subject


class Open:
    """A subject with its destination open."""

    def __init__(self, subject: Subject, destination: Destination, capabilities: Capabilities, environment: Environment) -> None:
        self.subject = subject
        self.destination = destination
        self.capabilities = capabilities
        self.environment = environment
        self._stack = AsyncExitStack()

    async def session(self, connection: str = "shop-wh", epoch: int = 1, destination: Destination | None = None) -> Session:
        """Opens a session that is closed at the end of the test."""
        session = await (destination or self.destination).open_session(connection, epoch)
        self._stack.push_async_callback(session.close)
        return session

    async def another(self, **options: Any) -> Destination:
        """Opens the same place a second time, as another loader would."""
        document = {**self.subject.document, **options}
        destination = await registry.open_destination("other", document, self.environment)
        self._stack.push_async_callback(destination.close)
        return destination

    async def rows(self, table: str, shape: Shape, order: str = "id") -> list[Row]:
        """Returns the rows of a table, sorted by one column, with the columns of `shape` only."""
        found = await self.subject.rows(table, shape)
        return sorted(({name: row.get(name) for name in shape} for row in found), key=lambda row: str(row[order]).rjust(20))

    async def close(self) -> None:
        """Closes the sessions and destinations opened here."""
        await self._stack.aclose()


@asynccontextmanager
async def opened(subject: Subject) -> AsyncIterator[Open]:
    """Opens a subject's destination."""
    gate = ThreadGate(4, "test")
    environment = Environment(gate, telemetry=Counted())
    try:
        destination = await registry.open_destination("wh", subject.document, environment)
        one = Open(subject, destination, destination.capabilities, environment)
        try:
            yield one
        finally:
            await one.close()
            await destination.close()
    finally:
        environment.scratch.close()
        gate.close()


def columns(shape: Shape) -> tuple[Column, ...]:
    """Returns the columns of a patch that makes a table of this shape."""
    return tuple(Column(name, kind) for name, kind in shape.items())


def arrow(shape: Shape, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as the core would hand them over."""
    listed = list(rows)
    return pa.table({name: pa.array([row.get(name) for row in listed], ARROW[kind]) for name, kind in shape.items()})


def plan(sequence: int, last: int | None = None, connection: str = "shop-wh", lane: str = "live-1") -> LoadPlan:
    """Returns a plan of one or more sequences."""
    return LoadPlan(connection, lane, sequence, sequence if last is None else last)


async def make(session: Session, table: str, shape: Shape, key: Sequence[str] | None = None, cursor: str | None = None) -> None:
    """Makes a table of a shape."""
    await session.patch(TablePatch(table, add=columns(shape), primary_key=None if key is None else tuple(key), cursor=cursor))


async def append(session: Session, sequence: int, table: str, shape: Shape, *rows: Row) -> None:
    """Loads rows by appending."""
    await session.load(plan(sequence), [TableLoad(table, arrow(shape, rows))])


async def merge(
    session: Session, sequence: int, table: str, shape: Shape, *rows: Row, key: Sequence[str] = ("id",), cursor: str | None = None,
    coalesce: bool = False,
) -> None:  # fmt: skip
    """Loads rows by merging."""
    load = TableLoad(table, arrow(shape, rows), "merge", tuple(key), cursor, coalesce)
    await session.load(plan(sequence), [load])
