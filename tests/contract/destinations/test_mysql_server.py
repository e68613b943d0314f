"""MySQL servers that are set up otherwise: with TLS, with names in one case, with little room, and what text looks like on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from loader.servers.session import ServerSession
from loader.warehouses.mysql.encode import encode
from penstock.control.data.query import ask
from shared.errors import Permanent, SetupError
from tests.contract.destinations.servers import SHAPE, MySQLKind
from tests.support.certificate import make_certificate
from tests.support.delivery import Delivery
from tests.support.destinations.opened import append, make, merge
from tests.support.mysql import MySQLServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, its key beside it."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def odd_server(certificate: Path) -> Iterator[MySQLServer]:
    """A server with TLS, whose tables have names in lower case."""
    settings = {"lower_case_table_names": "1"}
    with MySQLServer(durable=False, settings=settings, certificate=certificate) as server:
        yield server


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_encrypted_connections_load_and_an_unproven_server_is_refused(
    odd_server: MySQLServer, certificate: Path, loop: Any
) -> None:
    async def work() -> None:
        async with MySQLKind(odd_server).place() as my:
            for ssl in ("prefer", "require", "verify-ca", "verify-full"):
                trusted = {"ssl_root_certificate": str(certificate)} if ssl.startswith("verify") else {}
                session = await (await my.another(ssl=ssl, **trusted)).open_session(ssl, 1)
                assert isinstance(session, ServerSession)
                assert session.link._writer.get_extra_info("ssl_object") is not None
                await make(session, ssl, SHAPE)
                await session.close()
            with pytest.raises(SetupError, match="certificate"):
                await (await my.another(ssl="verify-full")).open_session("x", 1)
            with pytest.raises(SetupError, match="certificate"):
                other = await my.another(ssl="verify-full", ssl_root_certificate=str(certificate), host="localhost")
                await other.open_session("x", 1)

    loop(work())


async def test_a_server_that_folds_the_names_of_tables_gets_one_table_for_both(odd_server: MySQLServer) -> None:
    async with MySQLKind(odd_server).place() as my:
        one = Delivery(my, await my.session(), table="{{ event.event }}", original_names=True, deduplicate=True)
        assert await one.send({"messageId": "1", "event": "Orders", "N": 1}, {"messageId": "2", "event": "orders", "n": 2}) == {}
        again = Delivery(my, await my.session(epoch=2), table="{{ event.event }}", original_names=True, deduplicate=True)
        assert await again.send({"messageId": "3", "event": "ORDERS", "n": 3}) == {}
        assert not one.kept.aside
        assert not again.kept.aside
        found = [{name.lower(): value for name, value in row.items()} for row in await my.subject.rows("orders", {})]
        assert sorted((row["messageid"], row["n"]) for row in found) == [("1", 1), ("2", 2), ("3", 3)]


async def test_a_full_disk_is_a_matter_for_a_person_and_nothing_half_stays() -> None:
    little = {"innodb_file_per_table": "0", "innodb_data_file_path": "ibdata1:12M:autoextend:max:24M"}
    with MySQLServer(durable=False, settings=little) as server:
        async with MySQLKind(server).place() as my:
            session = await my.session()
            await make(session, "t", SHAPE, ["id"])
            rows = [{"id": n, "text": "x" * 2000} for n in range(20_000)]
            for write in (append, merge):
                with pytest.raises(SetupError, match="is full; free space"):
                    await write(session, 1, "t", SHAPE, *rows)
                assert await my.rows("t", SHAPE) == []
                assert await session.marks() == {}
            await append(session, 2, "t", SHAPE, *rows[:10])
            assert len(await my.rows("t", SHAPE)) == 10


async def test_a_question_is_answered_and_changes_nothing(mysql_server: MySQLServer) -> None:
    async with MySQLKind(mysql_server).place() as my:
        session = await my.session()
        await make(session, "t", SHAPE)
        await append(session, 1, "t", SHAPE, *({"id": n, "text": f"{n}"} for n in range(9)))
        answer = await ask("wh", my.subject.document, "SELECT id, text FROM t ORDER BY id", 2)
        assert (answer.columns, answer.rows, answer.more) == (["id", "text"], [[0, "0"], [1, "1"]], True)
        for sql in ("DELETE FROM t", "SELEKT 1", "DROP TABLE t"):
            with pytest.raises(Permanent):
                await ask("wh", my.subject.document, sql, 2)
        assert len(await my.rows("t", SHAPE)) == 9


TEXTS = st.text(st.sampled_from("a\\\t\n\r\0NbntZ'\"`;é\u2028😀 \x1a"), max_size=12) | st.text(max_size=20)


@given(st.lists(st.tuples(TEXTS | st.none(), TEXTS | st.none()), min_size=1, max_size=30), st.integers(0, 5))
def test_text_on_its_way_reads_as_it_was(rows: list[tuple[str | None, str | None]], offset: int) -> None:
    rows = [(a and a.encode("utf-8", "ignore").decode(), b and b.encode("utf-8", "ignore").decode()) for a, b in rows]
    table = pa.table({"a": pa.array([a for a, _ in rows], pa.string()), "b": pa.array([b for _, b in rows], pa.string())})
    sent = b"".join(encode(table.slice(offset)))
    assert read_as_the_server_does(sent) == rows[offset:]


def read_as_the_server_does(sent: bytes) -> list[tuple[str | None, ...]]:
    """Reads text as the manual of LOAD DATA says, by other code than it is written with."""
    escapes = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
    rows: list[tuple[str | None, ...]] = []
    fields: list[str | None] = []
    field, null, characters = "", False, iter(sent.decode())
    for character in characters:
        if character == "\\":
            code = next(characters)
            null = null or (code == "N" and not field)
            field += escapes.get(code, code)
        elif character in "\t\n":
            fields.append(None if null and field == "N" else field)
            field, null = "", False
            if character == "\n":
                rows.append(tuple(fields))
                fields = []
        else:
            field += character
    assert not field
    assert not fields
    return rows
