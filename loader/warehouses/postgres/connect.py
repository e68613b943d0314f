"""Opens links to Postgres: addresses, timeouts, and the name by which a successor finds and ends our backend.

Every session's link carries `application_name = penstock/<connection>/<epoch>/<tag>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from msgspec import Meta

from loader.sql.steps import Ask, Commit, Rollback, Run, Step
from loader.warehouses.postgres.bulk import Copy, copy
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import ERRORS
from shared.driving.network import keep_alive
from shared.driving.server import ServerOptions
from shared.driving.watch import Watch
from shared.errors import SetupError
from shared.tasks import timeout

if TYPE_CHECKING:
    import asyncpg

_AUTHORITY = re.compile(r"[A-Za-z+]+://([^/?#]*)")
_TWO_ENDS = (
    "the dsn has more than one @, and what stands before the last is taken for the password's end; write %40 for an @ in the password, "
    "or give it as `password`"
)
_UNREADABLE = "the address is not readable; expected postgresql://user:password@host:port/database"


class Options(ServerOptions, frozen=True, kw_only=True):
    """Options of a Postgres destination."""

    dsn: Annotated[
        str | None,
        Meta(
            description="address as postgresql://user:password@host:port/database; the other fields override it",
            extra={"secret": True},
        ),
    ] = None
    host: Annotated[str | None, Meta(description="host name, address, or directory of the Unix socket")] = None
    database: Annotated[str | None, Meta(description="database; default: the user's name")] = None
    ssl: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None,
        Meta(description="as libpq's sslmode; default: the dsn's, else prefer"),
    ] = None
    schema: Annotated[str, Meta(min_length=1, description="schema of the tables; made when missing")] = "public"

    def __post_init__(self) -> None:
        if self.dsn and not self.dsn.startswith(("postgresql://", "postgres://")):  # not quoted: a password may stand in it
            raise ValueError("dsn: expected an address such as postgresql://user:password@host:5432/database")


class Link:
    """A link to one server."""

    lost: Callable[[], None] | None = None

    def __init__(self, driver: asyncpg.Connection) -> None:
        self.driver = driver
        # asyncpg waits for ever where a link is lost while its socket's buffer is full: `writing_allowed` is then never set again
        driver.add_termination_listener(self._ended)

    @property
    def closed(self) -> bool:
        return self.driver.is_closed()

    def hang_up(self) -> None:
        self.driver.terminate()

    async def say_goodbye(self) -> None:
        await self.driver.close()

    async def perform(self, step: Step, watch: Watch) -> Any:
        if isinstance(step, Copy):
            return await copy(self.driver, step, watch)
        if isinstance(step, Ask):
            return await self.driver.fetch(step.sql, *step.values)
        if isinstance(step, Run):
            return await self.driver.execute(step.sql)
        if isinstance(step, Rollback) and not self.driver.is_in_transaction():
            return None
        return await self.driver.execute("COMMIT" if isinstance(step, Commit) else "ROLLBACK")

    def _ended(self, _: object) -> None:
        if self.lost is not None:
            self.lost()


async def connect(options: Options, name: str, what: str) -> Link:
    """Opens a link.

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
        raise SetupError(f"{what}: {_TWO_ENDS}")
    what = f"{what} at {where}"
    login: dict[str, Any] = {"host": options.host, "port": options.port, "database": options.database}
    login |= {"user": options.user, "password": options.password}
    seconds = float(options.connect_timeout)
    try:
        driver = await asyncpg.connect(options.dsn, **login, ssl=_ssl(options), timeout=seconds, server_settings=settings)
        try:
            async with timeout(seconds):
                await driver.execute("; ".join(f"SET {key} = {DIALECT.literal(value)}" for key, value in later.items()))
        except BaseException:
            driver.terminate()
            raise
    except Exception as error:
        if isinstance(error, (ValueError, KeyError)) and not isinstance(error, asyncpg.PostgresError):
            raise SetupError(f"{what}: {_UNREADABLE}") from None  # its text may quote the dsn, and with it the password
        raise ERRORS.translate(error, what) from error
    # asyncpg sets nothing, and no public way leads to its socket
    keep_alive(cast("Any", driver)._transport.get_extra_info("socket"), options.stall_timeout)
    return Link(driver)


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


def _ssl(options: Options) -> Any:
    if options.ssl_root_certificate is None:
        return options.ssl
    import ssl

    context = ssl.create_default_context(cafile=Path(options.ssl_root_certificate))
    context.check_hostname = options.ssl != "verify-ca"
    return context
