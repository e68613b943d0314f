"""The connectors of docs/write_a_connector.md, as they stand there, read what they promise."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

import connector_runner.sources
from connector_runner import registry
from connector_runner.contract import Checkpoint, Environment, Message, Rows, Selected, Source, Stream, StreamName
from shared.reading.document import parse_document
from tests.contract.connectors.conftest import Reading, read
from tests.support.paged_api import TOKEN, order, paged_api
from tests.support.sources.place import CACHE

PAGE = (Path(__file__).parents[3] / "docs" / "write_a_connector.md").read_text(encoding="utf-8")
API = "https://shop.example.com/api"

pytestmark = pytest.mark.timeout(400)  # the first test of a run installs packages


def block(name: str) -> str:
    """Returns the block of the page that begins with its name."""
    (found,) = re.findall(rf"^```\w+\n# {re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


async def opened(folder: Path, document: Mapping[str, Any]) -> Source:
    plugin, options = registry.parse_options("mine", document)
    return await plugin.open_source("mine", options, Environment(CACHE, folder, lambda _: None))


async def test_a_python_file_and_a_manifest_read_the_same_orders_and_then_the_new_ones(tmp_path: Path) -> None:
    async with paged_api() as api:
        python = {"type": "python", "code": block("shop.py"), "config": {"url": api.url, "token": TOKEN}}
        manifest = {
            "type": "airbyte",
            "manifest": parse_document(block("shop.yaml").replace(API, api.url), "shop.yaml"),
            "config": {"token": TOKEN},
        }
        for document in (python, manifest):
            api.orders = [order(number) for number in range(1, 96)]
            source = await opened(tmp_path, document)
            (stream,) = await source.discover()
            assert (stream.primary_key, stream.cursor) == ((("id",),), ("updated_at",))
            first = await read(source, [stream])
            assert ids(first) == list(range(1, 96))
            api.orders += [order(96)]
            assert set(ids(await read(source, [stream], first.states))) - {95} == {96}
            await source.close()
        empty = await (await opened(tmp_path, {**python, "config": {"url": api.url, "token": ""}})).check()
        assert "set SHOP_TOKEN" in empty.message


def ids(reading: Reading) -> list[int]:
    return sorted(json.loads(row)["id"] for row in reading.rows("orders"))


@pytest.fixture
def sqlite_source(tmp_path: Path) -> Iterator[str]:
    """Puts the page's source where sources are looked for; returns the path of a file with orders."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "sqlite.py").write_text(block("connector_runner/sources/sqlite.py"), encoding="utf-8")
    connector_runner.sources.__path__.append(str(tmp_path / "plugins"))
    with closing(sqlite3.connect(tmp_path / "shop.db")) as link, link:
        link.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT, total REAL, updated_at TEXT NOT NULL)")
        rows = [(n, f"order {n}", n * 1.25, f"2026-01-{n // 4 + 1:02d}") for n in range(1, 41)]
        link.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
    try:
        yield str(tmp_path / "shop.db")
    finally:
        connector_runner.sources.__path__.remove(str(tmp_path / "plugins"))
        sys.modules.pop("connector_runner.sources.sqlite", None)


async def test_a_native_source_reads_whole_and_goes_on_from_every_state(sqlite_source: str, tmp_path: Path) -> None:
    source = await opened(tmp_path, {"type": "sqlite", "path": sqlite_source, "page_rows": 7})
    assert (await source.check()).ok
    (stream,) = await source.discover()
    assert stream.primary_key == (("id",),)
    got: list[int] = []
    states: list[tuple[list[int], dict[StreamName | None, bytes]]] = []
    for message in await messages(source, stream, {}):
        if isinstance(message, Rows):
            got += message.rows["id"].to_pylist()
        elif isinstance(message, Checkpoint):
            states.append((list(got), {message.stream: message.state}))
    assert sorted(got) == list(range(1, 41))
    assert len(states) > 3
    for before, state in states:
        rest = [
            number
            for each in await messages(source, stream, state)
            if isinstance(each, Rows)
            for number in each.rows["id"].to_pylist()
        ]
        assert {*before, *rest} == set(range(1, 41))
    gone = await (await opened(tmp_path, {"type": "sqlite", "path": f"{sqlite_source}.gone"})).check()
    assert "check `path`" in gone.message


async def messages(source: Source, stream: Stream, states: Mapping[StreamName | None, bytes]) -> list[Message]:
    async with aclosing(source.read([Selected(stream, "incremental", ("updated_at",), stream.primary_key)], states)) as found:
        return [each async for each in found]
