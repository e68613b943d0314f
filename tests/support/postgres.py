"""A real Postgres server of our own: `initdb`, start, stop, kill -9, start again.

Binaries come from PATH or from Debian's `/usr/lib/postgresql/*/bin`. Postgres refuses to run as root, so as root it runs as the
system user `postgres`. Without binaries `PENSTOCK_TEST_PG_DSN` may name a server; tests that kill it then fail with a
clear message, and without either everything that asks for Postgres fails: a suite that silently skips its warehouse is no suite.

`durable=False` turns fsync off and is for tests that never kill the machine's caches; a killed *process* loses nothing either
way. Benchmarks and fault tests use `durable=True`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil
import pytest

USER = "penstock"
PASSWORD = "secret-of-the-tests"
START_SECONDS = 30.0


class PostgresServer:
    """One server; `start` may follow `stop` or `kill` and finds the same data on the same port."""

    def __init__(self, *, durable: bool = True, settings: dict[str, str] | None = None) -> None:
        self._bin = find_binaries()
        self._owner = "postgres" if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-pg-"))
        self._data = self.directory / "data"
        self._settings = {"fsync": "on" if durable else "off", "max_connections": "100", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._give(self.directory)
        self._init()

    def dsn(self, database: str = "postgres", user: str = USER, password: str = PASSWORD, port: int | None = None) -> str:
        """Returns the address of a database, over TCP with a password."""
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Says whether it was started and not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server and waits until it answers; recovery after a kill is part of the wait.

        Raises:
            RuntimeError: it did not start; with the end of its log.
        """
        log = self.directory / "log"
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres", "-D", self._data, "-p", str(self.port),
                    "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.directory}", *options,
                ],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.directory, user=self._owner, group=self._owner,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ready = subprocess.run(
                [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", "postgres"],
                check=False,
            )
            if ready.returncode == 0:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        self._process.kill()
        self._process.wait()
        self._process = None
        raise RuntimeError(f"postgres did not start on port {self.port}:\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stops it as an operator does (fast shutdown: sessions are ended, everything is flushed)."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """`kill -9` of the postmaster and every backend, as when the machine loses power and the kernel lives on."""
        children = self.processes()[1:]
        self._end(signal.SIGKILL)
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=10)

    def processes(self) -> list[psutil.Process]:
        """Returns the postmaster and its children, for CPU accounting."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(timeout=START_SECONDS)

    def _init(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        self._give(secret)
        done = subprocess.run(
            [
                self._bin / "initdb", "-D", self._data, "-U", USER, f"--pwfile={secret}", "-E", "UTF8", "--no-locale",
                "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync",
            ],
            capture_output=True, check=False, cwd=self.directory, user=self._owner, group=self._owner,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr.decode()}")

    def _give(self, path: Path) -> None:
        if self._owner:
            entry = pwd.getpwnam(self._owner)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def find_binaries() -> Path:
    """Returns the directory of `postgres` and `initdb`, the newest version where there are several.

    Raises:
        RuntimeError: none is installed; says what to install.
    """
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    for candidate in candidates:
        if (candidate / "postgres").exists() and (candidate / "initdb").exists():
            return candidate
    raise RuntimeError(
        "no Postgres server found on PATH or under /usr/lib/postgresql; install one (`apt-get install postgresql`), "
        "or name a running one in PENSTOCK_TEST_PG_DSN"
    )


def free_port() -> int:
    """Returns a TCP port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the whole run. Use a schema or database of your own; do not stop it."""
    with PostgresServer(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_dsn(request: pytest.FixtureRequest) -> str:
    """The address of a database where tests may create schemas: our own server, or `PENSTOCK_TEST_PG_DSN`."""
    given = os.environ.get("PENSTOCK_TEST_PG_DSN")
    if given:
        return given
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.dsn()
