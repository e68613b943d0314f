"""What only a real server and a real network can do to Postgres: lost connections at every step, killed servers, refused users."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest

from loader.contract.warehouse import Kind, TableLoad, TablePatch
from loader.servers.session import ServerSession
from loader.warehouses.postgres import PostgresDestination
from loader.warehouses.postgres.connect import Options
from shared.driving.server import epoch_of, session_name
from shared.errors import Fenced, NotConnected, RowsRejected, SetupError, TableBusy, Transient
from tests.support.destinations.opened import Open, append, arrow, columns, make, merge, opened, plan
from tests.support.destinations.postgres import PostgresSubject
from tests.support.postgres import PASSWORD, PostgresServer, free_port
from tests.support.tcp_proxy import TcpProxy

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
ROWS = 3000


def batch(write: str) -> TableLoad:
    rows = arrow(SHAPE, [{"id": n, "text": f"row {n} {'x' * 100}"} for n in range(ROWS)])
    return TableLoad("t", rows, "merge", ("id",)) if write == "merge" else TableLoad("t", rows)


@pytest.fixture
async def pg(postgres_server: PostgresServer) -> AsyncIterator[Open]:
    """A schema of its own."""
    subject = PostgresSubject(postgres_server.dsn())
    async with opened(subject) as one:
        yield one
    await subject.drop()


@asynccontextmanager
async def proxied(server: PostgresServer, pg: Open, **options: Any) -> AsyncIterator[tuple[TcpProxy, PostgresDestination]]:
    """The same place, reached through a proxy."""
    async with TcpProxy(server.port) as proxy:
        # without TLS: the proxy counts the same bytes each time
        destination = await pg.another(dsn=server.dsn(port=proxy.port), ssl="disable", **options)
        assert isinstance(destination, PostgresDestination)
        yield proxy, destination


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("write", ["append", "merge"])
async def test_a_connection_lost_at_any_byte_of_a_load_is_recovered_without_loss_or_repeat(
    postgres_server: PostgresServer, pg: Open, write: str
) -> None:
    async with proxied(postgres_server, pg) as (proxy, destination):
        session = await pg.session(destination=destination)
        await make(session, "t", SHAPE, ["id"] if write == "merge" else None)
        await session.load(plan(1), [batch(write)])
        await pg.subject.run('TRUNCATE "{}".t')  # as below: rows without repeats travel another way
        before = proxy.sent
        await session.load(plan(2), [batch(write)])
        whole = proxy.sent - before

        # around the control statements at both ends byte by byte, through the rows in leaps
        points = [*range(1, 600, 23), *range(600, whole - 900, whole // 6), *range(whole - 900, whole + 1, 23), whole]
        sequence, epoch = 2, 1
        lost = 0
        for point in points:
            sequence += 1
            if session.link.closed:  # type: ignore[attr-defined]
                epoch += 1
                session = await pg.session(epoch=epoch, destination=destination)
            await pg.subject.run('TRUNCATE "{}".t')
            proxy.after(point, proxy.cut)
            try:
                await session.load(plan(sequence), [batch(write)])
            except NotConnected:
                lost += 1
                epoch += 1
                session = await pg.session(epoch=epoch, destination=destination)
                loaded = (await session.marks()).get(("t", "live-1"), 0) >= sequence
                assert len(await pg.subject.rows("t", SHAPE)) == (ROWS if loaded else 0), point
                if not loaded:
                    await session.load(plan(sequence), [batch(write)])
            assert len(await pg.subject.rows("t", SHAPE)) == ROWS, point
        assert lost >= len(points) - 3


@pytest.mark.parametrize("call", ["open", "marks", "describe", "patch"])
async def test_a_connection_lost_in_other_calls_is_told_as_such(postgres_server: PostgresServer, pg: Open, call: str) -> None:
    async with proxied(postgres_server, pg) as (proxy, destination):
        session = await pg.session(destination=destination)
        await make(session, "t", SHAPE)
        proxy.after(1, proxy.cut)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "open": lambda: destination.open_session("shop-wh", 2),
            "marks": session.marks,
            "describe": lambda: session.describe(["t"]),
            "patch": lambda: session.patch(TablePatch("t", add=columns({"more": Kind.TEXT}))),
        }
        with pytest.raises(NotConnected):
            await calls[call]()
        again = await pg.session(epoch=2)
        assert (await again.describe(["t"]))["t"] is not None


async def test_a_network_that_swallows_bytes_ends_in_a_timeout_and_nothing_is_loaded(
    postgres_server: PostgresServer, pg: Open
) -> None:
    async with proxied(postgres_server, pg, stall_timeout="1s", statement_timeout="1s") as (proxy, destination):
        session = await pg.session(destination=destination)
        await make(session, "t", SHAPE)
        for point in (100_000, 50):
            proxy.after(point, proxy.vanish)
            with pytest.raises(NotConnected):
                await session.load(plan(1), [batch("append")])
            proxy.flow()
            proxy.cut()
            session = await pg.session(epoch=2, destination=destination)
        assert await pg.rows("t", SHAPE) == []


async def test_a_server_that_answers_nobody_during_a_long_statement_is_given_up_long_before_the_statement_timeout(
    postgres_server: PostgresServer, pg: Open
) -> None:
    limits = {"stall_timeout": "500ms", "connect_timeout": "500ms", "statement_timeout": "10m"}
    async with proxied(postgres_server, pg, **limits) as (proxy, destination):
        session = await pg.session(destination=destination)
        await make(session, "t", SHAPE)
        proxy.after(100_000, proxy.vanish)
        async with asyncio.timeout(15):
            with pytest.raises(NotConnected):
                await session.load(plan(1), [batch("append")])


async def test_a_long_statement_of_a_server_that_answers_is_waited_for(pg: Open) -> None:
    patient = await pg.another(stall_timeout="200ms", connect_timeout="5s")
    session = await pg.session(destination=patient)
    await make(session, "t", SHAPE)
    slow = "CREATE FUNCTION {}.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$"
    await pg.subject.run(slow)
    await pg.subject.run("CREATE TRIGGER slow AFTER INSERT ON {}.t FOR EACH STATEMENT EXECUTE FUNCTION {}.slow()")
    await session.load(plan(1), [batch("append")])
    assert len(await pg.rows("t", SHAPE)) == ROWS


async def test_a_loader_frozen_in_the_middle_of_a_copy_holds_nothing_from_its_successor(
    postgres_server: PostgresServer, pg: Open
) -> None:
    async with proxied(postgres_server, pg, stall_timeout="15s") as (proxy, destination):
        frozen = await pg.session(destination=destination)
        await make(frozen, "t", SHAPE, ["id"])
        proxy.after(100_000, proxy.vanish)
        load = asyncio.ensure_future(frozen.load(plan(1), [batch("merge")]))
        # the successor comes by another way, while the frozen one holds a transaction with a lock on the table
        await _until_locked(pg)
        successor = await pg.session(epoch=2)
        await successor.patch(TablePatch("t", add=columns({"more": Kind.TEXT})))
        await successor.load(plan(1), [batch("merge")])
        proxy.flow()
        with pytest.raises((Fenced, NotConnected)):
            await load
        assert len(await pg.rows("t", SHAPE)) == ROWS


async def _until_locked(pg: Open) -> None:
    """Waits until a load holds its lock on the table."""
    assert isinstance(pg.subject, PostgresSubject)
    for _ in range(1000):
        if await pg.subject.fetch("SELECT FROM pg_locks WHERE relation = '\"{}\".t'::regclass"):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the load never took its lock")


async def test_the_epoch_can_be_raised_while_rows_travel_and_the_load_that_was_under_way_is_fenced(pg: Open) -> None:
    session = await pg.session()
    await make(session, "t", SHAPE)
    big = arrow(SHAPE, [{"id": n, "text": "x" * 500} for n in range(100_000)])
    load = asyncio.ensure_future(session.load(plan(1), [TableLoad("t", big)]))
    await _until_locked(pg)
    # a ledger locked for as long as the COPY takes would hold this up until the load is done, and then the load would win
    await pg.subject.run("SET lock_timeout = 100; UPDATE \"{}\"._penstock_loads SET epoch = 2 WHERE table_name = ''")
    with pytest.raises(Fenced):
        await load
    assert await pg.rows("t", SHAPE) == []


@pytest.mark.parametrize("when", ["idle", "loading"])
async def test_a_backend_that_an_administrator_ends_is_a_lost_connection(pg: Open, when: str) -> None:
    session = await pg.session()
    await make(session, "t", SHAPE)
    big = arrow(SHAPE, [{"id": n, "text": "x" * 500} for n in range(100_000)])
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'penstock/shop-wh/%'"
    if when == "loading":
        load = asyncio.ensure_future(session.load(plan(1), [TableLoad("t", big)]))
        await _until_locked(pg)
        await pg.subject.run(end)
    else:
        await pg.subject.run(end)
        load = asyncio.ensure_future(session.load(plan(1), [TableLoad("t", big)]))
    with pytest.raises(NotConnected):
        await load
    again = await pg.session(epoch=2)
    assert await pg.rows("t", SHAPE) == []
    await again.load(plan(1), [batch("append")])
    assert len(await pg.rows("t", SHAPE)) == ROWS


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_server_killed_in_the_middle_of_loads_loses_and_repeats_nothing(mortal_postgres: PostgresServer) -> None:
    subject = PostgresSubject(mortal_postgres.dsn())
    async with opened(subject) as pg:
        session = await pg.session()
        await make(session, "t", SHAPE)
        size = 20_000
        rows = [arrow(SHAPE, [{"id": part * size + n, "text": "x" * 200} for n in range(size)]) for part in range(8)]
        epoch = 1
        for part, delay in enumerate([0.0, 0.01, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3]):
            load = asyncio.ensure_future(session.load(plan(part + 1), [TableLoad("t", rows[part])]))
            await asyncio.sleep(delay)
            await asyncio.to_thread(mortal_postgres.kill)
            outcome = (await asyncio.gather(load, return_exceptions=True))[0]
            assert not isinstance(outcome, BaseException) or isinstance(outcome, NotConnected), outcome
            with pytest.raises(NotConnected):
                await pg.destination.open_session("shop-wh", epoch + 1)
            await asyncio.to_thread(mortal_postgres.start)
            epoch += 1
            session = await pg.session(epoch=epoch)
            loaded = (await session.marks()).get(("t", "live-1"), 0) > part
            assert loaded or isinstance(outcome, NotConnected), "what was reported as committed is there after the crash"
            if not loaded:
                await session.load(plan(part + 1), [TableLoad("t", rows[part])])
        (found,) = await subject.fetch('SELECT count(*), count(DISTINCT id) AS ids FROM "{}".t')
        assert found == {"count": 8 * size, "ids": 8 * size}


async def test_a_backend_killed_with_signal_nine_takes_all_connections_and_leaves_nothing_half(
    mortal_postgres: PostgresServer,
) -> None:
    subject = PostgresSubject(mortal_postgres.dsn())
    async with opened(subject) as pg:
        session, neighbour = await pg.session(), await pg.session("neighbour")
        await make(session, "t", SHAPE)
        assert isinstance(session, ServerSession)
        pid = session.link.driver.get_server_pid()
        big = arrow(SHAPE, [{"id": n, "text": "x" * 500} for n in range(100_000)])
        load = asyncio.ensure_future(session.load(plan(1), [TableLoad("t", big)]))
        await _until_locked(pg)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(NotConnected):
            await load
        # the server ends everybody and recovers; until then it says so
        again = None
        for _ in range(200):
            try:
                again = await pg.session(epoch=2)
                break
            except NotConnected:
                await asyncio.sleep(0.05)
        assert again is not None
        with pytest.raises(NotConnected):
            await neighbour.marks()
        assert await again.marks() == {}
        assert await pg.rows("t", SHAPE) == []


async def test_the_kernel_watches_over_an_idle_connection(pg: Open) -> None:
    session = await pg.session()
    assert isinstance(session, ServerSession)
    plug = cast("Any", session.link.driver)._transport.get_extra_info("socket")
    assert plug.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"password": "wrong-and-secret"}, "password"),
        ({"user": "nobody-of-that-name"}, "user"),
        ({"database": "nowhere"}, r"database.*does not exist"),
        ({"host": "no-such-host.invalid"}, "host name is unknown"),
        ({"ssl": "require"}, "ssl"),
    ],
)
async def test_what_a_person_must_mend_is_said_without_the_password(pg: Open, options: dict[str, Any], words: str) -> None:
    wrong = await pg.another(**options)
    with pytest.raises((SetupError, NotConnected), match=words) as refused:
        await wrong.open_session("shop-wh", 1)
    results = await wrong.check()
    assert [(result.step, result.ok) for result in results] == [("reach", False)]
    for text in (str(refused.value), results[0].message):
        assert PASSWORD not in text
        assert "wrong-and-secret" not in text


@pytest.mark.parametrize("dsn", ["postgresql://u:hunter2@[::1", "postgresql://u:hunter2@h:port/d"])
async def test_an_unreadable_dsn_is_not_repeated(pg: Open, dsn: str) -> None:
    wrong = await pg.another(dsn=dsn)
    with pytest.raises((SetupError, Transient)) as refused:
        await wrong.open_session("shop-wh", 1)
    assert "hunter2" not in str(refused.value)


async def test_a_server_that_is_not_there_is_not_connected(pg: Open) -> None:
    assert isinstance(pg.subject, PostgresSubject)
    away = await pg.another(host="127.0.0.1", port=free_port())
    with pytest.raises(NotConnected):
        await away.open_session("shop-wh", 1)


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
        await session.load(plan(1), [batch("append")])


async def test_a_table_locked_by_somebody_else_is_tried_again_later(pg: Open) -> None:
    assert isinstance(pg.subject, PostgresSubject)
    impatient = await pg.another(lock_timeout="200ms")
    session = await pg.session(destination=impatient)
    await make(session, "t", SHAPE)
    link = await asyncpg.connect(pg.subject.dsn)
    try:
        await link.execute(f'BEGIN; LOCK TABLE "{pg.subject.schema}".t')
        # of this table only: its rows wait, and the others are loaded
        with pytest.raises(TableBusy, match="somebody holds a lock"):
            await session.load(plan(1), [batch("append")])
    finally:
        await link.close()
    await session.load(plan(1), [batch("append")])
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


async def test_sessions_of_two_schemas_do_not_end_each_other(postgres_server: PostgresServer, pg: Open) -> None:
    other = PostgresSubject(postgres_server.dsn())
    async with opened(other) as second:
        one = await pg.session(epoch=1)
        await second.session(epoch=2)
        assert await one.marks() == {}
    await other.drop()


def test_the_options_of_a_dsn_only_destination_are_enough() -> None:
    assert Options(dsn="postgresql://h/d").schema == "public"
