"""Reads changes: copies the tables that are not copied yet, then follows the log from the position that the copies stand for.

A copy is read after its position, so it may hold rows that are newer; the log behind the position tells of each of them again, and
a later row wins. So a copy can be cut off and go on in another transaction, and there is no gap between it and the log.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa

from connector_runner.contract import Checkpoint, Ended, Estimate, Level, Message, Rows, Said, Selected, StreamName
from connector_runner.sources.postgres import OPTIONS
from connector_runner.sources.postgres.catalogue import Table, schema_of
from connector_runner.sources.postgres.changes import slots
from connector_runner.sources.postgres.changes.log import Log
from connector_runner.sources.postgres.changes.rows import BEFORE, COMMITTED_AT, DELETED_AT, LSN, MOMENT, finished_json
from connector_runner.sources.postgres.changes.state import Copied, Position, stored_position
from connector_runner.sources.postgres.changes.wire import Wire
from connector_runner.sources.postgres.columns import Notes, parse
from connector_runner.sources.postgres.copying import copy_out
from connector_runner.sources.postgres.places import Walk
from shared.errors import SetupError

if TYPE_CHECKING:
    import asyncpg

    from connector_runner.contract import Stream


class Followed(NamedTuple):
    """A selected table. `key`: the columns that tell its rows apart, in copies and in the log."""

    table: Table
    selected: Selected
    key: tuple[str, ...]

    @property
    def wanted(self) -> frozenset[str] | None:
        """Names of the columns that are given on; None: all."""
        columns = self.selected.columns
        return None if columns is None else frozenset(each[0] for each in columns if each)

    def walk(self) -> Walk:
        """Returns how it is copied."""
        wanted, table = self.wanted, self.table
        columns = tuple(
            each
            for each in table.columns
            if not each.generated and (wanted is None or each.name in wanted or each.name in self.key)
        )
        key = tuple(column for name in self.key if (column := table.column(name)) is not None)
        return Walk(table=table, columns=columns, cursor=None, key=key)


def key_of(table: Table) -> tuple[str, ...] | None:
    """Returns the columns by which the log tells which row was changed; empty: it tells whole rows; None: it cannot be followed."""
    if not table.logged or (table.identity != "f" and not table.identity_key):
        return None
    return table.key if table.identity == "f" else table.identity_key


def followed_stream(table: Table) -> Stream:
    """Returns a table as a stream of changes; one that cannot be followed can be read whole."""
    key, stream = key_of(table), table.stream()
    if key is None:
        return msgspec.structs.replace(stream, modes=("full_refresh",), cursor=())
    schema = schema_of([each for each in table.columns if not each.generated])
    moment = {"type": ["null", "string"], "format": "date-time"}
    own = {LSN: {"type": "integer"}, COMMITTED_AT: moment, DELETED_AT: moment}
    return msgspec.structs.replace(
        stream,
        json_schema={**schema, "properties": {**schema["properties"], **own}},  # type: ignore[dict-item]  # an object
        modes=("full_refresh", "incremental"),
        source_cursor=True,
        cursor=(LSN,),
        primary_key=tuple((name,) for name in key),
        deleted=(DELETED_AT,),
    )


class Capture:
    """The changes of one database, read once."""

    def __init__(self, name: str, options: OPTIONS) -> None:
        self._what = f'connector "{name}"'
        self._options = options
        self._slot = options.slot or slots.name_of(name)
        self._publication = options.publication or slots.name_of(name)
        self._wire: Wire | None = None

    def confirm(self, stored: bytes) -> None:
        """Lets the server forget what a stored state covers."""
        position = stored_position(stored, self._what)
        if self._wire is not None and position is not None:
            self._wire.confirm(position.lsn)

    async def lag(self, driver: asyncpg.Connection) -> slots.Lag | None:
        """Returns how far the slot is behind; None: there is none."""
        found = await slots.look(driver, self._slot)
        return None if found is None else found.lag

    async def cleanup(self, driver: asyncpg.Connection) -> list[str]:
        """Drops the slot, and the publication if it is ours; returns what was dropped."""
        return await slots.drop(driver, self._slot, None if self._options.publication else self._publication)

    async def read(
        self, driver: asyncpg.Connection, known: Mapping[StreamName, Table], selected: Sequence[Selected], stored: bytes | None
    ) -> AsyncGenerator[Message, None]:
        """Yields copies, then changes up to what was committed when the copies were done, or longer with `follow`."""
        position = stored_position(stored, self._what)
        followed: dict[int, Followed] = {}
        for each in selected:
            name = each.stream.known_as
            table = known.get(name)
            key = key_of(table) if table is not None else None
            if table is not None and key is not None:
                followed[table.oid] = Followed(table, each, key)
                continue
            yield Said("error", f"{name}: {_refused(table)}")
            yield Ended(name, False)
        if not followed:
            return
        before = position
        signals = self._signals(known)
        position = await self._begin(driver, position, followed, signals)
        for line in _compared(before, position):
            yield Said("warn", line)
        yield Checkpoint(None, position.encoded())
        log = Log(
            what=self._what,
            options=self._options,
            driver=driver,
            followed=followed,
            position=position,
            signals=None if signals is None else signals.oid,
        )
        async with aclosing(self._copies(driver, log)) as messages:
            async for message in messages:
                yield message
        await driver.execute(f"SET statement_timeout = {int(self._options.statement_timeout * 1000)}")
        log.target = await slots.written(driver)
        log.ends = time.monotonic() + float(self._options.follow)
        self._wire = await Wire.follow(
            self._options, self._what, slot=self._slot, publication=self._publication, lsn=log.position.lsn
        )
        try:
            while not log.over:
                async with aclosing(log.messages(self._wire)) as messages:
                    async for message in messages:
                        yield message
                if log.asked:
                    await slots.settle(driver, self._what, float(self._options.statement_timeout))
                    async with aclosing(self._copies(driver, log)) as messages:
                        async for message in messages:
                            yield message
        finally:
            wire, self._wire = self._wire, None
            await wire.close()
        yield await self._behind(driver)
        for oid, one in followed.items():
            copied = log.position.table(oid)
            yield Ended(one.selected.stream.known_as, copied is not None and not copied.truncated)

    async def _begin(
        self, driver: asyncpg.Connection, position: Position | None, followed: Mapping[int, Followed], signals: Table | None
    ) -> Position:
        """Makes publication and slot fit the selection; returns the state with all selected tables and no others.

        Raises:
            SetupError: changes were lost, or the server is not set up.
        """
        system, what = await slots.system_of(driver, self._what), self._what
        slot = await slots.look(driver, self._slot)
        if position is not None:
            if position.system != system:
                raise SetupError(f"{what}: this is another server than before, or one from a backup; {_AGAIN}")
            if position.slot != self._slot:
                raise SetupError(f"{what}: the stored state is of the slot {position.slot}; {_AGAIN}")
            if why := slots.gap(slot, self._slot, position.lsn):
                raise SetupError(f"{what}: {why}; the changes behind the stored state are lost: {_AGAIN}")
        elif slot is not None and slot.lost:
            raise SetupError(f"{what}: {slots.gap(slot, self._slot, 0)}; run `penstock connector cleanup`, which drops it")
        tables = [each.table for each in followed.values()]
        if signals is not None and signals.oid not in followed:
            tables.append(signals)
        added = await slots.publish(driver, self._publication, tables, what, own=self._options.publication is None)
        if position is None:
            lsn = slot.confirmed if slot is not None else await slots.create(driver, self._slot, what)
            position = Position(system=system, slot=self._slot, lsn=lsn)
            settled = slot is None  # making a slot waits as `settle` does
        else:
            settled = False
        held = {each.oid: each for each in position.tables if each.oid in followed and (each.oid not in added or not each.done)}
        new = {
            oid: Copied(schema=each.table.schema, name=each.table.name, oid=oid, since=position.lsn)
            for oid, each in followed.items()
            if oid not in held
        }
        if new and not settled:
            await slots.settle(driver, what, float(self._options.statement_timeout))
        return msgspec.structs.replace(position, tables=(*held.values(), *new.values()))

    def _signals(self, known: Mapping[StreamName, Table]) -> Table | None:
        """Returns the table in which a person asks for copies, if one is named.

        Raises:
            SetupError: it is not there, or cannot be followed.
        """
        wanted = self._options.signals
        if wanted is None:
            return None
        found = next((each for each in known.values() if wanted == str(each.known_as)), None)
        if found is None or key_of(found) is None:
            raise SetupError(
                f"{self._what}: there is no table of signals {wanted}, with a primary key, among the tables to read; "
                f"CREATE TABLE {wanted} (id bigserial PRIMARY KEY, stream text NOT NULL)"
            )
        return found

    async def _copies(self, driver: asyncpg.Connection, log: Log) -> AsyncGenerator[Message, None]:
        """Yields the rows of tables that are not copied yet."""
        log.asked = False
        await driver.execute("SET statement_timeout = 0")
        for copied in log.position.tables:
            if not copied.done:
                async with aclosing(self._copy(driver, log, copied)) as messages:
                    async for message in messages:
                        yield message

    async def _copy(self, driver: asyncpg.Connection, log: Log, copied: Copied) -> AsyncGenerator[Message, None]:
        each = log.followed[copied.oid]
        walk, name, notes, since = each.walk(), each.selected.stream.known_as, Notes(), 0
        if not copied.values:
            yield Estimate(name, each.table.rows, each.table.bytes or None)
        place = msgspec.structs.replace(walk.place([None] * len(walk.columns)), values=copied.values)
        moment = int(time.time() * 1_000_000)
        async with aclosing(
            copy_out(driver, walk.query(place if copied.values else None), int(self._options.fetch_size))
        ) as blocks:
            async for block in blocks:
                rows = parse(block, walk.columns, notes)
                odd = notes.columns()
                for line in notes.lines(str(name)):
                    yield Said("warn", line)
                last = walk.place([rows.column(index)[-1].as_py() for index in range(len(walk.columns))])
                yield Rows(name, self._with_own(rows, copied.since, moment), moment // 1000)
                since += len(rows)
                if walk.key and since >= self._options.checkpoint_rows and not odd & set(last.key):
                    log.position = log.position.with_table(msgspec.structs.replace(copied, values=last.values))
                    yield Checkpoint(None, log.position.encoded(), None)
                    since = 0
        log.position = log.position.with_table(msgspec.structs.replace(copied, done=True, values=()))
        yield Checkpoint(None, log.position.encoded(), None)

    def _with_own(self, rows: pa.Table, lsn: int, moment: int) -> pa.Table:
        count = len(rows)
        rows = rows.append_column(LSN, pa.array([lsn], pa.int64()).take(pa.array([0] * count, pa.int32())))
        rows = rows.append_column(COMMITTED_AT, pa.array([moment] * count, pa.int64()).cast(MOMENT))
        rows = rows.append_column(DELETED_AT, pa.nulls(count, MOMENT))
        return rows.append_column(BEFORE, finished_json([None] * count)) if self._options.before_image else rows

    async def _behind(self, driver: asyncpg.Connection) -> Said:
        lag = await self.lag(driver)
        if lag is None:
            return Said("warn", f"{self._what}: the slot {self._slot} is gone")
        room = "" if lag.room is None else f", and keeps {max(0, lag.room)} more before it gives the slot up"
        level: Level = "warn" if lag.room is not None and lag.room < lag.kept else "info"
        return Said(
            level,
            f"{self._what}: the slot {self._slot} is {lag.bytes} bytes behind; the server keeps {lag.kept} bytes for it{room}",
        )


_AGAIN = "remove the state (and run `penstock connector cleanup`), and all tables are copied again"


def _refused(table: Table | None) -> str:
    if table is None:
        return "there is no such table any more; look at the streams again, or leave it out"
    if table.kind not in ("r", "p"):
        return "it is no table, so the log tells nothing of it; read it with full_refresh"
    if not table.logged:
        return "it is not logged; ALTER TABLE … SET LOGGED, or read it with full_refresh"
    return (
        "the log does not tell which of its rows are changed, and the server would refuse updates once it is published; "
        "give it a primary key, or ALTER TABLE … REPLICA IDENTITY FULL"
    )


def _compared(before: Position | None, after: Position) -> list[str]:
    """Returns what became of tables since a state."""
    if before is None:
        return []
    known = {(each.schema, each.name): each for each in before.tables}
    found = []
    for each in after.tables:
        former = known.get((each.schema, each.name))
        if former is not None and former.oid != each.oid:
            found.append(
                f"{each.schema}.{each.name}: it was dropped and made again; it is copied, and the rows of the former one stay"
            )
        elif former is not None and former.done and not each.done:
            found.append(
                f"{each.schema}.{each.name}: it was not published for a while; it is copied again, and rows deleted meanwhile stay"
            )
    return found
