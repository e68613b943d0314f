"""Versions of keys as plain Python keeps them, one event after the other: tests compare tables with it. And loads of versions in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from loader.contract.warehouse import Column, Kind, Session, TableLoad, TablePatch
from loader.contract.writes import BEGINNING, CURRENT, VALID_FROM, VALID_TO
from tests.support.destinations.opened import Open, arrow, columns, plan
from tests.support.destinations.subject import Row, Shape

OWN = {VALID_FROM: Kind.TIMESTAMP, VALID_TO: Kind.TIMESTAMP, CURRENT: Kind.BOOLEAN}
OWN_COLUMNS = tuple(Column(name, kind) for name, kind in OWN.items())
NOW = datetime(2026, 6, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


async def keep(session: Session, table: str, shape: Shape, key: Sequence[str] = ("id",)) -> None:
    """Makes a table that keeps versions."""
    patch = TablePatch(table, add=(*columns(shape), *OWN_COLUMNS), primary_key=(*key, VALID_FROM), history=True)
    await session.patch(patch)


def versions(
    table: str, shape: Shape, rows: Iterable[Row], key: Sequence[str] = ("id",), cursor: str | None = "at", deleted: str | None = None,
    at: datetime = NOW,
) -> TableLoad:  # fmt: skip
    """Returns a load of versions."""
    return TableLoad(table=table, rows=arrow(shape, rows), write="history", key=tuple(key), cursor=cursor, deleted=deleted, at=at)


async def bring(session: Session, sequence: int, load: TableLoad) -> None:
    """Loads one as a plan of its own."""
    await session.load(plan(sequence), [load])


async def kept(wh: Open, table: str, shape: Shape, order: Sequence[str] = ("id", VALID_FROM)) -> list[Row]:
    """Returns the rows of a table that keeps versions."""
    found = await wh.subject.rows(table, {**shape, **OWN})
    return sorted(found, key=lambda row: [str(row[name]).rjust(30) for name in order])


@dataclass
class History:
    """The versions of a table, by key; each is its beginning, its end and its values."""

    key: Sequence[str] = ("id",)
    cursor: str | None = "at"
    deleted: str | None = None
    times: bool = True
    """Whether the cursor is a time."""
    chains: dict[tuple[Any, ...], list[tuple[datetime, datetime | None, Row]]] = field(default_factory=dict)

    def load(self, rows: Iterable[Row], at: datetime = NOW) -> None:
        """Takes the rows of a load."""
        by_key: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            by_key.setdefault(tuple(row[name] for name in self.key), []).append(row)
        for key, own in by_key.items():
            chain = self.chains.get(key, [])
            self.chains[key] = _chained(chain, self._events(chain, own, at))

    def rows(self) -> list[Row]:
        """Returns the table."""
        return [
            {**values, VALID_FROM: begins, VALID_TO: ends, CURRENT: ends is None}
            for chain in self.chains.values()
            for begins, ends, values in chain
        ]

    def _events(
        self, chain: list[tuple[datetime, datetime | None, Row]], rows: list[Row], at: datetime
    ) -> dict[datetime, Row | None]:
        newest = chain[-1] if chain else None
        fresh = at
        if newest is not None and (newest[1] or newest[0]) >= at:
            fresh = (newest[1] or newest[0]) + MICROSECOND
        if self.cursor is None:
            row = self._row(rows[-1])
            same = row is not None and newest is not None and newest[1] is None and newest[2] == row
            return {} if same else {fresh: row}
        by_cursor = {row.get(self.cursor): row for row in rows}  # of one cursor the last
        if self.times:
            return {_time(cursor): self._row(row) for cursor, row in by_cursor.items()}
        events: dict[datetime, Row | None] = {}
        place = 0
        for cursor in sorted(by_cursor, key=lambda each: (each is not None, each)):
            row, known = self._row(by_cursor[cursor]), newest[2].get(self.cursor) if newest else None
            late = known is not None and (cursor is None or cursor < known)
            tie = newest is not None and cursor == known
            if late or (tie and newest is not None and newest[1] is not None):
                continue
            begins = newest[0] if newest is not None and tie and row is not None else fresh + place * MICROSECOND
            events[begins] = row
            place += 1
        return events

    def _row(self, row: Row) -> Row | None:
        if self.deleted is not None and row.get(self.deleted) is not None:
            return None
        return row


def _time(cursor: date | None) -> datetime:
    if cursor is None:
        return BEGINNING
    return cursor if isinstance(cursor, datetime) else datetime(cursor.year, cursor.month, cursor.day, tzinfo=UTC)


def _chained(
    chain: list[tuple[datetime, datetime | None, Row]], events: dict[datetime, Row | None]
) -> list[tuple[datetime, datetime | None, Row]]:
    known: dict[datetime, Row | None] = {ends: None for _, ends, _ in chain if ends is not None}
    known |= {begins: values for begins, _, values in chain}
    known |= events
    times = sorted(known)
    found = []
    for begins, ends in zip(times, [*times[1:], None], strict=True):
        values = known[begins]
        if values is not None:
            found.append((begins, ends, values))
    return found


def same(found: Iterable[Row], expected: Iterable[Row]) -> bool:
    """Whether two tables have the same rows."""
    return Counter(frozenset(row.items()) for row in found) == Counter(frozenset(row.items()) for row in expected)
