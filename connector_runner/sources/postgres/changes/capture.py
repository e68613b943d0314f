"""Reads changes: copies the tables that are not copied yet, then follows the log from the position that the copies stand for.

A copy is read after its position, so it may hold rows that are newer; the log behind the position tells of each of them again, and
a later row wins. So a copy can be cut off and go on in another transaction, and there is no gap between it and the log.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from connector_runner.contract import (
    Behind,
    Checkpoint,
    Emptied,
    Ended,
    Estimate,
    Level,
    Message,
    Rows,
    Said,
    Selected,
    StreamName,
)
from connector_runner.sources.postgres import OPTIONS
from connector_runner.sources.postgres.catalogue import Table
from connector_runner.sources.postgres.changes import slots
from connector_runner.sources.postgres.changes.begin import Names, begin
from connector_runner.sources.postgres.changes.followed import Followed, follow, key_of
from connector_runner.sources.postgres.changes.log import Log
from connector_runner.sources.postgres.changes.rows import BEFORE, COMMITTED_AT, DELETED_AT, LSN, MOMENT, finished_json
from connector_runner.sources.postgres.changes.state import TableState, stored_table
from connector_runner.sources.postgres.changes.wire import Wire
from connector_runner.sources.postgres.columns import Notes, parse
from connector_runner.sources.postgres.copying import copy_out
from shared.errors import SetupError

if TYPE_CHECKING:
    import asyncpg


class Capture:
    """The changes of one database, read once."""

    def __init__(self, name: str, options: OPTIONS) -> None:
        self._what = f'connector "{name}"'
        self._options = options
        made = slots.name_of(name)
        self._names = Names(options.slot or made, options.publication or made, own=options.publication is None)
        self._wire: Wire | None = None
        self._stored: dict[StreamName, int] = {}
        """How far the stored states of all streams of the sync are."""
        self._oids: dict[StreamName, int] = {}

    def confirm(self, states: Mapping[StreamName | None, bytes]) -> None:
        """Lets the server forget what the stored states of all streams cover."""
        if self._wire is None:
            return
        for name, oid in self._oids.items():
            if (stored := states.get(name)) is not None:
                state = stored_table(stored, f"{self._what}: {name}")
                # a state of before belongs to a table that is copied again
                self._stored[name] = max(self._stored[name], state.lsn) if state.oid == oid else self._stored[name]
        self._wire.confirm(min(self._stored.values()))

    async def lag(self, driver: asyncpg.Connection) -> slots.Lag | None:
        """Returns how far the slot is behind; None: there is none."""
        found = await slots.look(driver, self._names.slot)
        return None if found is None else found.lag

    async def cleanup(self, driver: asyncpg.Connection) -> list[str]:
        """Drops the slot, and the publication if it is ours; returns what was dropped."""
        return await slots.drop(driver, self._names.slot, self._names.publication if self._names.own else None)

    async def read(
        self,
        driver: asyncpg.Connection,
        known: Mapping[StreamName, Table],
        selected: Sequence[Selected],
        stored: Mapping[StreamName | None, bytes],
    ) -> AsyncGenerator[Message, None]:
        """Yields copies, then changes up to what was committed when the copies were done, or longer with `follow`."""
        if None in stored:
            raise SetupError(f"{self._what}: the stored state is not of change data capture; forget it (`penstock sync reset`)")
        followed: dict[int, Followed] = {}
        for each in selected:
            name = each.stream.known_as
            found = follow(known.get(name), each)
            if isinstance(found, Followed):
                followed[found.table.oid] = found
                continue
            yield Said("error", f"{name}: {found}")
            yield Ended(name, False)
        if not followed:
            return
        signals = self._signals(known)
        begun = await begin(
            driver,
            self._what,
            names=self._names,
            known=known,
            followed=followed,
            signals=signals,
            stored=stored,
            settle_seconds=float(self._options.statement_timeout),
        )
        for line in begun.said:
            yield Said("warn", line)
        self._oids = {each.name: oid for oid, each in followed.items()}
        self._stored = begun.others | {followed[oid].name: state.lsn for oid, state in begun.tables.items()}
        for oid, state in begun.tables.items():
            yield Checkpoint(followed[oid].name, state.encoded())
        log = Log(
            what=self._what,
            options=self._options,
            driver=driver,
            followed=followed,
            tables=begun.tables,
            lsn=begun.lsn,
            signals=None if signals is None else signals.oid,
        )
        async with aclosing(self._copies(driver, log)) as messages:
            async for message in messages:
                yield message
        await driver.execute(f"SET statement_timeout = {int(self._options.statement_timeout * 1000)}")
        log.target = await slots.written(driver)
        log.ends = time.monotonic() + float(self._options.follow)
        await slots.released(driver, self._names.slot)
        self._wire = await Wire.follow(
            self._options,
            self._what,
            slot=self._names.slot,
            publication=self._names.publication,
            lsn=log.lsn,
            confirmed=min(self._stored.values()),
        )
        try:
            while not log.over:
                async with aclosing(log.messages(self._wire)) as messages:
                    async for message in messages:
                        yield message
                        if log.looks():
                            for told in (await self._behind(driver, log))[:1]:
                                yield told
                if log.asked:
                    await slots.settle(driver, self._what, float(self._options.statement_timeout))
                    async with aclosing(self._copies(driver, log)) as messages:
                        async for message in messages:
                            yield message
        finally:
            wire, self._wire = self._wire, None
            await wire.close()
        for message in await self._behind(driver, log):
            yield message
        for one in followed.values():
            yield Ended(one.name, True)

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
        for oid, state in list(log.tables.items()):
            if not state.done:
                async with aclosing(self._copy(driver, log, oid, state)) as messages:
                    async for message in messages:
                        yield message

    async def _copy(self, driver: asyncpg.Connection, log: Log, oid: int, state: TableState) -> AsyncGenerator[Message, None]:
        each = log.followed[oid]
        walk, name, notes, since = each.walk(), each.name, Notes(), 0
        if not state.values:
            yield Estimate(name, each.table.rows, each.table.bytes or None)
        place = msgspec.structs.replace(walk.place([None] * len(walk.columns)), values=state.values)
        moment = int(time.time() * 1_000_000)
        async with aclosing(
            copy_out(driver, walk.query(place if state.values else None), int(self._options.fetch_size))
        ) as blocks:
            async for block in blocks:
                rows = parse(block, walk.columns, notes)
                odd = notes.columns()
                for line in notes.lines(str(name)):
                    yield Said("warn", line)
                last = walk.place([rows.column(index)[-1].as_py() for index in range(len(walk.columns))])
                yield Rows(name, self._with_own(rows, state.since, moment), moment // 1000)
                since += len(rows)
                if walk.key and since >= self._options.checkpoint_rows and not odd & set(last.key):
                    yield log.copied(oid, msgspec.structs.replace(state, values=last.values))
                    since = 0
        # rows that the destination has from before and that the copy lacks are gone
        yield Emptied(name, state.since, moment)
        yield log.copied(oid, msgspec.structs.replace(state, done=True, values=()))

    def _with_own(self, rows: pa.Table, lsn: int, moment: int) -> pa.Table:
        count = len(rows)
        rows = rows.append_column(LSN, pa.array([lsn], pa.int64()).take(pa.array([0] * count, pa.int32())))
        rows = rows.append_column(COMMITTED_AT, pa.array([moment] * count, pa.int64()).cast(MOMENT))
        rows = rows.append_column(DELETED_AT, pa.nulls(count, MOMENT))
        return rows.append_column(BEFORE, finished_json([None] * count)) if self._options.before_image else rows

    async def _behind(self, driver: asyncpg.Connection, log: Log) -> list[Message]:
        """Returns how far the slot is behind, as numbers and as a line."""
        lag = await self.lag(driver)
        if lag is None:
            return [Said("warn", f"{self._what}: the slot {self._names.slot} is gone")]
        room = "" if lag.room is None else f", and keeps {max(0, lag.room)} more before it gives the slot up"
        level: Level = "warn" if lag.room is not None and lag.room < lag.kept else "info"
        seconds = log.seconds_behind(await slots.written(driver))
        text = f"{self._what}: the slot {self._names.slot} is {lag.bytes} bytes behind; the server keeps {lag.kept} bytes for it{room}"
        return [Behind(lag.bytes, lag.kept, seconds, lag.room), Said(level, text)]
