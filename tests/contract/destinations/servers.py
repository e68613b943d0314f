"""Kinds of servers that a client reaches over TCP, for the scenarios of `test_server_faults.py`: what each does in its own dialect.

A new kind gets its class here and its line in `KINDS`; then every fault meets it too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Protocol

from loader.contract.warehouse import Kind, TableLoad
from tests.support.destinations.mysql import MySQLSubject
from tests.support.destinations.opened import Open, arrow, opened
from tests.support.destinations.postgres import PostgresSubject
from tests.support.mysql import MySQLServer
from tests.support.postgres import PostgresServer

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
ROWS = 600


def batch(write: str = "append") -> TableLoad:
    """Returns a load into table `t` that travels in more than one packet."""
    rows = arrow(SHAPE, [{"id": n, "text": f"row {n} {'x' * 600}"} for n in range(ROWS)])
    return TableLoad("t", rows, "merge", ("id",)) if write == "merge" else TableLoad("t", rows)


def large() -> TableLoad:
    """Returns a load into table `t` that takes long enough to be met in the middle."""
    return TableLoad("t", arrow(SHAPE, [{"id": n, "text": "x" * 500} for n in range(100_000)]))


class Server(Protocol):
    """A server of our own."""

    port: int

    def kill(self) -> None:
        """`kill -9`."""
        ...

    def start(self) -> None:
        """Starts it again on the same data and port."""
        ...


class ServerKind(Protocol):
    """A kind of server."""

    @property
    def server(self) -> Server:
        """The server itself."""
        ...

    @property
    def words(self) -> Mapping[str, str]:
        """What the plug-in says of a wrong option, as a pattern, by the option."""
        ...

    @property
    def slow(self) -> Sequence[str]:
        """Statements after which a load into `t` takes two seconds at the server; `{}` stands for the schema."""
        ...

    def place(self) -> AbstractAsyncContextManager[Open]:
        """Opens a place of its own, which is gone afterwards."""
        ...

    def by(self, port: int) -> dict[str, Any]:
        """Returns options that lead to the same place by another port, without TLS, so that a proxy counts the same bytes each time."""
        ...

    async def counted(self, one: Open) -> tuple[int, int]:
        """Returns how many rows table `t` has, and how many ids."""
        ...

    async def loading(self, one: Open) -> bool:
        """Says whether a load into `t` is under way."""
        ...

    async def end_sessions(self, one: Open) -> None:
        """Ends the sessions of the plug-in as an administrator does."""
        ...


class PostgresKind:
    """Postgres: a place is a schema."""

    words: ClassVar[Mapping[str, str]] = {
        "password": "password",
        "user": "user",
        "database": "database.*does not exist",
        "ssl": "ssl",
    }
    slow = (
        "CREATE FUNCTION {}.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$",
        "CREATE TRIGGER slow AFTER INSERT ON {}.t FOR EACH STATEMENT EXECUTE FUNCTION {}.slow()",
    )

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Open]:
        """Opens a schema."""
        subject = PostgresSubject(self.server.dsn())
        async with opened(subject) as one:
            yield one
        await subject.drop()

    def by(self, port: int) -> dict[str, Any]:
        """Returns the same address with another port."""
        return {"dsn": self.server.dsn(port=port), "ssl": "disable"}

    async def counted(self, one: Open) -> tuple[int, int]:
        """Counts at the server."""
        assert isinstance(one.subject, PostgresSubject)
        (found,) = await one.subject.fetch('SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM "{}".t')
        return found["rows"], found["ids"]

    async def loading(self, one: Open) -> bool:
        """Looks for the lock on the table."""
        assert isinstance(one.subject, PostgresSubject)
        return bool(await one.subject.fetch("SELECT FROM pg_locks WHERE relation = '\"{}\".t'::regclass"))

    async def end_sessions(self, one: Open) -> None:
        """Terminates backends."""
        await one.subject.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'penstock/shop-wh/%'"
        )


class MySQLKind:
    """MySQL: a place is a database."""

    words: ClassVar[Mapping[str, str]] = {
        "password": "password is wrong",
        "user": "user name",
        "database": "database does not exist",
        "ssl": "does not speak TLS.*ssl",
    }
    slow = (f"CREATE TRIGGER {{}}.slow AFTER INSERT ON {{}}.t FOR EACH ROW DO SLEEP(IF(NEW.id = {ROWS - 1}, 2, 0))",)

    def __init__(self, server: MySQLServer) -> None:
        self.server = server

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Open]:
        """Opens a database."""
        subject = MySQLSubject(self.server.dsn())
        await subject.create()
        async with opened(subject) as one:
            yield one
        await subject.drop()

    def by(self, port: int) -> dict[str, Any]:
        """Returns the other port beside the address."""
        return {"port": port, "ssl": "disable"}

    async def counted(self, one: Open) -> tuple[int, int]:
        """Counts at the server."""
        assert isinstance(one.subject, MySQLSubject)
        (found,) = await one.subject.fetch("SELECT count(*) AS times, count(DISTINCT id) AS ids FROM `{}`.t")
        return found["times"], found["ids"]

    async def loading(self, one: Open) -> bool:
        """Looks for the statement."""
        assert isinstance(one.subject, MySQLSubject)
        return bool(
            await one.subject.fetch("SELECT 1 AS one FROM information_schema.processlist WHERE info LIKE 'LOAD DATA LOCAL%'")
        )

    async def end_sessions(self, one: Open) -> None:
        """Kills connections to the place."""
        assert isinstance(one.subject, MySQLSubject)
        others = "SELECT id AS id FROM information_schema.processlist WHERE db = '{}' AND id <> connection_id()"
        for row in await one.subject.fetch(others):
            await one.subject.run(f"KILL CONNECTION {row['id']}")


KINDS: dict[str, type[PostgresKind] | type[MySQLKind]] = {"postgres": PostgresKind, "mysql": MySQLKind}
"""By the fixture of a server that may be killed."""
