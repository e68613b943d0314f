"""Servers that change data capture meets: with TLS, without slots, promoted from a standby, with a slot that was given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from connector_runner import registry
from connector_runner.contract import Behind, Environment, Rows, Source
from connector_runner.sources.postgres.changes import slots
from shared.errors import PenstockError, SetupError
from tests.contract.postgres_source.conftest import Place, Replica, chosen, read
from tests.support.certificate import make_certificate
from tests.support.postgres import PostgresServer

LOGICAL = {"wal_level": "logical"}


@asynccontextmanager
async def opened(folder: Path, dsn: str, **options: Any) -> AsyncIterator[Any]:
    plugin, parsed = registry.parse_options("shop", {"type": "postgres", "dsn": dsn, "method": "cdc", **options})
    source: Source = await plugin.open_source("shop", parsed, Environment(folder, folder, lambda _: None))
    try:
        yield source
    finally:
        await source.close()


async def run(dsn: str, statement: str) -> None:
    driver = await asyncpg.connect(dsn)
    await driver.execute(statement)
    await driver.close()


async def test_changes_come_over_tls_that_is_proven(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    proven = {"ssl": "verify-full", "follow": "1h"}
    with PostgresServer(durable=False, settings=LOGICAL, certificate=certificate) as server:
        driver = await asyncpg.connect(server.dsn())
        await driver.execute("CREATE TABLE t (id int PRIMARY KEY)")
        async with opened(tmp_path, server.dsn(), ssl_root_certificate=str(certificate), **proven) as source:
            async with aclosing(source.read(chosen(await source.discover(), "t"), {})) as messages:
                async for message in messages:
                    if isinstance(message, Behind) or b'"done":true' in getattr(message, "state", b""):
                        await driver.execute("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING")
                    if isinstance(message, Rows):
                        break
                sessions = await driver.fetch(
                    "SELECT s.ssl FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE application_name = 'penstock connector'"
                )
            assert [row["ssl"] for row in sessions] == [True, True]
        async with opened(tmp_path, server.dsn(), ssl_root_certificate=str(other), **proven) as source:
            with pytest.raises(PenstockError, match=r"(?i)certificate"):
                await source.discover()
        await driver.close()


async def test_a_server_without_room_for_a_slot_or_with_another_wal_level_says_what_to_set(tmp_path: Path) -> None:
    with PostgresServer(durable=False, settings={**LOGICAL, "max_replication_slots": "0"}) as server:
        await run(server.dsn(), "CREATE TABLE t (id int PRIMARY KEY)")
        async with opened(tmp_path, server.dsn()) as source:
            with pytest.raises(SetupError, match="max_replication_slots"):
                await read(source, chosen(await source.discover(), "t"))
    with PostgresServer(durable=False, settings={"wal_level": "replica"}) as server:
        async with opened(tmp_path, server.dsn()) as source:
            await run(server.dsn(), "CREATE TABLE t (id int PRIMARY KEY)")
            assert "wal_level = logical" in (await source.check()).message


async def test_a_slot_that_the_server_gave_up_is_said_and_a_new_copy_is_right(tmp_path: Path) -> None:
    settings = {**LOGICAL, "max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with PostgresServer(durable=False, settings=settings) as server:
        driver = await asyncpg.connect(server.dsn())
        await driver.execute("CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, 'a'), (2, 'a')")
        async with opened(tmp_path, server.dsn()) as source:
            selected, replica = chosen(await source.discover(), "t"), Replica()
            first = await read(source, selected)
            replica.take(first.messages, "t")
            assert any(isinstance(each, Behind) and each.kept >= each.bytes >= 0 for each in first.messages)
            await driver.execute("DELETE FROM t WHERE id = 1")
            for _ in range(4):
                await driver.execute("SELECT pg_switch_wal()")
                await driver.execute(
                    "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(10, 3000) g; DELETE FROM t WHERE id > 9"
                )
            await driver.execute("CHECKPOINT")
            with pytest.raises(SetupError, match=r"(?s)removed the log|invalidated.*cleanup"):
                await read(source, selected, first.states)
            assert len(await source.cleanup()) == 2
            replica.take((await read(source, selected)).messages, "t")
            assert set(replica.rows()) == {2}
        await driver.close()


async def test_a_standby_is_refused_and_when_it_is_promoted_the_lost_slot_is_said(tmp_path: Path) -> None:
    with PostgresServer(durable=False, settings=LOGICAL) as primary:
        await run(primary.dsn(), "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        async with opened(tmp_path, primary.dsn()) as source:
            first = await read(source, chosen(await source.discover(), "t"))
        with PostgresServer.standby(primary) as standby:
            async with opened(tmp_path, standby.dsn()) as source:
                assert "is a standby" in (await source.check()).message
                selected = chosen(await source.discover(), "t")
                with pytest.raises(SetupError, match="is a standby"):
                    await read(source, selected, first.states)
            await run(standby.dsn(), "SELECT pg_promote()")
            async with opened(tmp_path, standby.dsn()) as source:
                with pytest.raises(SetupError, match=r"promoted|is gone"):
                    await read(source, selected, first.states)
                # a slot of the same name is no proof that nothing is lost
                await run(standby.dsn(), "SELECT pg_create_logical_replication_slot('penstock_shop', 'pgoutput')")
                with pytest.raises(SetupError, match="timeline"):
                    await read(source, selected, first.states)


async def test_a_slot_whose_reader_has_just_ended_is_dropped_when_the_server_sees_that(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "RELEASE_SECONDS", 120.0)
    await place.driver.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
    source = await place.open(method="cdc", follow="1h")
    selected = chosen(await source.discover(), "t")
    states = (await read(await place.open(method="cdc"), selected)).states
    await place.driver.execute("INSERT INTO t VALUES (1)")
    async with aclosing(source.read(selected, states)) as messages:
        while not isinstance(await anext(messages), Rows):
            pass
        other = await place.open(method="cdc")
        dropping = asyncio.create_task(other.cleanup())  # type: ignore[attr-defined]
        done, _ = await asyncio.wait([dropping], timeout=0.3)
        assert not done
    assert "slot penstock_shop" in await dropping
