"""A PostgreSQL database as a `Source`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from connector_runner.contract import (
    Checked,
    Checkpoint,
    Ended,
    Estimate,
    Listener,
    Message,
    Rows,
    Said,
    Selected,
    Stream,
    StreamName,
)  # fmt: skip
from connector_runner.sources.postgres import OPTIONS
from connector_runner.sources.postgres.catalogue import Table, tables
from connector_runner.sources.postgres.changes.capture import Capture
from connector_runner.sources.postgres.changes.followed import followed_stream
from connector_runner.sources.postgres.changes.slots import Lag, server_of
from connector_runner.sources.postgres.columns import Notes, parse
from connector_runner.sources.postgres.copying import copy_out
from connector_runner.sources.postgres.errors import translate
from connector_runner.sources.postgres.links import open_link
from connector_runner.sources.postgres.places import Place, Walk
from shared.errors import UNREADABLE, NotConnected, PenstockError, SetupError, Transient
from shared.reading.decode import json_schema

if TYPE_CHECKING:
    import asyncpg

SHOWN = 5
"""Tables that a message names."""


class PostgresSource:
    """One database."""

    def __init__(self, name: str, options: OPTIONS, heard: Listener) -> None:
        self._name = name
        self._what = f'connector "{name}"'
        self._options = options
        self._heard = heard
        self._capture = Capture(name, options) if options.method == "cdc" else None
        self._driver: asyncpg.Connection | None = None

    async def spec(self) -> Mapping[str, Any]:
        """Returns the options; they stand in the project file themselves."""
        found: Mapping[str, Any] = json_schema(OPTIONS)["$defs"]["OPTIONS"]
        return found

    async def check(self) -> Checked:
        """Logs in, and looks whether there are tables that the user may read."""
        try:
            found = await self._tables()
        except SetupError as exc:
            return Checked(False, str(exc))
        if not found:
            return Checked(False, f"{self._what}: no table is there; check `database`, `schemas`, `tables` and `exclude`")
        hidden = [str(each.known_as) for each in found if not each.readable]
        if hidden:
            named = ", ".join(hidden[:SHOWN]) + (f" and {len(hidden) - SHOWN} more" if len(hidden) > SHOWN else "")
            return Checked(
                False, f"{self._what}: the user may not read {named}; GRANT SELECT on them to it, or name them in `exclude`"
            )
        if self._capture is not None:
            try:
                await server_of(await self._link(), self._what)
            except SetupError as exc:
                return Checked(False, str(exc))
        return Checked(True)

    async def discover(self) -> Sequence[Stream]:
        """Returns the tables and views that the user may read."""
        shown = followed_stream if self._capture is not None else Table.stream
        return [shown(each) for each in await self._tables() if each.readable]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields one table after the other. A table that fails alone is said, the others go on, and its error ends the read."""
        failed: PenstockError | None = None
        known = {each.known_as: each for each in await self._tables()}
        if self._capture is not None:
            changes = [each for each in selected if each.mode == "incremental"]
            async with aclosing(self._changes(self._capture, known, changes, states)) as messages:
                async for message in messages:
                    yield message
            selected = [each for each in selected if each.mode != "incremental"]
        for each in selected:
            name = each.stream.known_as
            complete = True
            try:
                walk = walk_of(known.get(name), each, self._options)
                async with aclosing(self._walk(walk, states.get(name))) as messages:
                    async for message in messages:
                        yield message
            except NotConnected:
                raise
            except (SetupError, Transient) as exc:
                complete = False
                # one that a person must mend is told rather than one that may pass
                failed = exc if failed is None or (isinstance(exc, SetupError) and not isinstance(failed, SetupError)) else failed
                yield Said("error", str(exc))
            yield Ended(name, complete)
        if failed is not None:
            raise failed

    async def close(self) -> None:
        """Ends the link."""
        if self._driver is not None:
            self._driver.terminate()
            self._driver = None

    async def stored(self, states: Mapping[StreamName | None, bytes]) -> None:
        """Takes states that are stored while a read goes on; the server may then forget what they cover."""
        if self._capture is not None:
            self._capture.confirm(states)

    async def lag(self) -> Lag | None:
        """Returns how far the slot is behind; None: there is none."""
        if self._capture is None:
            return None
        driver = await self._link()
        try:
            return await self._capture.lag(driver)
        except Exception as exc:
            raise translate(exc, f"{self._what}: looking at the slot") from exc

    async def cleanup(self) -> Sequence[str]:
        """Drops what was made on the server; returns what that was."""
        driver = await self._link()
        try:
            return await Capture(self._name, self._options).cleanup(driver)
        except Exception as exc:
            raise translate(exc, f"{self._what}: dropping the slot") from exc

    async def _changes(
        self,
        capture: Capture,
        known: Mapping[StreamName, Table],
        selected: Sequence[Selected],
        stored: Mapping[StreamName | None, bytes],
    ) -> AsyncGenerator[Message, None]:
        driver = await self._link()
        try:
            async with aclosing(capture.read(driver, known, selected, stored)) as messages:
                async for message in messages:
                    yield message
        except Exception as exc:
            if driver.is_closed():
                self._driver = None
            raise translate(exc, f"{self._what}: reading changes") from exc

    async def _walk(self, walk: Walk, stored: bytes | None) -> AsyncGenerator[Message, None]:
        """Yields the rows of one table, and states behind them."""
        name, what = walk.table.known_as, f"{self._what}: reading {walk.table.quoted}"
        state = walk.goes_on(_place_of(stored))
        if stored is not None and state is None and walk.cursor is not None:
            yield Said("warn", f"{name}: the stored state is of another cursor; all rows are read again")
        if state is None and walk.table.rows:
            yield Estimate(name, walk.table.rows, walk.table.bytes or None)
        notes, since, last = Notes(), 0, state
        nulls = 0
        driver = await self._link()
        try:
            await driver.execute("SET statement_timeout = 0")
            blocks = copy_out(driver, walk.query(state), int(self._options.fetch_size))
            async with aclosing(blocks):
                async for block in blocks:
                    rows = parse(block, walk.columns, notes)
                    odd = notes.columns()
                    for line in notes.lines(str(name)):
                        yield Said("warn", line)
                    yield Rows(name, rows, int(time.time() * 1000))
                    since += len(rows)
                    if not walk.resumable:
                        continue
                    if walk.cursor is not None:
                        nulls += rows.column(walk.cursor.name).null_count
                    last = walk.place([rows.column(index)[-1].as_py() for index in range(len(walk.columns))])
                    # an odd value is not what the server has: no read can go on behind it
                    if since >= self._options.checkpoint_rows and not odd & {last.cursor, *last.key}:
                        yield Checkpoint(name, msgspec.json.encode(last), since)
                        since = 0
        except Exception as exc:
            if driver.is_closed():
                self._driver = None
            if isinstance(exc, PenstockError):
                raise
            raise translate(exc, what) from exc
        if nulls and walk.cursor is not None:
            yield Said(
                "warn",
                f'{name}: {nulls} rows have no "{walk.cursor.name}"; the next read does not look for more of them',
            )
        end = msgspec.structs.replace(last or Place(cursor=walk.cursor.name if walk.cursor else ""), complete=True)
        yield Checkpoint(name, msgspec.json.encode(end), since)

    async def _tables(self) -> list[Table]:
        options, driver = self._options, await self._link()
        try:
            return await tables(driver, options.schemas, options.tables, options.exclude)
        except Exception as exc:
            raise translate(exc, f"{self._what}: looking at the catalogue") from exc

    async def _link(self) -> asyncpg.Connection:
        if self._driver is None or self._driver.is_closed():
            self._driver = await open_link(self._options, self._what)
        return self._driver


def walk_of(table: Table | None, selected: Selected, options: OPTIONS) -> Walk:
    """Returns how a selected stream is read.

    Raises:
        SetupError: the table is gone, or cannot be read so.
    """
    name = selected.stream.known_as
    if table is None:
        raise SetupError(f"{name}: there is no such table any more; look at the streams again, or leave it out")
    cursor = None
    if selected.mode == "incremental":
        wanted = selected.cursor or selected.stream.cursor
        cursor = table.column(wanted[0]) if len(wanted) == 1 else None
        if cursor is None:
            raise SetupError(f"{name}: {'.'.join(wanted) or 'no cursor'} is no column of it; choose a cursor, such as updated_at")
        if not cursor.ordered:
            raise SetupError(
                f'{name}: column "{cursor.name}" is of type {cursor.declared}, which has no order; choose another cursor'
            )
    key = tuple(column for each in table.key if (column := table.column(each)) is not None and column.ordered)
    key = key if len(key) == len(table.key) and table.kind in ("r", "p") else ()
    needed = (
        {each.name for each in key} | ({cursor.name} if cursor else set()) | {each[0] for each in selected.primary_key if each}
    )
    wanted_columns = None if selected.columns is None else {each[0] for each in selected.columns if each} | needed
    columns = tuple(each for each in table.columns if wanted_columns is None or each.name in wanted_columns)
    return Walk(table=table, columns=columns, cursor=cursor, key=key, lookback=float(options.lookback))


def _place_of(stored: bytes | None) -> Place | None:
    """Returns a stored state; None if it is none of ours, and all rows are read again."""
    try:
        return None if stored is None else msgspec.json.decode(stored, type=Place)
    except UNREADABLE:
        return None
