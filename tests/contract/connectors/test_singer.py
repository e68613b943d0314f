"""The Singer tap of PostgreSQL, as published, against a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from connector_runner import registry
from connector_runner.contract import Ended, Environment, Said, Selected, Source
from tests.contract.connectors.conftest import read_selected
from tests.support.sources.place import CACHE

pytestmark = pytest.mark.timeout(400)  # the first test of a run installs the tap

ORDERS, EMPTY = "shop-orders", "shop-empty"


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A schema `shop` in a database of its own."""
    name = f"singer_{uuid4().hex[:8]}"
    outer = await asyncpg.connect(postgres_dsn)
    await outer.execute(f"CREATE DATABASE {name}")
    inner = await asyncpg.connect(postgres_dsn, database=name)
    await inner.execute(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id bigint PRIMARY KEY, total numeric(30, 10), at timestamptz, note text);"
        "CREATE TABLE shop.empty (id int PRIMARY KEY);"
        "INSERT INTO shop.orders SELECT n, 12345678901234567890.5, timestamptz '2026-01-01' + n * interval '1 hour', 'Kunde №' || n "
        "FROM generate_series(1, 50) n"
    )
    yield inner
    await inner.close()
    await outer.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await outer.close()


async def open_(database: asyncpg.Connection, dsn: str, private: Path, heard: list[Said], **config: Any) -> Source:
    found = urlsplit(dsn)
    name = await database.fetchval("SELECT current_database()")
    own = {"host": found.hostname, "port": found.port, "user": found.username, "password": found.password, "database": name}
    document = {
        "type": "singer",
        "package": "meltanolabs-tap-postgres",
        "version": "0.10.0",
        "program": "tap-postgres",
        "config": {**own, "filter_schemas": ["shop"], **config},
    }
    plugin, options = registry.parse_options("shop", document)
    return await plugin.open_source("shop", options, Environment(CACHE, private, heard.append))


async def test_a_tap_is_read_in_full_and_then_from_its_state(
    database: asyncpg.Connection, postgres_dsn: str, tmp_path: Path
) -> None:
    source = await open_(database, postgres_dsn, tmp_path, [])
    streams = {each.name: each for each in await source.discover()}
    assert set(streams) == {ORDERS, EMPTY}
    assert streams[ORDERS].primary_key == (("id",),)
    assert streams[ORDERS].modes == ("full_refresh", "incremental")
    selected = [
        Selected(streams[ORDERS], "incremental", ("at",), (("id",),), columns=(("total",),)),
        Selected(streams[EMPTY], "full_refresh"),
    ]
    first = await read_selected(source, selected)
    rows = [json.loads(each) for each in first.rows(ORDERS)]
    assert {each["id"] for each in rows} == set(range(1, 51))
    assert all(set(each) == {"id", "at", "total"} for each in rows), "columns that are not wanted are not asked for"
    assert b"12345678901234567890.5" in first.rows(ORDERS)[0]
    assert {each.stream.name for each in first.messages if isinstance(each, Ended) and each.complete} == {ORDERS, EMPTY}
    await database.execute("INSERT INTO shop.orders VALUES (51, 1, timestamptz '2026-02-01', 'new')")
    again = await read_selected(source, selected, first.states)
    assert {json.loads(each)["id"] for each in again.rows(ORDERS)} - {50} == {51}
    whole = [Selected(streams[ORDERS], "full_refresh")]
    assert len((await read_selected(source, whole, again.states)).rows(ORDERS)) == 51, "a full read begins at the beginning"
    assert set(again.states) == {None}
    await source.close()


async def test_a_wrong_password_is_said_and_not_shown(database: asyncpg.Connection, postgres_dsn: str, tmp_path: Path) -> None:
    heard: list[Said] = []
    source = await open_(database, postgres_dsn, tmp_path, heard, password="wrong-secret-of-the-tests")
    checked = await source.check()
    assert not checked.ok
    assert "password authentication failed" in checked.message
    assert "wrong-secret" not in " ".join([checked.message, *(each.text for each in heard)])
    assert "password" in (await source.spec())["properties"]
