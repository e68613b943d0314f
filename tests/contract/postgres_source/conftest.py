"""A database of its own for each test of the source `postgres`, and ways to read it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from connector_runner import registry
from connector_runner.contract import (
    Checkpoint,
    Emptied,
    Ended,
    Environment,
    Message,
    Rows,
    Said,
    Selected,
    Source,
    Stream,
    StreamName,
)
from connector_runner.json_rows import json_rows
from shared.errors import SetupError


@dataclass
class Place:
    """A database. `driver` writes into it; `heard` holds what connectors said outside of a read."""

    dsn: str
    driver: asyncpg.Connection
    private: Path
    heard: list[Said] = field(default_factory=list)
    opened: list[Source] = field(default_factory=list)

    async def open(self, **options: Any) -> Source:
        """Opens a connector of it."""
        plugin, parsed = registry.parse_options("shop", {"type": "postgres", "dsn": self.dsn, **options})
        source = await plugin.open_source("shop", parsed, Environment(self.private, self.private, self.heard.append))
        self.opened.append(source)
        return source


@pytest.fixture
async def place(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Place]:
    """A database of this test's own, which goes with it."""
    name = f"source_{uuid4().hex[:12]}"
    keeper = await asyncpg.connect(postgres_dsn)
    await keeper.execute(f"CREATE DATABASE {name}")
    dsn = f"{postgres_dsn.rpartition('/')[0]}/{name}"
    found = Place(dsn, await asyncpg.connect(dsn), tmp_path)
    try:
        yield found
    finally:
        for source in found.opened:
            await source.close()
        found.driver.terminate()
        if keeper.is_closed():  # the test killed the server
            keeper = await asyncpg.connect(postgres_dsn)
        slots = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NOT NULL"
        await keeper.fetch(slots, name)
        for slot in await keeper.fetch("SELECT slot_name FROM pg_replication_slots WHERE database = $1", name):
            await _drop_slot(keeper, slot["slot_name"])
        await keeper.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await keeper.close()


async def _drop_slot(keeper: asyncpg.Connection, slot: str) -> None:
    while True:
        try:
            await keeper.execute("SELECT pg_drop_replication_slot($1)", slot)
            return
        except asyncpg.ObjectInUseError:  # its walsender is on its way out
            continue


@dataclass
class Reading:
    """What one read gave."""

    messages: list[Message]

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """Returns the rows of a stream as JSON has them."""
        import json

        tables = [each.rows for each in self.messages if isinstance(each, Rows) and each.stream.name == stream]
        return [json.loads(line) for table in tables for line in json_rows(table)]

    @property
    def states(self) -> dict[StreamName | None, bytes]:
        """The newest states."""
        return {each.stream: each.state for each in self.messages if isinstance(each, Checkpoint)}

    @property
    def said(self) -> list[str]:
        """What it said."""
        return [each.text for each in self.messages if isinstance(each, Said)]

    @property
    def ended(self) -> dict[str, bool]:
        """Which streams ended, and whether they are complete."""
        return {each.stream.name: each.complete for each in self.messages if isinstance(each, Ended)}


@dataclass
class Replica:
    """A table as a destination has it that merges by key: a later row wins, a deletion leaves a mark."""

    key: str = "id"
    held: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def load(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes rows as they come."""
        for row in rows:
            former = self.held.get(row[self.key])
            if former is None or former["_lsn"] <= row["_lsn"]:
                self.held[row[self.key]] = row

    def take(self, messages: Sequence[Message], stream: str) -> None:
        """Takes messages of one stream as they come."""
        for message in messages:
            if isinstance(message, Rows) and message.stream.name == stream:
                self.load(Reading([message]).rows(stream))
            elif isinstance(message, Emptied) and message.stream.name == stream:
                for row in self.held.values():
                    if row["_lsn"] < message.before and row["_deleted_at"] is None:
                        row |= {"_lsn": message.before, "_deleted_at": message.at}

    def rows(self) -> dict[Any, dict[str, Any]]:
        """Returns the rows that are not deleted, without our own columns."""
        return {
            key: {name: value for name, value in row.items() if not name.startswith("_")}
            for key, row in self.held.items()
            if row["_deleted_at"] is None
        }


def chosen(
    streams: Sequence[Stream], *names: str, cursor: str | None = None, columns: Sequence[str] | None = None
) -> list[Selected]:
    """Returns the streams of these names as they are read: by a cursor if one is named or proposed, else whole."""
    found = [each for each in streams if each.name in names]
    paths = None if columns is None else tuple((each,) for each in columns)
    by = [(cursor,) if cursor else each.cursor for each in found]
    return [
        Selected(stream, "incremental" if each else "full_refresh", each, stream.primary_key, paths)
        for stream, each in zip(found, by, strict=True)
    ]


async def read(
    source: Source,
    selected: Sequence[Selected],
    states: Mapping[StreamName | None, bytes] | None = None,
    *,
    until: int | None = None,
    fails: bool = False,
) -> Reading:
    """Reads to the end, or to so many messages and then leaves, as a killed runner does; `fails`: the end is an error for a person."""
    messages: list[Message] = []
    with pytest.raises(SetupError) if fails else contextlib.nullcontext():
        async with aclosing(source.read(selected, states or {})) as found:
            async for message in found:
                messages.append(message)
                if until is not None and len(messages) >= until:
                    break
    return Reading(messages)
