"""What only a Postgres server does: backends killed alone, roles, locks, refused characters, types of its own, names of sessions."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from typing import Any, cast

import asyncpg
import pytest

from loader.contract.warehouse import Kind, TableLoad
from loader.servers.session import ServerSession
from loader.warehouses.postgres.connect import Options
from shared.driving.server import epoch_of, session_name
from shared.errors import NotConnected, RowsRejected, SetupError, TableBusy, Transient
from tests.contract.destinations.servers import ROWS, SHAPE, PostgresKind, batch, large
from tests.support.destinations.opened import Open, append, arrow, make, merge, plan
from tests.support.destinations.postgres import PostgresSubject
from tests.support.postgres import PostgresServer


async def _until_locked(pg: Open) -> None:
    """Waits until a load holds its lock on the table."""
    assert isinstance(pg.subject, PostgresSubject)
    async with asyncio.timeout(60):
        while not await pg.subject.fetch("SELECT FROM pg_locks WHERE relation = '\"{}\".t'::regclass"):
            await asyncio.sleep(0.005)


async def test_a_backend_killed_with_signal_nine_takes_all_connections_and_leaves_nothing_half(
    postgres: PostgresServer,
) -> None:
    async with PostgresKind(postgres).place() as pg:
        session, neighbour = await pg.session(), await pg.session("neighbour")
        await make(session, "t", SHAPE)
        assert isinstance(session, ServerSession)
        pid = session.link.driver.get_server_pid()
        load = asyncio.ensure_future(session.load(plan(1), [large()]))
        await _until_locked(pg)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(NotConnected):
            await load
        # the server ends everybody and recovers; until then it says so
        async with asyncio.timeout(60):
            while True:
                try:
                    again = await pg.session(epoch=2)
                    break
                except NotConnected:
                    await asyncio.sleep(0.05)
        with pytest.raises(NotConnected):
            await neighbour.marks()
        assert await again.marks() == {}
        assert await pg.rows("t", SHAPE) == []


async def test_the_kernel_watches_over_an_idle_connection(pg: Open) -> None:
    session = await pg.session()
    assert isinstance(session, ServerSession)
    plug = cast("Any", session.link.driver)._transport.get_extra_info("socket")
    assert plug.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize("dsn", ["postgresql://u:hunter2@[::1", "postgresql://u:hunter2@h:port/d"])
async def test_an_unreadable_dsn_is_not_repeated(pg: Open, dsn: str) -> None:
    wrong = await pg.another(dsn=dsn)
    with pytest.raises((SetupError, Transient)) as refused:
        await wrong.open_session("shop-wh", 1)
    assert "hunter2" not in str(refused.value)


async def test_a_missing_permission_is_named_with_what_to_grant(postgres_server: PostgresServer, pg: Open) -> None:
    user = f"u_{secrets.token_hex(4)}"
    await pg.subject.run(f"CREATE ROLE {user} LOGIN PASSWORD 'p'")
    try:
        poor = await pg.another(dsn=postgres_server.dsn(user=user, password="p"))
        with pytest.raises(SetupError, match="permission"):
            await poor.open_session("shop-wh", 1)
        # the schema is there and may be used, its tables may not be made
        owner = await pg.session()
        await make(owner, "theirs", SHAPE)
        await pg.subject.run(f'GRANT USAGE ON SCHEMA "{{}}" TO {user}; GRANT ALL ON "{{}}"._penstock_loads TO {user}')
        session = await pg.session("poor", destination=poor)
        with pytest.raises(SetupError, match="grant it CREATE"):
            await make(session, "t", SHAPE)
        with pytest.raises(SetupError, match="grant it CREATE"):
            await session.load(plan(1), [TableLoad("theirs", arrow(SHAPE, [{"id": 1}]))])
        results = await poor.check()
        assert [(result.step, result.ok) for result in results] == [("reach", True), ("create", False), ("drop", True)]
        await session.close()
    finally:
        await pg.subject.run(f"DROP OWNED BY {user}; DROP ROLE {user}")


async def test_a_read_only_server_is_told_as_such(pg: Open) -> None:
    session = await pg.session()
    await make(session, "t", SHAPE)
    assert isinstance(session, ServerSession)
    await session.link.driver.execute("SET default_transaction_read_only = on")
    with pytest.raises(SetupError, match="read-only"):
        await session.load(plan(1), [batch()])


async def test_a_table_locked_by_somebody_else_is_tried_again_later(pg: Open) -> None:
    assert isinstance(pg.subject, PostgresSubject)
    impatient = await pg.another(lock_timeout="200ms")
    session = await pg.session(destination=impatient)
    await make(session, "t", SHAPE)
    link = await asyncpg.connect(pg.subject.dsn)
    try:
        await link.execute(f'BEGIN; LOCK TABLE "{pg.subject.schema}".t')
        # of this table only: its rows wait, and the others are loaded
        with pytest.raises(TableBusy, match="another session holds a lock"):
            await session.load(plan(1), [batch()])
    finally:
        await link.close()
    await session.load(plan(1), [batch()])
    assert len(await pg.rows("t", SHAPE)) == ROWS


async def test_characters_that_postgres_cannot_hold_name_all_their_rows(pg: Open) -> None:
    session = await pg.session()
    await pg.subject.run('CREATE TABLE "{}".t (id bigint, text text, short varchar(3), doc jsonb)')
    shape = {**SHAPE, "short": Kind.TEXT, "doc": Kind.JSON}
    for bad, good in (
        ({"text": "a\0b"}, {"text": "ab"}),
        ({"short": "four"}, {"short": "éé  "}),
        ({"doc": '{"a": "\\u0000"}'}, {"doc": '{"a": "\\\\u0000"}', "text": "\\u0000"}),
    ):
        rows = [{"id": n, **(bad if n in (4, 9, 2000) else good)} for n in range(2500)]
        with pytest.raises(RowsRejected) as refused:
            await append(session, 1, "t", shape, *rows)
        assert set(refused.value.rows) == {4, 9, 2000}
    assert await pg.rows("t", shape) == []


async def test_rows_that_a_constraint_refuses_are_named_in_an_append(pg: Open) -> None:
    session = await pg.session()
    await pg.subject.run('CREATE TABLE "{}".t (id bigint CHECK (id < 10), text text NOT NULL)')
    for rows in ([{"id": 1, "text": "a"}, {"id": 11, "text": "a"}], [{"id": 1, "text": "a"}, {"id": 2}]):
        with pytest.raises(RowsRejected) as refused:
            await append(session, 1, "t", SHAPE, *rows)
        assert set(refused.value.rows) == {1}


async def test_values_of_types_we_do_not_know_are_cast_by_the_server(pg: Open) -> None:
    assert isinstance(pg.subject, PostgresSubject)
    session = await pg.session()
    await pg.subject.run("CREATE TYPE \"{}\".mood AS ENUM ('sad', 'happy')")
    await pg.subject.run(
        'CREATE TABLE "{}".t (id bigint PRIMARY KEY, a uuid, b "{}".mood, c numeric, d text[], e inet, f interval, g json, h char(5), '
        "i timestamp, j smallint)"
    )
    live = (await session.describe(["t"]))["t"]
    assert live is not None
    shape = {name: column.kind for name, column in live.columns.items()}
    row = {
        "id": 1, "a": "00000000-0000-0000-0000-00000000000a", "b": "happy", "c": "1.50", "d": "{x,y}", "e": "10.0.0.1",
        "f": "1 day", "g": "[ 1]", "h": "ab", "j": 5,
    }  # fmt: skip
    await append(session, 1, "t", shape, row)
    await merge(session, 2, "t", shape, {**row, "b": "sad"}, {**row, "id": 2})
    found = await pg.subject.fetch(
        'SELECT a::text, b::text, c::text, d::text, e::text, f::text, g::text, h, j FROM "{}".t ORDER BY id'
    )
    expected = {
        "a": row["a"], "b": "sad", "c": "1.50", "d": "{x,y}", "e": "10.0.0.1/32", "f": "1 day", "g": "[ 1]", "h": "ab   ", "j": 5,
    }  # fmt: skip
    assert found == [expected, {**expected, "b": "happy"}]
    with pytest.raises(RowsRejected):
        await append(session, 3, "t", shape, {**row, "id": 3, "a": "not a uuid"})


@pytest.mark.parametrize("connection", ["a", "shop-wh", "x" * 63])
def test_the_name_of_a_backend_fits_and_is_found_again(connection: str) -> None:
    for epoch in (0, 7, 2**62):
        name = session_name("public", connection, epoch, 63)
        assert len(name.encode()) <= 63
        assert epoch_of(name, "public", connection, 63) == epoch
        assert epoch_of(name, "other", connection, 63) is None
        assert epoch_of(name, "public", connection + "y", 63) is None
    for stranger in ("", "psql", "penstock/check", "penstock/a/b/c"):
        assert epoch_of(stranger, "public", connection, 63) is None


def test_the_options_of_a_dsn_only_destination_are_enough() -> None:
    assert Options(dsn="postgresql://h/d").schema == "public"
