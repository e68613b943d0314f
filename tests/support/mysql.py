"""A real MariaDB server of our own: initialise, start, stop, kill -9, start again.

The binary comes from PATH or from Debian's `/usr/sbin/mariadbd`. As root it runs as the system user `mysql` or, where that is missing,
`nobody`. Without it `PENSTOCK_TEST_MYSQL_DSN` may name a server, of MySQL too, whose user may create databases; without either
everything that asks for MySQL fails: a suite that silently skips its warehouse is no suite.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.own_server import OwnServer

USER = "penstock"
PASSWORD = "secret-of-the-tests"
PROTOCOL = b"\x0a"


class MySQLServer(OwnServer):
    """One server; `start` may follow `stop` or `kill` and finds the same data on the same port.

    Args:
        durable: sync each commit. Without it a killed server loses nothing either, a killed machine does.
        certificate: what it proves itself with, `key.pem` beside it.
    """

    name = "mariadbd"

    def __init__(self, *, durable: bool = True, settings: dict[str, str] | None = None, certificate: Path | None = None) -> None:
        super().__init__(owner=_owner())
        self._server = find_server()
        self._data = self.directory / "data"
        self._settings = {
            "innodb_flush_log_at_trx_commit": "1" if durable else "2",
            "innodb_buffer_pool_size": "256M",
            "innodb_log_file_size": "256M" if durable else "96M",
            "local_infile": "1",
            # a server that starts removes what it takes for leftovers from the folder all would share otherwise
            "tmpdir": str(self.directory),
            **(settings or {}),
        }
        self._data.mkdir()
        self.give(self._data)
        if certificate is not None:  # the server may not look into the folders of tests
            for option, name in (("ssl_cert", certificate.name), ("ssl_key", "key.pem")):
                copy = Path(shutil.copy(certificate.parent / name, self.directory))
                self.give(copy)
                self._settings[option] = str(copy)
        self._init()

    def dsn(self, database: str = "penstock", user: str = USER, password: str = PASSWORD, port: int | None = None) -> str:
        """Returns the address of a database, over TCP with a password."""
        return f"mysql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    def command(self) -> Sequence[str | Path]:
        """Returns the server's command."""
        return [*self._settled(), f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.directory}/s"]

    def answers(self) -> bool:
        """Says whether it greets a client with the version of its protocol."""
        return self.greeting()[4:] == PROTOCOL

    def _settled(self) -> list[str | Path]:
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        return [self._server, "--no-defaults", f"--datadir={self._data}", f"--pid-file={self.directory}/pid", *settings]

    def _init(self) -> None:
        """Makes the server's own tables, and our user and database, without a connection."""
        script = self.directory / "init.sql"
        tables = Path("/usr/share/mysql")
        parts = [(tables / name).read_text() for name in ("mysql_system_tables.sql", "mysql_system_tables_data.sql")]
        script.write_text(
            "create database mysql;\nuse mysql;\n"
            + "\n".join(parts)
            + f"\nFLUSH PRIVILEGES;\nCREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            + f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1' WITH GRANT OPTION;\nCREATE DATABASE penstock;\n"
        )
        self.run([*self._settled(), "--bootstrap"], script)


def find_server() -> Path:
    """Returns the path of `mariadbd`.

    Raises:
        RuntimeError: it is not installed; says what to install.
    """
    on_path = shutil.which("mariadbd")
    for candidate in [Path(on_path)] if on_path else [Path("/usr/sbin/mariadbd")]:
        if candidate.exists():
            return candidate
    raise RuntimeError(
        "no MariaDB server found on PATH or in /usr/sbin; install one (`apt-get install mariadb-server-core`), or name a running "
        "one in PENSTOCK_TEST_MYSQL_DSN"
    )


async def run_sql(dsn: str, *statements: str) -> list[tuple[object, ...]]:
    """Runs statements; returns the rows of the last."""
    import aiomysql

    parts = urlsplit(dsn)
    link = await aiomysql.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password=parts.password, db=parts.path[1:], autocommit=True
    )
    try:
        async with link.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
            return list(await cursor.fetchall())
    finally:
        await link.ensure_closed()
        await asyncio.sleep(0)  # asyncio ends its transport then


def _owner() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("mysql").pw_name
    except KeyError:
        return "nobody"


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MySQLServer]:
    """A server for the whole run. Use a database of your own; a test that stops it asks for `mysql`."""
    with MySQLServer(durable=False) as server:
        yield server


@pytest.fixture
def mysql(mysql_server: MySQLServer) -> Iterator[MySQLServer]:
    """The server; the test may kill and stop it, the next finds it running."""
    yield mysql_server
    if not mysql_server.running:
        mysql_server.start()


@pytest.fixture(scope="session")
def mysql_dsn(request: pytest.FixtureRequest) -> str:
    """The address of a server where tests may create databases: our own, or `PENSTOCK_TEST_MYSQL_DSN`."""
    given = os.environ.get("PENSTOCK_TEST_MYSQL_DSN")
    if given:
        return given
    server: MySQLServer = request.getfixturevalue("mysql_server")
    return server.dsn()
