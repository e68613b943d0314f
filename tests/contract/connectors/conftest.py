"""Published connectors of the Airbyte protocol, and a manifest; each is the published program itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from connector_runner import registry
from connector_runner.contract import Checkpoint, Environment, JsonRows, Message, Row, Said, Selected, Source, Stream, StreamName
from tests.support.paged_api import TOKEN, manifest, paged_api
from tests.support.sources.place import CACHE


@dataclass
class Subject:
    """A connector with options that work, and others that do not; its streams, and how many rows each has."""

    document: dict[str, Any]
    wrong: dict[str, Any]
    rows: Mapping[str, int]
    private: Path
    heard: list[Said] = field(default_factory=list)

    async def open(self, **options: Any) -> Source:
        """Opens the connector, with some options in place of its own."""
        plugin, parsed = registry.parse_options("subject", {**self.document, **options})
        return await plugin.open_source("subject", parsed, Environment(CACHE, self.private, self.heard.append))


@dataclass
class Reading:
    """What one read gave."""

    messages: list[Message]

    def rows(self, stream: str) -> list[bytes]:
        """Returns the rows of a stream."""
        found: list[bytes] = []
        for each in self.messages:
            match each:
                case Row() if each.stream.name == stream:
                    found.append(each.data)
                case JsonRows() if each.stream.name == stream:
                    found += each.rows
        return found

    @property
    def states(self) -> dict[StreamName | None, bytes]:
        """The newest states."""
        return {each.stream: each.state for each in self.messages if isinstance(each, Checkpoint)}


async def read(
    source: Source, streams: Sequence[Stream], states: Mapping[StreamName | None, bytes] | None = None, *, full: bool = False
) -> Reading:
    """Reads all that streams give, incrementally where they can."""
    selected = [Selected(each, "full_refresh" if full else each.modes[-1], each.cursor, each.primary_key) for each in streams]
    return await read_selected(source, selected, states)


async def read_selected(
    source: Source, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes] | None = None
) -> Reading:
    """Reads all that selected streams give."""
    async with aclosing(source.read(selected, states or {})) as messages:
        return Reading([message async for message in messages])


@pytest.fixture(params=["faker", "manifest", "hardcoded", "file"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """Each connector in turn."""
    if request.param == "hardcoded":
        document = {
            "type": "airbyte",
            "package": "airbyte-source-hardcoded-records",
            "version": "0.0.48",
            "config": {"count": 40},
        }
        yield Subject(document, {}, {"products": 40, "customers": 40}, tmp_path)
    elif request.param == "file":
        (tmp_path / "orders.csv").write_text("id,name\n" + "".join(f"{n},order {n}\n" for n in range(1, 31)))
        config: dict[str, Any] = {
            "dataset_name": "orders",
            "format": "csv",
            "url": str(tmp_path / "orders.csv"),
            "provider": {"storage": "local"},
        }
        document = {
            "type": "airbyte",
            "package": "airbyte-source-file",
            "version": "0.5.39",
            "build": ["genson"],
            "config": config,
        }
        yield Subject(document, {}, {"orders": 30}, tmp_path)
    elif request.param == "faker":
        config = {"count": 60, "seed": 1, "parallelism": 1, "records_per_slice": 20}
        document = {"type": "airbyte", "package": "airbyte-source-faker", "version": "7.2.1", "config": config}
        yield Subject(document, {"count": "many-too-many"}, {"users": 60, "products": 60}, tmp_path)
    else:
        async with paged_api() as api:
            document = {"type": "airbyte", "manifest": manifest(api.url), "config": {"token": TOKEN}}
            yield Subject(document, {"token": "wrong-" + TOKEN}, {"orders": 95, "empty": 0}, tmp_path)
