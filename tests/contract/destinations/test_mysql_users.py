"""Users and servers that MySQL's plug-in must tell apart: poor and read-only ones, locked tables, and hostile servers."""

from __future__ import annotations

import asyncio
import secrets
import struct
from pathlib import Path

import pytest

from loader.contract.warehouse import TableLoad
from loader.servers.session import ServerSession
from loader.warehouses.mysql.connect import Options
from shared.errors import NotConnected, SetupError, TableBusy, TableSetupError
from tests.contract.destinations.servers import ROWS, SHAPE, batch
from tests.support.destinations.mysql import MySQLSubject
from tests.support.destinations.opened import Open, arrow, make, plan
from tests.support.mysql import PASSWORD, MySQLServer


def subject_of(my: Open) -> MySQLSubject:
    assert isinstance(my.subject, MySQLSubject)
    return my.subject


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
        with pytest.raises(TableSetupError, match=r"SELECT command denied .*theirs.*grant it SELECT, INSERT, UPDATE"):
            await session.load(plan(1), [TableLoad("theirs", arrow(SHAPE, [{"id": 1}]))])
        results = await poor.check()
        assert [(result.step, result.ok) for result in results][:2] == [("reach", True), ("create", False)]
        assert "grant it SELECT" in results[1].message
        await session.close()
    finally:
        await my.subject.run(f"DROP USER {user}@'127.0.0.1'")


async def test_a_server_without_local_infile_is_told_with_the_setting(my: Open) -> None:
    session = await my.session()
    await make(session, "t", SHAPE)
    await my.subject.run("SET GLOBAL local_infile = 0")
    try:
        with pytest.raises(SetupError, match="local_infile = 1"):
            await session.load(plan(1), [batch()])
    finally:
        await my.subject.run("SET GLOBAL local_infile = 1")
    # the same session goes on
    await session.load(plan(1), [batch()])
    assert len(await my.rows("t", SHAPE)) == ROWS


async def test_a_read_only_server_is_told_as_such(my: Open) -> None:
    session = await my.session()
    await make(session, "t", SHAPE)
    assert isinstance(session, ServerSession)
    await session.link.run("SET SESSION TRANSACTION READ ONLY")
    with pytest.raises(SetupError, match="read-only"):
        await session.load(plan(1), [batch()])


async def test_a_table_locked_by_another_session_is_tried_again_later(my: Open) -> None:
    impatient = await my.another(lock_timeout="1s")
    session = await my.session(destination=impatient)
    await make(session, "t", SHAPE)
    holder = await my.session("holder")
    assert isinstance(holder, ServerSession)
    await holder.link.run(f"LOCK TABLES `{subject_of(my).schema}`.t WRITE")
    # of this table only: its rows wait, and the others are loaded
    with pytest.raises(TableBusy, match="another session holds a lock"):
        await session.load(plan(1), [batch()])
    await holder.link.run("UNLOCK TABLES")
    await session.load(plan(1), [batch()])
    assert len(await my.rows("t", SHAPE)) == ROWS


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


def test_the_parts_of_an_address_may_be_written_apart() -> None:
    assert Options(dsn="mysql://u:p%40ss@h:1/d").database is None
    assert Options(host="h", database="d").ssl == "prefer"
    for dsn in ("postgresql://h/d", "mysql://h", "mysql://h:x/d", "mysql://u:p@ss@h/d", "mysql://u:1/p@h/d", None):
        with pytest.raises(ValueError, match=r"dsn|database"):
            Options(dsn=dsn)
    for dsn in ("mysql://u:p@h/d?ssl-mode=VERIFY_IDENTITY", "mysql://u:p@h/d#s"):
        with pytest.raises(ValueError, match="options, such as `ssl: require`"):
            Options(dsn=dsn)
