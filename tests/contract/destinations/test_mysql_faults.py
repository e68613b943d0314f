"""What only a real server and a real network can do to MySQL: lost connections, killed and hostile servers, refused users."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loader.contract.warehouse import Column, Kind, TableLoad, TablePatch
from loader.warehouses.mysql import MySQLDestination, MySQLSession
from loader.warehouses.mysql.connect import Options
from shared.errors import Fenced, NotConnected, PenstockError, Permanent, RowsRejected, SetupError, TableBusy, TableSetupError
from tests.support.delivery import Delivery
from tests.support.destinations.mysql import MySQLSubject
from tests.support.destinations.opened import Open, append, arrow, columns, make, merge, opened, plan
from tests.support.mysql import PASSWORD, MySQLServer
from tests.support.postgres import free_port
from tests.support.tcp_proxy import TcpProxy

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
ROWS = 3000


def batch(write: str) -> TableLoad:
    rows = arrow(SHAPE, [{"id": n, "text": f"row {n} {'x' * 100}"} for n in range(ROWS)])
    return TableLoad("t", rows, "merge", ("id",)) if write == "merge" else TableLoad("t", rows)


@pytest.fixture
async def my(mysql_server: MySQLServer) -> AsyncIterator[Open]:
    """A database of its own."""
    async with place(mysql_server) as one:
        yield one


@pytest.fixture(scope="module")
def mortal_mysql() -> Iterator[MySQLServer]:
    """A durable server that tests may kill; they start it again."""
    with MySQLServer(durable=True) as server:
        yield server


@asynccontextmanager
async def place(server: MySQLServer) -> AsyncIterator[Open]:
    subject = MySQLSubject(server.dsn())
    await subject.create()
    async with opened(subject) as one:
        yield one
    await subject.drop()


def subject_of(my: Open) -> MySQLSubject:
    assert isinstance(my.subject, MySQLSubject)
    return my.subject


@asynccontextmanager
async def proxied(server: MySQLServer, my: Open, **options: Any) -> AsyncIterator[tuple[TcpProxy, MySQLDestination]]:
    """The same place, reached through a proxy."""
    async with TcpProxy(server.port) as proxy:
        destination = await my.another(port=proxy.port, ssl="disable", **options)
        assert isinstance(destination, MySQLDestination)
        yield proxy, destination


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("write", ["append", "merge"])
async def test_a_connection_lost_at_any_byte_of_a_load_is_recovered_without_loss_or_repeat(
    mysql_server: MySQLServer, my: Open, write: str
) -> None:
    async with proxied(mysql_server, my) as (proxy, destination):
        session = await my.session(destination=destination)
        await make(session, "t", SHAPE, ["id"] if write == "merge" else None)
        await session.load(plan(1), [batch(write)])
        await my.subject.run('TRUNCATE "{}".t')
        before = proxy.sent
        await session.load(plan(2), [batch(write)])
        whole = proxy.sent - before

        # through the statements at both ends in steps, through the rows in leaps
        points = [*range(1, 2400, 97), *range(2400, whole - 1500, whole // 6), *range(whole - 1500, whole + 1, 61), whole]
        sequence, epoch = 2, 1
        lost = 0
        for point in points:
            sequence += 1
            assert isinstance(session, MySQLSession)
            if session._link.closed:
                epoch += 1
                session = await my.session(epoch=epoch, destination=destination)
            await my.subject.run('TRUNCATE "{}".t')
            proxy.after(point, proxy.cut)
            try:
                await session.load(plan(sequence), [batch(write)])
            except NotConnected:
                lost += 1
                epoch += 1
                session = await my.session(epoch=epoch, destination=destination)
                loaded = (await session.marks()).get(("t", "live-1"), 0) >= sequence
                assert len(await my.subject.rows("t", SHAPE)) == (ROWS if loaded else 0), point
                if not loaded:
                    await session.load(plan(sequence), [batch(write)])
            assert len(await my.subject.rows("t", SHAPE)) == ROWS, point
        assert lost >= len(points) - 3


@pytest.mark.parametrize("call", ["open", "marks", "describe", "patch"])
async def test_a_connection_lost_in_other_calls_is_told_as_such(mysql_server: MySQLServer, my: Open, call: str) -> None:
    async with proxied(mysql_server, my) as (proxy, destination):
        session = await my.session(destination=destination)
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
        again = await my.session(epoch=2)
        assert (await again.describe(["t"]))["t"] is not None


async def test_a_network_that_swallows_bytes_ends_in_a_timeout_and_nothing_is_loaded(mysql_server: MySQLServer, my: Open) -> None:
    async with proxied(mysql_server, my, stall_timeout="1s", statement_timeout="1s") as (proxy, destination):
        session = await my.session(destination=destination)
        await make(session, "t", SHAPE)
        for point in (100_000, 50):
            proxy.after(point, proxy.vanish)
            with pytest.raises(NotConnected):
                await session.load(plan(1), [batch("append")])
            proxy.flow()
            proxy.cut()
            session = await my.session(epoch=2, destination=destination)
        assert await my.rows("t", SHAPE) == []


async def test_a_server_that_answers_nobody_during_a_long_statement_is_given_up_long_before_the_statement_timeout(
    mysql_server: MySQLServer, my: Open
) -> None:
    limits = {"stall_timeout": "500ms", "connect_timeout": "500ms", "statement_timeout": "10m"}
    async with proxied(mysql_server, my, **limits) as (proxy, destination):
        session = await my.session(destination=destination)
        await make(session, "t", SHAPE)
        proxy.after(100_000, proxy.vanish)
        async with asyncio.timeout(15):
            with pytest.raises(NotConnected):
                await session.load(plan(1), [batch("append")])


async def test_a_long_statement_of_a_server_that_answers_is_waited_for(my: Open) -> None:
    patient = await my.another(stall_timeout="300ms", connect_timeout="5s")
    session = await my.session(destination=patient)
    await make(session, "t", SHAPE)
    await my.subject.run("CREATE TRIGGER {}.slow AFTER INSERT ON {}.t FOR EACH ROW DO SLEEP(IF(NEW.id = 7, 2, 0))")
    await session.load(plan(1), [batch("append")])
    assert len(await my.rows("t", SHAPE)) == ROWS


async def test_a_loader_frozen_in_the_middle_of_its_rows_holds_nothing_from_its_successor(
    mysql_server: MySQLServer, my: Open
) -> None:
    async with proxied(mysql_server, my, stall_timeout="15s") as (proxy, destination):
        frozen = await my.session(destination=destination)
        await make(frozen, "t", SHAPE, ["id"])
        proxy.after(100_000, proxy.vanish)
        load = asyncio.ensure_future(frozen.load(plan(1), [batch("merge")]))
        await _until_loading(my)
        successor = await my.session(epoch=2)
        await successor.patch(TablePatch("t", add=columns({"more": Kind.TEXT})))
        await successor.load(plan(1), [batch("merge")])
        proxy.flow()
        with pytest.raises((Fenced, NotConnected)):
            await load
        assert len(await my.rows("t", SHAPE)) == ROWS


async def _until_loading(my: Open) -> None:
    """Waits until a load is in its transaction."""
    for _ in range(1000):
        if await subject_of(my).fetch("SELECT 1 AS one FROM information_schema.processlist WHERE info LIKE 'LOAD DATA LOCAL%'"):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the load never began")


async def test_the_epoch_can_be_raised_while_rows_travel_and_the_load_that_was_under_way_is_fenced(my: Open) -> None:
    session = await my.session()
    await make(session, "t", SHAPE)
    big = arrow(SHAPE, [{"id": n, "text": "x" * 500} for n in range(100_000)])
    load = asyncio.ensure_future(session.load(plan(1), [TableLoad("t", big)]))
    await _until_loading(my)
    await my.subject.run("UPDATE \"{}\"._penstock_loads SET epoch = 2 WHERE table_name = ''")
    with pytest.raises(Fenced):
        await load
    assert await my.rows("t", SHAPE) == []


@pytest.mark.parametrize("when", ["idle", "loading"])
async def test_a_connection_that_an_administrator_ends_is_lost_at_once(my: Open, when: str) -> None:
    session = await my.session()
    await make(session, "t", SHAPE)
    assert isinstance(session, MySQLSession)
    big = arrow(SHAPE, [{"id": n, "text": "x" * 500} for n in range(100_000)])
    end = f"KILL CONNECTION {session._link.server_thread_id[0]}"
    if when == "loading":
        load = asyncio.ensure_future(session.load(plan(1), [TableLoad("t", big)]))
        await _until_loading(my)
        await my.subject.run(end)
    else:
        await my.subject.run(end)
        load = asyncio.ensure_future(session.load(plan(1), [TableLoad("t", big)]))
    async with asyncio.timeout(15):  # half of the time after which it would count as stalled
        with pytest.raises(NotConnected):
            await load
    again = await my.session(epoch=2)
    assert await my.rows("t", SHAPE) == []
    await again.load(plan(1), [batch("append")])
    assert len(await my.rows("t", SHAPE)) == ROWS


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_server_killed_in_the_middle_of_loads_loses_and_repeats_nothing(mortal_mysql: MySQLServer) -> None:
    async with place(mortal_mysql) as my:
        session = await my.session()
        await make(session, "t", SHAPE)
        size = 20_000
        rows = [arrow(SHAPE, [{"id": part * size + n, "text": "x" * 200} for n in range(size)]) for part in range(7)]
        epoch = 1
        for part, delay in enumerate([0.0, 0.01, 0.03, 0.06, 0.12, 0.25, 0.4]):
            load = asyncio.ensure_future(session.load(plan(part + 1), [TableLoad("t", rows[part])]))
            await asyncio.sleep(delay)
            await asyncio.to_thread(mortal_mysql.kill)
            outcome = (await asyncio.gather(load, return_exceptions=True))[0]
            assert not isinstance(outcome, BaseException) or isinstance(outcome, NotConnected), outcome
            with pytest.raises(NotConnected):
                await my.destination.open_session("shop-wh", epoch + 1)
            await asyncio.to_thread(mortal_mysql.start)
            epoch += 1
            session = await my.session(epoch=epoch)
            loaded = (await session.marks()).get(("t", "live-1"), 0) > part
            assert loaded or isinstance(outcome, NotConnected), "what was reported as committed is there after the crash"
            if not loaded:
                await session.load(plan(part + 1), [TableLoad("t", rows[part])])
        (found,) = await subject_of(my).fetch("SELECT count(*) AS times, count(DISTINCT id) AS ids FROM `{}`.t")
        assert found == {"times": 7 * size, "ids": 7 * size}


@pytest.mark.parametrize("step", ["ALTER TABLE", "UPDATE", "DROP COLUMN"])
async def test_a_loader_killed_between_the_steps_of_a_widening_leaves_every_value(my: Open, step: str) -> None:
    session = await my.session()
    await make(session, "t", {"id": Kind.BIGINT, "v": Kind.BOOLEAN})
    await append(session, 1, "t", {"id": Kind.BIGINT, "v": Kind.BOOLEAN}, {"id": 1, "v": True}, {"id": 2})
    assert isinstance(session, MySQLSession)
    run = session._link.run

    async def dying(statement: str) -> Any:
        if step in statement and "_penstock_widened" in statement:
            session._link.close()
        return await run(statement)

    session._link.run = dying  # type: ignore[method-assign]
    with pytest.raises(NotConnected):
        await session.patch(TablePatch("t", widen=(Column("v", Kind.TEXT),)))
    again = await my.session(epoch=2)
    patched = await again.patch(TablePatch("t", widen=(Column("v", Kind.TEXT),)))
    assert {name: column.kind for name, column in patched.columns.items()} == {"id": Kind.BIGINT, "v": Kind.TEXT}
    assert [row["v"] for row in await my.rows("t", {"id": Kind.BIGINT, "v": Kind.TEXT})] == ["true", None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"password": "wrong-and-secret"}, "password is wrong"),
        ({"user": "nobody-of-that-name"}, "user name"),
        ({"database": "nowhere"}, "database does not exist"),
        ({"host": "no-such-host.invalid"}, "host name is unknown"),
        ({"ssl": "require"}, "does not speak TLS.*ssl"),
    ],
)
async def test_what_a_person_must_mend_is_said_without_the_password(my: Open, options: dict[str, Any], words: str) -> None:
    wrong = await my.another(**options)
    with pytest.raises((SetupError, NotConnected), match=words) as refused:
        await wrong.open_session("shop-wh", 1)
    results = await wrong.check()
    assert [(result.step, result.ok) for result in results] == [("reach", False)]
    for text in (str(refused.value), results[0].message):
        assert PASSWORD not in text
        assert "wrong-and-secret" not in text


async def test_a_server_that_is_not_there_is_not_connected(my: Open) -> None:
    away = await my.another(host="127.0.0.1", port=free_port())
    with pytest.raises(NotConnected, match="connection is refused"):
        await away.open_session("shop-wh", 1)


async def test_a_missing_permission_is_named_with_what_to_grant(mysql_server: MySQLServer, my: Open) -> None:
    user = f"u_{secrets.token_hex(4)}"
    await my.subject.run(f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'p'")
    try:
        poor = await my.another(user=user, password="p")
        with pytest.raises(SetupError, match=r"may not use this database|lacks a permission"):
            await poor.open_session("shop-wh", 1)
        owner = await my.session()
        await make(owner, "theirs", SHAPE)
        await my.subject.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {{}}._penstock_loads TO {user}@'127.0.0.1'")
        session = await my.session("poor", destination=poor)
        with pytest.raises(SetupError, match="grant it"):
            await make(session, "t", SHAPE)
        with pytest.raises(PenstockError):
            await session.load(plan(1), [TableLoad("theirs", arrow(SHAPE, [{"id": 1}]))])
        await session.close()
    finally:
        await my.subject.run(f"DROP USER {user}@'127.0.0.1'")


async def test_a_server_without_local_infile_is_told_with_the_setting(my: Open) -> None:
    session = await my.session()
    await make(session, "t", SHAPE)
    await my.subject.run("SET GLOBAL local_infile = 0")
    try:
        with pytest.raises(SetupError, match="local_infile = 1"):
            await session.load(plan(1), [batch("append")])
    finally:
        await my.subject.run("SET GLOBAL local_infile = 1")
    # the same session goes on
    await session.load(plan(1), [batch("append")])
    assert len(await my.rows("t", SHAPE)) == ROWS


async def test_a_read_only_server_is_told_as_such(my: Open) -> None:
    session = await my.session()
    await make(session, "t", SHAPE)
    assert isinstance(session, MySQLSession)
    await session._link.run("SET SESSION TRANSACTION READ ONLY")
    with pytest.raises(SetupError, match="read-only"):
        await session.load(plan(1), [batch("append")])


async def test_a_table_locked_by_another_session_is_tried_again_later(my: Open) -> None:
    impatient = await my.another(lock_timeout="1s")
    session = await my.session(destination=impatient)
    await make(session, "t", SHAPE)
    holder = await my.session("holder")
    assert isinstance(holder, MySQLSession)
    await holder._link.run(f"LOCK TABLES `{subject_of(my).schema}`.t WRITE")
    # of this table only: its rows wait, and the others are loaded
    with pytest.raises(TableBusy, match="another session holds a lock"):
        await session.load(plan(1), [batch("append")])
    await holder._link.run("UNLOCK TABLES")
    await session.load(plan(1), [batch("append")])
    assert len(await my.rows("t", SHAPE)) == ROWS


async def test_a_table_that_takes_nothing_back_is_refused(my: Open) -> None:
    session = await my.session()
    await my.subject.run("CREATE TABLE {}.t (id bigint, text longtext) ENGINE = MyISAM")
    with pytest.raises(TableSetupError, match="ENGINE = InnoDB"):
        await session.load(plan(1), [batch("append")])
    assert await my.rows("t", SHAPE) == []


async def test_keys_keep_blanks_and_case_apart_and_long_ones_are_refused_whole(my: Open) -> None:
    one = Delivery(my, await my.session(), deduplicate=True)
    keys = ["a", "a ", "A", "á", "x" * 255]
    assert await one.send(*({"messageId": key} for key in keys)) == {}
    dead = await one.send({"messageId": "y" * 256}, {"messageId": "z"})
    assert list(dead) == ["y" * 256]
    found = await my.rows("events", {"message_id": Kind.TEXT}, "message_id")
    assert {row["message_id"] for row in found} == {*keys, "z"}


async def test_a_merge_never_touches_the_row_of_another_key_that_shares_a_unique_value(my: Open) -> None:
    session = await my.session()
    await my.subject.run("CREATE TABLE {}.t (id bigint PRIMARY KEY, email varchar(99) UNIQUE, n bigint, at datetime(6))")
    shape = {"id": Kind.BIGINT, "email": Kind.TEXT, "n": Kind.BIGINT}
    await merge(session, 1, "t", shape, {"id": 1, "email": "a", "n": 1}, {"id": 2, "email": "b", "n": 1})
    with pytest.raises(RowsRejected):
        await merge(session, 2, "t", shape, {"id": 3, "email": "a", "n": 2})
    await merge(session, 3, "t", shape, {"id": 2, "email": "c", "n": 3}, {"id": 3, "email": "b", "n": 3}, cursor="n")
    await merge(session, 4, "t", shape, {"id": 2, "n": 2}, {"id": 1, "n": 4}, cursor="n", coalesce=True)
    found = [tuple(row.values()) for row in await my.rows("t", shape)]
    assert found == [(1, "a", 4), (2, "c", 3), (3, "b", 3)]


async def test_a_table_of_a_thousand_columns_takes_rows_and_refuses_only_one_that_no_page_holds(my: Open) -> None:
    session = await my.session()
    shape = {"id": Kind.TEXT, **{f"c{n}": Kind.TEXT for n in range(990)}}
    made = await session.patch(TablePatch("t", add=columns(shape), primary_key=("id",)))
    assert not made.refused
    assert len(made.columns) == 991
    wide = {f"c{n}": "x" * 30 for n in range(990)}
    await append(session, 1, "t", shape, {"id": "a", "c1": "x" * 100_000})
    with pytest.raises(RowsRejected, match="Row size too large"):
        await append(session, 2, "t", shape, {"id": "b"}, {"id": "c", **wide})
    assert [row["id"] for row in await my.rows("t", shape)] == ["a"]


@pytest.mark.parametrize(
    "type_", ["varchar(3) DEFAULT 'x'", "int, z int", "int) --", "int PRIMARY KEY", "enum('a'", "text COMMENT 'x'"]
)
async def test_what_is_more_than_a_type_is_none(my: Open, type_: str) -> None:
    session = await my.session()
    with pytest.raises(Permanent):
        await session.patch(TablePatch("t", add=(Column("z", Kind.OTHER, type_),)))
    assert await session.describe(["t"]) == {"t": None}


async def test_a_hostile_server_gets_no_file_of_this_machine(tmp_path: Path, my: Open) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    got = bytearray()
    statements = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal statements
        greeting = b"\x0a8.0.36\0" + struct.pack("<I", 7) + b"12345678\0" + struct.pack("<H", 0xF7FF) + b"\x2d\x02\0"
        greeting += struct.pack("<H", 0x81FF) + b"\x15" + bytes(10) + b"123456789012\0mysql_native_password\0"
        writer.write(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
        ok = b"\0\0\0\x02\0\0\0"
        await _packet(reader)
        writer.write(len(ok).to_bytes(3, "little") + b"\x02" + ok)
        await _packet(reader)
        statements += 1
        asked = b"\xfb" + str(secret).encode()
        writer.write(len(asked).to_bytes(3, "little") + b"\x01" + asked)
        got.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        hostile = await my.another(host="127.0.0.1", port=port, ssl="disable")
        with pytest.raises(NotConnected, match="asked for a file"):
            await hostile.open_session("shop-wh", 1)
    assert statements == 1
    assert got == b""


async def _packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return await reader.readexactly(int.from_bytes(head[:3], "little"))


async def test_a_server_that_wants_the_password_in_the_clear_does_not_get_it(my: Open) -> None:
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = b"\x0a8.0.36\0" + struct.pack("<I", 7) + b"12345678\0" + struct.pack("<H", 0xF7FF) + b"\x2d\x02\0"
        greeting += struct.pack("<H", 0x81FF) + b"\x15" + bytes(10) + b"123456789012\0mysql_native_password\0"
        writer.write(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
        await _packet(reader)
        switch = b"\xfemysql_clear_password\0"
        writer.write(len(switch).to_bytes(3, "little") + b"\x02" + switch)
        got.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        hostile = await my.another(host="127.0.0.1", port=server.sockets[0].getsockname()[1], ssl="disable")
        with pytest.raises(SetupError, match="in the clear"):
            await hostile.open_session("shop-wh", 1)
    assert PASSWORD.encode() not in got


async def test_sessions_of_two_databases_do_not_end_each_other(mysql_server: MySQLServer, my: Open) -> None:
    async with place(mysql_server) as second:
        one = await my.session(epoch=1)
        await second.session(epoch=2)
        assert await one.marks() == {}


def test_the_parts_of_an_address_may_be_written_apart() -> None:
    assert Options(dsn="mysql://u:p%40ss@h:1/d").database is None
    assert Options(host="h", database="d").ssl == "prefer"
    for dsn in ("postgresql://h/d", "mysql://h", "mysql://h:x/d", "mysql://u:p@ss@h/d", "mysql://u:1/p@h/d", None):
        with pytest.raises(ValueError, match=r"dsn|database"):
            Options(dsn=dsn)
    for dsn in ("mysql://u:p@h/d?ssl-mode=VERIFY_IDENTITY", "mysql://u:p@h/d#s"):
        with pytest.raises(ValueError, match="options, such as `ssl: require`"):
            Options(dsn=dsn)
