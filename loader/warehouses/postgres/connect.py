"""Opens links to Postgres: addresses, timeouts, and the name by which a successor finds and ends our backend.

Every session's link carries `application_name = penstock/<connection>/<epoch>/<tag>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from msgspec import Meta

from loader.sql.steps import Step
from loader.warehouses.postgres.bulk import Copy, copy
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import ERRORS
from shared.driving.network import keep_alive, tls_context
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

    async def ask(self, sql: str, values: Sequence[Any]) -> Sequence[Any]:
        return await self.driver.fetch(sql, *values)

    async def run(self, sql: str) -> object:
        return await self.driver.execute(sql)

    async def perform(self, step: Step, watch: Watch) -> Any:
        assert isinstance(step, Copy)  # noqa: S101 - there are no others
        return await copy(self.driver, step, watch)

    def _ended(self, _: object) -> None:
        if self.lost is not None:
            self.lost()


async def connect(options: Options, name: str, what: str) -> Link:
    """Opens a link.

    Raises:
        NotConnected, Transient, SetupError
    """
    import asyncpg

    limits: dict[str, float] = {"statement_timeout": options.statement_timeout, "lock_timeout": options.lock_timeout}
    # the server's own guard against a frozen loader whose successor never comes
    limits["idle_in_transaction_session_timeout"] = 2 * options.stall_timeout
    # a pooler refuses a client that brings others than these along
    settings = {"application_name": name, "timezone": "UTC", "datestyle": "ISO", "standard_conforming_strings": "on"}
    later = {
        "client_min_messages": "warning", "tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3",
        "jit": "off",  # compiling pays for long scans, never for our statements
        **{name: str(max(1, int(seconds * 1000))) for name, seconds in limits.items()},
    }  # fmt: skip
    where = address(options)
    if "@" in where:
        raise SetupError(f"{what}: {_TWO_ENDS}")
    what = f"{what} at {where}"
    tls: Any = options.ssl
    if options.ssl_root_certificate is not None:
        tls = tls_context(what, options.ssl_root_certificate, proven=True, named=options.ssl != "verify-ca")
    seconds = float(options.connect_timeout)
    try:
        driver = await asyncpg.connect(options.dsn, **options.login, ssl=tls, timeout=seconds, server_settings=settings)
        try:
            async with timeout(seconds):
                await driver.execute("; ".join(f"SET {key} = {DIALECT.literal(value)}" for key, value in later.items()))
        except BaseException:
            driver.terminate()
            raise
    except Exception as error:
        if isinstance(error, (ValueError, KeyError)) and not isinstance(error, asyncpg.PostgresError):
            raise SetupError(f"{what}: {_UNREADABLE}") from None  # its text may quote the dsn, and with it the password
        raise ERRORS.at_the_door(error, what) from error
    # asyncpg sets nothing, and no public way leads to its socket
    keep_alive(cast("Any", driver)._transport.get_extra_info("socket"), options.stall_timeout)
    return Link(driver)


def address(options: Options) -> str:
    """Returns where the server is, for messages: `host:port`, without anything secret, as asyncpg reads it."""
    netloc = _AUTHORITY.match(options.dsn or "")
    # asyncpg ends the password at the first @, where a URL ends it at the last
    hosts = netloc[1].split("@", 1)[-1] if netloc else ""
    host, colon, port = hosts.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = hosts, ""
    return f"{options.host or host or 'the default host'}:{options.port or port or 5432}"
