"""A real Postgres server of our own: `initdb`, start, stop, kill -9, start again.

Binaries come from PATH or from Debian's `/usr/lib/postgresql/*/bin`. Postgres refuses to run as root, so as root it runs as the
system user `postgres`. Without binaries `PENSTOCK_TEST_PG_DSN` may name a server; tests that kill it then fail with a
clear message, and without either everything that asks for Postgres fails: a suite that silently skips its warehouse is no suite.

`durable=False` turns fsync off: a killed *machine* may lose something then, a killed server loses nothing. Tests kill servers only, and a
recovery that syncs nothing is many times quicker; benchmarks use `durable=True`.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.own_server import OwnServer

USER = "penstock"
PASSWORD = "secret-of-the-tests"
PROTOCOL = 3 << 16


class PostgresServer(OwnServer):
    """One server; `start` may follow `stop` or `kill` and finds the same data on the same port."""

    name = "postgres"
    how_to_stop = signal.SIGINT  # fast shutdown: sessions are ended, everything is flushed

    def __init__(self, *, durable: bool = True, settings: dict[str, str] | None = None, certificate: Path | None = None) -> None:
        super().__init__(owner="postgres" if os.geteuid() == 0 else None)
        self._bin = find_binaries()
        self._data = self.directory / "data"
        self._settings = {"fsync": "on" if durable else "off", "max_connections": "100", **(settings or {})}
        if (
            certificate is not None
        ):  # what it proves itself with, `key.pem` beside it; the server may not look into the folders of tests
            for option, name in (("ssl_cert_file", certificate.name), ("ssl_key_file", "key.pem")):
                copy = Path(shutil.copy(certificate.parent / name, self.directory))
                copy.chmod(0o600)
                self.give(copy)
                self._settings[option] = str(copy)
            self._settings["ssl"] = "on"
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        self.give(secret)
        self.run(
            [
                self._bin / "initdb", "-D", self._data, "-U", USER, f"--pwfile={secret}", "-E", "UTF8", "--no-locale",
                "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync",
            ]
        )  # fmt: skip

    @classmethod
    def standby(cls, primary: PostgresServer) -> PostgresServer:
        """Returns a server that follows another one; not started."""
        made = cls(durable=False, settings=primary._settings)
        shutil.rmtree(made._data)
        command: list[str | Path] = [
            made._bin / "pg_basebackup",
            "-D",
            made._data,
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "-d",
            primary.dsn(""),
        ]
        made.run(command)
        return made

    def dsn(self, database: str = "postgres", user: str = USER, password: str = PASSWORD, port: int | None = None) -> str:
        """Returns the address of a database, over TCP with a password."""
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    def command(self) -> Sequence[str | Path]:
        """Returns the postmaster's command."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        return [
            self._bin / "postgres", "-D", self._data, "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.directory}", *options,
        ]  # fmt: skip

    def answers(self) -> bool:
        """Says whether it asks a client for its password; while it recovers it answers with an error."""
        who = f"user\0{USER}\0database\0postgres\0\0".encode()
        return self.greeting(struct.pack("!II", len(who) + 8, PROTOCOL) + who)[:1] == b"R"


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the whole run. Use a schema or database of your own; a test that stops it asks for `postgres`."""
    with PostgresServer(durable=False, settings={"wal_level": "logical", "max_replication_slots": "30"}) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The server; the test may kill and stop it, the next finds it running."""
    yield postgres_server
    if not postgres_server.running:
        postgres_server.start()


@pytest.fixture(scope="session")
def postgres_dsn(request: pytest.FixtureRequest) -> str:
    """The address of a database where tests may create schemas: our own server, or `PENSTOCK_TEST_PG_DSN`."""
    given = os.environ.get("PENSTOCK_TEST_PG_DSN")
    if given:
        return given
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.dsn()
