"""The log of changes, followed: messages become blocks of rows, and states behind whole transactions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from connector_runner.contract import Checkpoint, Emptied, Message, Rows, Said
from connector_runner.sources.postgres import OPTIONS
from connector_runner.sources.postgres.catalogue import TYPES
from connector_runner.sources.postgres.changes.decode import Begin, Change, Commit, Relation, Truncate, Values, decode
from connector_runner.sources.postgres.changes.rows import Block, Shape
from connector_runner.sources.postgres.changes.slots import key_list
from connector_runner.sources.postgres.changes.state import TableState
from connector_runner.sources.postgres.changes.wire import Wire
from connector_runner.sources.postgres.columns import Notes
from connector_runner.sources.postgres.links import quoted
from connector_runner.sources.postgres.types import Column
from shared.tasks import timeout

if TYPE_CHECKING:
    import asyncpg

    from connector_runner.sources.postgres.changes.followed import Followed

MOST_ROWS, MOST_BYTES = 10_000, 4 << 20
"""Rows, and bytes of values, that are given on at the latest."""
LINGER_SECONDS = 0.1
"""How long rows wait for more."""
IDLE_SECONDS = 10.0
"""How often a state is given without rows, so that the server can forget what is of no concern to us."""
KEYS_AT_ONCE = 500
LOOK_SECONDS = 10.0
"""How often a read looks how far it is behind."""


class Log:
    """The changes of followed tables, from a position on.

    Args:
        tables: their states, by number.
        lsn: the position.
        signals: the number of the table in which a person asks for a copy.
    """

    def __init__(
        self,
        *,
        what: str,
        options: OPTIONS,
        driver: asyncpg.Connection,
        followed: Mapping[int, Followed],
        tables: Mapping[int, TableState],
        lsn: int,
        signals: int | None,
    ) -> None:
        self.followed = followed
        self.tables = dict(tables)
        self.lsn = lsn
        """All that was committed before is in blocks, or given on."""
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
        self._given_lsn: dict[int, int] = {}
        """Of tables whose rows were given on in the middle of a transaction: its position."""
        self._commit_lsn = 0
        self._moment = 0
        self._open = False
        """Whether a transaction is in the middle."""
        self._given = self._all_given = time.monotonic()
        self._states = dict(tables)
        """The newest that were given on."""
        self._looked = 0.0
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
                    self._commit_lsn, self._moment, self._open = message.lsn, message.committed_at, True
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
                    for each in await self._truncate(message):
                        yield each
            if not self._open and not self._left:
                self.lsn = max(self.lsn, reached)
            now = time.monotonic()
            self.over = not self._open and not self._left and self.lsn >= self.target and now >= self.ends
            if self.over or self.asked or self._due(now):
                for each in await self._flush():
                    yield each
            if not self.over and not self.asked:
                await self._wait(wire, now)

    def copied(self, oid: int, state: TableState) -> Checkpoint:
        """Takes the state of a table whose rows were copied, and returns it as it is given on."""
        self.tables[oid] = self._states[oid] = state
        return Checkpoint(self.followed[oid].name, state.encoded())

    def looks(self) -> bool:
        """Whether it is time to look how far we are behind."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return True

    def seconds_behind(self, written: int) -> float:
        """Returns the age of the last change, if the server has written more of its log; its clock and ours may differ."""
        if self.lsn >= written or not self._moment:
            return 0.0
        return max(0.0, time.time() - self._moment / 1_000_000)

    def _due(self, now: float) -> bool:
        """Whether rows, or a state, have waited long enough."""
        return now - self._given >= (LINGER_SECONDS if self._rows else IDLE_SECONDS)

    async def _wait(self, wire: Wire, now: float) -> None:
        """Waits for news, up to the moment when there is something to do without."""
        until = self._given + (LINGER_SECONDS if self._rows else IDLE_SECONDS)
        if self.lsn >= self.target:
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
        if shape is None or not self._is_new(change.oid):
            return
        block = self._blocks.get(change.oid)
        if block is None:
            block = self._blocks[change.oid] = Block(shape)
        before = len(block)
        self._bytes += block.add(change, self._commit_lsn, self._moment)
        self._rows += len(block) - before

    def _is_new(self, oid: int) -> bool:
        """Whether a change of a table in this transaction is to be given on: it is selected, and had fewer changes before."""
        state = self.tables.get(oid)
        return state is not None and self._commit_lsn >= state.lsn

    def _commit(self, end: int) -> bool:
        """Takes the end of a transaction; returns whether a copy was asked for in it."""
        self._open = False
        self.lsn = max(self.lsn, end)
        for oid in self._signalled:
            self.tables[oid] = msgspec.structs.replace(self.tables[oid], lsn=end, since=end, done=False, values=())
            self.asked = True
        self._signalled.clear()
        return self.asked

    def _signal(self, row: Values) -> None:
        """Notes that a person asks for a copy: the first text of the row that is the name of a stream."""
        names = {value.decode() for value in row if value is not None}
        self._signalled.update(oid for oid, each in self.followed.items() if str(each.name) in names and self._is_new(oid))

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
            found += [Said("info", f'{followed.name}: column "{name}" {what}') for name in sorted(names)]
        if former is not None and _names(columns) - _names(known):
            words = (
                "rows that are not written again have no value there (a DEFAULT, another name); forget its state to copy it again"
            )
            found.append(Said("warn", f"{followed.name}: {words}: `penstock sync reset SYNC --stream {followed.name}`"))
        self._shapes[message.oid] = Shape(
            columns,
            key=followed.key,
            tells=followed.tells,
            wanted=followed.wanted,
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

    async def _truncate(self, message: Truncate) -> list[Message]:
        """Takes that tables lost all rows: those of this transaction that are held, and all before it, which are given on first."""
        lost = [oid for oid in message.oids if self._is_new(oid)]
        for oid in lost:
            if self._given_lsn.get(oid) == self._commit_lsn:  # rows of this transaction, which no position tells from later ones
                self._signalled.add(oid)
            if (block := self._blocks.get(oid)) is not None:
                block.forget(self._commit_lsn)
                if not block:
                    del self._blocks[oid]
        found = await self._flush()
        for oid in lost:
            name = self.followed[oid].name
            what = "it was truncated; its rows go or are marked in the destination, and stay where they are appended"
            found += [Said("warn", f"{name}: {what}"), Emptied(name, self._commit_lsn, self._moment)]
        return found

    async def _flush(self) -> list[Message]:
        """Returns the rows that are held, and states behind the last transaction that is whole: of the tables that have rows; of all from
        time to time, and at the end."""
        found: list[Message] = []
        for oid, block in self._blocks.items():
            name = self.followed[oid].name
            if block.unfinished:
                await self._fill(block)
            found.append(Rows(name, block.table(self._notes), self._moment // 1000))
            found += [Said("warn", line) for line in self._notes.lines(str(name))]
        if self._open:
            self._given_lsn |= dict.fromkeys(self._blocks, self._commit_lsn)
        told = list(self._blocks)
        self._blocks = {}
        self._rows = self._bytes = 0
        self._given = time.monotonic()
        if self.over or self.asked or self._given - self._all_given >= IDLE_SECONDS:
            self._all_given, told = self._given, list(self.tables)
        for oid in told:
            state = self.tables[oid] = self.tables[oid].at(self.lsn)
            if state != self._states[oid]:
                self._states[oid] = state
                found.append(Checkpoint(self.followed[oid].name, state.encoded()))
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
