"""The log of changes, followed: messages become blocks of rows, and states behind whole transactions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from connector_runner.contract import Checkpoint, Message, Rows, Said
from connector_runner.sources.postgres import OPTIONS
from connector_runner.sources.postgres.catalogue import TYPES
from connector_runner.sources.postgres.changes.decode import Begin, Change, Commit, Relation, Truncate, Values, decode
from connector_runner.sources.postgres.changes.rows import Block, Shape
from connector_runner.sources.postgres.changes.slots import key_list
from connector_runner.sources.postgres.changes.state import Copied, Position
from connector_runner.sources.postgres.changes.wire import Wire
from connector_runner.sources.postgres.columns import Notes
from connector_runner.sources.postgres.links import quoted
from connector_runner.sources.postgres.types import Column
from shared.tasks import timeout

if TYPE_CHECKING:
    import asyncpg

    from connector_runner.sources.postgres.changes.capture import Followed

MOST_ROWS, MOST_BYTES = 10_000, 4 << 20
"""Rows, and bytes of values, that are given on at the latest."""
LINGER_SECONDS = 0.1
"""How long rows wait for more."""
IDLE_SECONDS = 10.0
"""How often a state is given without rows, so that the server can forget what is of no concern to us."""
KEYS_AT_ONCE = 500


class Log:
    """The changes of followed tables, from a position on.

    Args:
        signals: the number of the table in which a person asks for a copy.
    """

    def __init__(
        self,
        *,
        what: str,
        options: OPTIONS,
        driver: asyncpg.Connection,
        followed: Mapping[int, Followed],
        position: Position,
        signals: int | None,
    ) -> None:
        self.followed = followed
        self.position = position
        self.target = 0
        """A read is over when it has come so far."""
        self.ends = 0.0
        """And not before this time, of the monotonic clock."""
        self.over = False
        self.asked = False
        """Whether tables are to be copied before the log is read on."""
        self._what = what
        self._options = options
        self._driver = driver
        self._signals = signals
        self._types: dict[int, Type] = {}
        self._shapes: dict[int, Shape] = {}
        self._blocks: dict[int, Block] = {}
        self._notes = Notes()
        self._rows = 0
        self._bytes = 0
        self._signalled = set[int]()
        self._lsn = 0
        self._moment = 0
        self._open = False
        """Whether a transaction is in the middle."""
        self._given = time.monotonic()
        self._told = position.lsn
        self._left: list[bytes] = []
        """Messages behind a signal, which wait for the copy."""

    async def messages(self, wire: Wire) -> AsyncGenerator[Message, None]:
        """Yields rows and states until the log is read far enough, or a copy is asked for."""
        while not self.over and not self.asked:
            reached, came = wire.reached, [*self._left, *wire.take()]
            self._left = []
            for number, data in enumerate(came):
                message = decode(data)
                if isinstance(message, Change):
                    self._change(message)
                    if self._rows >= MOST_ROWS or self._bytes >= MOST_BYTES:
                        for each in await self._flush():
                            yield each
                elif isinstance(message, Begin):
                    self._lsn, self._moment, self._open = message.lsn, message.committed_at, True
                elif isinstance(message, Commit):
                    if self._commit(message.end):
                        self._left = came[number + 1 :]
                        break
                    if self._due(time.monotonic()):
                        for each in await self._flush():
                            yield each
                elif isinstance(message, Relation):
                    for each in await self._relation(message):
                        yield each
                elif isinstance(message, Truncate):
                    for each in self._truncate(message):
                        yield each
            if not self._open and not self._left:
                self.position = self.position.at(reached)
            now = time.monotonic()
            self.over = not self._open and not self._left and self.position.lsn >= self.target and now >= self.ends
            if self.over or self.asked or self._due(now):
                for each in await self._flush():
                    yield each
            if not self.over and not self.asked:
                await self._wait(wire, now)

    def _due(self, now: float) -> bool:
        """Whether rows, or a state, have waited long enough."""
        return now - self._given >= (LINGER_SECONDS if self._rows else IDLE_SECONDS)

    async def _wait(self, wire: Wire, now: float) -> None:
        """Waits for news, up to the moment when there is something to do without."""
        until = self._given + (LINGER_SECONDS if self._rows else IDLE_SECONDS)
        if self.position.lsn >= self.target:
            until = min(until, max(self.ends, now))
        try:
            async with timeout(max(0.001, until - now)):
                await wire.wait()
        except TimeoutError:
            return

    def _change(self, change: Change) -> None:
        if change.oid == self._signals and change.new is not None and change.old is None:
            self._signal(change.new)
        shape = self._shapes.get(change.oid)
        if shape is None or change.oid not in self.followed:
            return  # of a table that is published and not selected
        block = self._blocks.get(change.oid)
        if block is None:
            block = self._blocks[change.oid] = Block(shape)
        before = len(block)
        self._bytes += block.add(change, self._lsn, self._moment)
        self._rows += len(block) - before

    def _commit(self, end: int) -> bool:
        """Takes the end of a transaction; returns whether a copy was asked for in it."""
        self._open = False
        self.position = self.position.at(end)
        for oid in self._signalled:
            table = self.followed[oid].table
            self.position = self.position.with_table(Copied(schema=table.schema, name=table.name, oid=oid, since=end))
            self.asked = True
        self._signalled.clear()
        return self.asked

    def _signal(self, row: Values) -> None:
        """Notes that a person asks for a copy: the first text of the row that is the name of a stream."""
        names = {value.decode() for value in row if value is not None}
        self._signalled.update(oid for oid, each in self.followed.items() if str(each.selected.stream.known_as) in names)

    async def _relation(self, message: Relation) -> list[Message]:
        """Takes a table as it is from here on."""
        followed = self.followed.get(message.oid)
        if followed is None:
            return []
        found = await self._flush() if message.oid in self._blocks else []
        former = self._shapes.get(message.oid)
        known = former.columns if former is not None else [each for each in followed.table.columns if not each.generated]
        columns = await self._columns(message)
        for names, what in ((_names(columns) - _names(known), "is new"), (_names(known) - _names(columns), "is gone")):
            found += [Said("info", f'{followed.selected.stream.known_as}: column "{name}" {what}') for name in sorted(names)]
        self._shapes[message.oid] = Shape(
            columns,
            followed.key,
            followed.wanted,
            place=f"{quoted(message.schema)}.{quoted(message.name)}",
            before=self._options.before_image,
        )
        return found

    async def _columns(self, message: Relation) -> list[Column]:
        missing = {type_ for _, type_, _ in message.columns} - set(self._types)
        for row in await self._driver.fetch(TYPES, list(missing)) if missing else ():
            self._types[row["oid"]] = Type(row["type"], row["element"], -1 if row["plain"] else row["modifier"], row["declared"])
        columns = []
        for name, oid, modifier in message.columns:
            type_ = self._types.get(oid, _UNKNOWN)
            modifier = type_.modifier if type_.modifier >= 0 else modifier
            columns.append(Column(name, type_.name, type_.element, modifier=modifier, required=False, declared=type_.declared))
        return columns

    def _truncate(self, message: Truncate) -> list[Message]:
        found: list[Message] = []
        for oid in message.oids:
            copied = self.position.table(oid)
            if copied is not None and oid in self.followed:
                self.position = self.position.with_table(msgspec.structs.replace(copied, truncated=True))
                name = self.followed[oid].selected.stream.known_as
                found.append(
                    Said("error", f"{name}: it was truncated; its former rows stay in the destination until it is loaded anew")
                )
        return found

    async def _flush(self) -> list[Message]:
        """Returns the rows that are held, and the state behind the last transaction that is whole."""
        found: list[Message] = []
        for oid, block in self._blocks.items():
            name = self.followed[oid].selected.stream.known_as
            if block.unfinished:
                await self._fill(block)
            found.append(Rows(name, block.table(self._notes), self._moment // 1000))
            found += [Said("warn", line) for line in self._notes.lines(str(name))]
        self._blocks = {}
        self._rows = self._bytes = 0
        self._given = time.monotonic()
        if self.position.lsn > self._told:
            self._told = self.position.lsn
            found.append(Checkpoint(None, self.position.encoded()))
        return found

    async def _fill(self, block: Block) -> None:
        """Asks the table for large values that the log does not repeat. A later change of them comes with the log."""
        import asyncpg

        shape = block.shape
        columns, rows = block.missing()
        if not shape.key:
            return
        names = [shape.columns[index].name for index in shape.key]
        given = sorted(columns)
        texts = ", ".join(_spelled(shape.columns[index].name) for index in given)
        keys = list(rows)
        for first in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[first : first + KEYS_AT_ONCE]
            query = (
                f"SELECT ARRAY[{', '.join(map(_spelled, names))}] AS key, ARRAY[{texts}] AS values "  # noqa: S608 - quoted
                f"FROM {shape.place} WHERE {key_list(names, some)}"
            )
            try:
                answers = await self._driver.fetch(query)
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
                return  # dropped since: nobody can tell them
            for answer in answers:
                key = tuple(text.encode() for text in answer["key"])
                block.fill(given, rows.get(key, ()), [None if text is None else text.encode() for text in answer["values"]])


class Type(NamedTuple):
    """A type of the log: its name, that of its elements, its modifier if a domain sets it, and how people write it."""

    name: str
    element: str
    modifier: int
    declared: str


_UNKNOWN = Type("text", "", -1, "unknown")


def _names(columns: Sequence[Column]) -> set[str]:
    return {each.name for each in columns}


def _spelled(name: str) -> str:
    """Returns the expression of a value as the log spells it, which a cast to text does not for every type."""
    return f"CASE WHEN {quoted(name)} IS NULL THEN NULL ELSE format('%s', {quoted(name)}) END"
