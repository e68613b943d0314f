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
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.postgres import free_port

USER = "penstock"
PASSWORD = "secret-of-the-tests"
START_SECONDS = 60.0


class MySQLServer:
    """One server; `start` may follow `stop` or `kill` and finds the same data on the same port."""

    def __init__(self, *, durable: bool = True, settings: dict[str, str] | None = None, certificate: Path | None = None) -> None:
        self._server = find_server()
        self._owner = _owner()
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-my-", dir="/tmp"))
        self._data = self.directory / "data"
        self._settings = {
            "innodb_flush_log_at_trx_commit": "1" if durable else "0",
            "innodb_buffer_pool_size": "256M",
            "innodb_log_file_size": "256M" if durable else "96M",
            "local_infile": "1",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._data.mkdir()
        for path in (self.directory, self._data):
            self._give(path)
        if certificate is not None:  # with its key beside it; the server may not look into the folders of tests
            for option, name in (("ssl_cert", certificate.name), ("ssl_key", "key.pem")):
                copy = Path(shutil.copy(certificate.parent / name, self.directory))
                self._give(copy)
                self._settings[option] = str(copy)
        self._init()

    def dsn(self, database: str = "penstock", user: str = USER, password: str = PASSWORD, port: int | None = None) -> str:
        """Returns the address of a database, over TCP with a password."""
        return f"mysql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it answers; recovery after a kill is part of the wait.

        Raises:
            RuntimeError: it did not start; with the end of its log.
        """
        log = self.directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command(), f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.directory}/s"],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.directory, user=self._owner, group=self._group(),
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if "ready for connections" in log.read_text(errors="replace").rpartition("penstock-start")[2] and _answers(self.port):
                with log.open("a") as output:
                    output.write("penstock-start\n")
                return
            time.sleep(0.05)
        self._process.kill()
        self._process.wait()
        self._process = None
        raise RuntimeError(f"mariadbd did not start on port {self.port}:\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stops it as an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """Returns the server's processes, for CPU accounting."""
        return [psutil.Process(self.pid)]

    def __enter__(self) -> MySQLServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self.kill()  # nothing of it is needed any more
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(timeout=START_SECONDS)

    def _command(self) -> list[str]:
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        return [str(self._server), "--no-defaults", f"--datadir={self._data}", f"--pid-file={self.directory}/pid", *settings]

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
        self._give(script)
        with script.open("rb") as source:
            done = subprocess.run(
                [*self._command(), "--bootstrap"],
                stdin=source, capture_output=True, check=False, cwd=self.directory, user=self._owner, group=self._group(),
            )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"mariadbd --bootstrap failed: {done.stderr.decode()[-2000:]}")

    def _group(self) -> int | None:
        return None if self._owner is None else pwd.getpwnam(self._owner).pw_gid

    def _give(self, path: Path) -> None:
        if self._owner is not None:
            entry = pwd.getpwnam(self._owner)
            os.chown(path, entry.pw_uid, entry.pw_gid)


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


def _answers(port: int) -> bool:
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MySQLServer]:
    """A server for the whole run. Use a database of your own; do not stop it."""
    with MySQLServer(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def mysql_dsn(request: pytest.FixtureRequest) -> str:
    """The address of a server where tests may create databases: our own, or `PENSTOCK_TEST_MYSQL_DSN`."""
    given = os.environ.get("PENSTOCK_TEST_MYSQL_DSN")
    if given:
        return given
    server: MySQLServer = request.getfixturevalue("mysql_server")
    return server.dsn()
