"""Opens connections to Postgres: addresses, timeouts, and the name by which a successor finds and ends our backend.

Every session's connection carries `application_name = penstock/<connection>/<epoch>/<tag>`. A loader that was frozen in the
middle of a COPY holds locks for as long as its kernel keeps the socket alive; its successor cannot ask it to let go, so it asks
the server to end that backend (`end_older`).
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from msgspec import Meta

from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import translate
from shared.driving.network import keep_alive
from shared.driving.server import ServerOptions, epoch_of
from shared.errors import SetupError, Transient
from shared.tasks import timeout

if TYPE_CHECKING:
    import asyncpg

_AUTHORITY = re.compile(r"[A-Za-z+]+://([^/?#]*)")

NAME_BYTES = 63
"""NAMEDATALEN - 1: the server cuts longer application names without a word."""

END_SECONDS = 10.0
"""How long ended backends may take to be gone; they roll back what they held."""


class Options(ServerOptions, frozen=True, kw_only=True):
    """What a user may write for a Postgres destination."""

    dsn: Annotated[
        str | None,
        Meta(
            description="address as postgresql://user:password@host:port/database; the other fields override it",
            extra={"secret": True},
        ),
    ] = None
    host: Annotated[str | None, Meta(description="host name, address, or directory of the Unix socket")] = None
    port: Annotated[Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="port; default 5432")] = None
    database: Annotated[str | None, Meta(description="database; default: the user's name")] = None
    ssl: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None,
        Meta(description="as libpq's sslmode; default: the dsn's, else prefer"),
    ] = None
    schema: Annotated[str, Meta(min_length=1, description="schema of the tables; made when missing")] = "public"

    def __post_init__(self) -> None:
        if self.dsn and not self.dsn.startswith(("postgresql://", "postgres://")):  # not quoted: a password may stand in it
            raise ValueError("dsn: expected an address such as postgresql://user:password@host:5432/database")


async def connect(options: Options, name: str, what: str) -> asyncpg.Connection:
    """Opens one connection.

    Raises:
        NotConnected, Transient, SetupError
    """
    import asyncpg

    milliseconds = {
        "statement_timeout": options.statement_timeout,
        "lock_timeout": options.lock_timeout,
        # the server's own guard against a frozen loader whose successor never comes
        "idle_in_transaction_session_timeout": 2 * options.stall_timeout,
    }
    # a pooler refuses a client that brings others than these along
    settings = {"application_name": name, "timezone": "UTC", "datestyle": "ISO", "standard_conforming_strings": "on"}
    later = {
        "client_min_messages": "warning",
        "jit": "off",  # compiling pays for long scans, never for our statements
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        **{key: str(max(1, int(seconds * 1000))) for key, seconds in milliseconds.items()},
    }
    where = address(options)
    if "@" in where:
        raise SetupError(
            f"{what}: the dsn has more than one @, and what stands before the last is taken for the password's end; "
            "write %40 for an @ in the password, or give it as `password`"
        )
    what = f"{what} at {where}"
    try:
        link = await asyncpg.connect(
            options.dsn,
            host=options.host,
            port=options.port,
            user=options.user,
            password=options.password,
            database=options.database,
            ssl=_ssl(options),
            timeout=float(options.connect_timeout),
            server_settings=settings,
        )
        try:
            async with timeout(float(options.connect_timeout)):
                await link.execute("; ".join(f"SET {key} = {DIALECT.literal(value)}" for key, value in later.items()))
        except BaseException:
            link.terminate()
            raise
    except (ValueError, KeyError) as error:
        if isinstance(error, asyncpg.PostgresError):
            raise translate(error, what) from error
        raise translate(asyncpg.ClientConfigurationError("unreadable"), what) from None
    except Exception as error:
        raise translate(error, what) from error
    # asyncpg sets nothing, and no public way leads to its socket
    keep_alive(cast("Any", link)._transport.get_extra_info("socket"), options.stall_timeout)
    return link


def address(options: Options) -> str:
    """Returns where the server is, for messages: `host:port`, without anything secret, as asyncpg reads it."""
    hosts = ""
    if options.dsn is not None:
        # asyncpg ends the password at the first @, where a URL ends it at the last
        netloc = _AUTHORITY.match(options.dsn)
        _, at, place = netloc[1].partition("@") if netloc else ("", "", "")
        hosts = place if at else netloc[1] if netloc else ""
    host, colon, port = hosts.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = hosts, ""
    return f"{options.host or host or 'the default host'}:{options.port or port or 5432}"


async def end_older(connection: asyncpg.Connection, schema: str, name: str, epoch: int) -> None:
    """Ends every other backend of the connection `name` up to `epoch`, and waits until they are gone.

    One of the same epoch is ours from before a reconnect: a COMMIT may still be on its way through it, so it too must be gone
    before the ledger is read.

    Raises:
        Transient: they did not go in time.
    """
    delay = 0.01
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while True:
        rows = await connection.fetch(
            "SELECT pid, application_name FROM pg_stat_activity "
            "WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid() "
            "AND application_name LIKE 'penstock/%'"
        )
        pids = [
            row["pid"]
            for row in rows
            if (held := epoch_of(row["application_name"], schema, name, NAME_BYTES)) is not None and held <= epoch
        ]
        if not pids:
            return
        await connection.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", pids)
        if asyncio.get_running_loop().time() > deadline:
            raise Transient(f'the backends {pids} of an older session of connection "{name}" do not end')
        # the server tells nobody when a backend is gone
        await asyncio.sleep(delay)
        delay = min(2 * delay, 0.2)


def _ssl(options: Options) -> Any:
    if options.ssl_root_certificate is None:
        return options.ssl
    import ssl

    context = ssl.create_default_context(cafile=Path(options.ssl_root_certificate))
    context.check_hostname = options.ssl != "verify-ca"
    return context
