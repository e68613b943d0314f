"""What is said where an address leads to no server, or to one of another kind: the place, and what to check."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from loader import registry
from loader.contract.warehouse import Environment
from shared.errors import NotConnected, PenstockError, SetupError
from shared.threads import ThreadGate
from tests.support.mysql import MySQLServer
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer

TYPES = ("mysql", "postgres")
LOGIN = {"user": "penstock", "password": "hunter2", "database": "shop", "connect_timeout": "500ms"}


async def refusal(type_name: str, **where: Any) -> PenstockError:
    """Returns what opening a session at an address raises."""
    gate = ThreadGate(1)
    destination = await registry.open_destination("wh", {"type": type_name, **LOGIN, **where}, Environment(gate))
    try:
        with pytest.raises(PenstockError) as refused:
            await destination.open_session("shop-wh", 1)
        results = await destination.check()
    finally:
        await destination.close()
        gate.close()
    assert [(result.step, result.ok) for result in results] == [("reach", False)]
    assert f'opening {type_name} destination "wh" at ' in str(refused.value)
    for text in (str(refused.value), results[0].message):
        assert "hunter2" not in text
    return refused.value


@asynccontextmanager
async def server_that(says: bytes, *, first: bool) -> AsyncIterator[int]:
    """Yields the port of a server that says something to each client: at once, or when the client has spoken."""
    serving: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(ConnectionError):
            if first:
                writer.write(says)
            while await reader.read(4096) and first:
                pass
            if not first:
                writer.write(says)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*filter(None, serving))


@pytest.mark.parametrize("ssl", ["prefer", "require", "disable"])
@pytest.mark.parametrize("type_name", TYPES)
async def test_a_web_server_behind_the_port_is_told_as_no_such_server(type_name: str, ssl: str) -> None:
    async with server_that(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", first=False) as port:
        refused = await refusal(type_name, host="127.0.0.1", port=port, ssl=ssl)
    assert re.search(rf"at 127\.0\.0\.1:{port}: .*check (`ssl`, )?`host` and `port`", str(refused))


@pytest.mark.parametrize("ssl", ["prefer", "disable"])
@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2p1\r\n", b"\x05\0\0\0\x0a8\0\1\2", b"\x01\0\0\0\x0a"])
async def test_a_server_that_greets_otherwise_is_told_as_no_such_server(type_name: str, greeting: bytes, ssl: str) -> None:
    async with server_that(greeting, first=True) as port:
        refused = await refusal(type_name, host="127.0.0.1", port=port, ssl=ssl)
    assert isinstance(refused, SetupError | NotConnected)
    assert re.search(rf"at 127\.0\.0\.1:{port}: .*check (`ssl`, )?`host` and `port`", str(refused))


async def test_each_of_the_two_behind_the_port_of_the_other_is_told_as_such(
    mysql_server: MySQLServer, postgres_server: PostgresServer
) -> None:
    refused = await refusal("mysql", host="127.0.0.1", port=postgres_server.port)
    assert "no MySQL server answered in time; check `host` and `port`" in str(refused)
    refused = await refusal("postgres", host="127.0.0.1", port=mysql_server.port)
    assert "no PostgreSQL server; check `ssl`, `host` and `port`" in str(refused)


@pytest.mark.parametrize("type_name", TYPES)
async def test_a_port_where_nothing_listens_is_told_with_what_to_check(type_name: str) -> None:
    refused = await refusal(type_name, host="127.0.0.1", port=free_port())
    assert isinstance(refused, NotConnected)
    assert "the connection is refused; check `host` and `port`" in str(refused)


@pytest.mark.parametrize("type_name", TYPES)
async def test_a_socket_that_is_not_there_is_named(type_name: str, tmp_path: Path) -> None:
    where = tmp_path / "none"
    refused = await refusal(type_name, **{"socket" if type_name == "mysql" else "host": str(where)})
    assert isinstance(refused, NotConnected)
    assert str(where) in str(refused)
    assert "there is no such socket; check where it is" in str(refused)


@pytest.mark.parametrize("type_name", TYPES)
async def test_certificates_that_cannot_be_read_are_named(type_name: str, tmp_path: Path) -> None:
    where = {"host": "127.0.0.1", "port": free_port(), "ssl": "verify-full", "ssl_root_certificate": str(tmp_path / "none.pem")}
    refused = await refusal(type_name, **where)
    assert isinstance(refused, SetupError)
    assert "ssl_root_certificate cannot be read" in str(refused)
