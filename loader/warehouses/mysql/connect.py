"""Opens connections: the address, what a session sets for itself, and the lock by which a successor finds and ends it.

Every session holds a lock of the server (`GET_LOCK`) named after its database and connection, for as long as its link lives. A loader
that was frozen in the middle of a load holds row locks for as long as its kernel keeps the socket alive; its successor asks the server
who holds the lock and ends that (`KILL`), which any user may do to its own connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, field

from loader.warehouses.mysql.dialect import SQL
from loader.warehouses.mysql.errors import number_of, translate
from shared.errors import Fenced, SetupError, Transient
from shared.reading.units import Duration
from shared.tasks import timeout

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

PORT = 3306
END_SECONDS = 10.0
"""How long an ended connection may take to be gone; the server rolls back what it held."""

MODE = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"
"""Refuse what does not fit, and number no row whose number is 0. Backslashes escape, as `dialect.py` writes them."""
NOT_FOUND = 1094
"""The connection to end is gone already."""
_DSN = (
    "dsn: expected an address such as mysql://user:password@host:3306/database, with %40 for @, %3A for :, %2F for /, %3F for ? and %23 "
    "for # in user and password; or write `password` as an option of its own"
)
_PARAMETERS = "dsn: nothing may stand behind the database; write what `?` or `#` is to say as options, such as `ssl: require`"


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for a MySQL destination."""

    dsn: Annotated[
        str | None,
        Meta(
            description="address as mysql://user:password@host:port/database; the fields below override it",
            extra={"secret": True},
        ),
    ] = None
    host: Annotated[str | None, Meta(description="host name or address; default 127.0.0.1")] = None
    port: Annotated[Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="port; default 3306")] = None
    socket: Annotated[str | None, Meta(description="path of the server's Unix socket, instead of host and port")] = None
    user: Annotated[str | None, Meta(description="user name")] = None
    password: Annotated[
        str | None, Meta(description="password; write ${NAME} and set the environment variable", extra={"secret": True})
    ] = None
    database: Annotated[str | None, Meta(description="database of the tables; must exist")] = None
    ssl: Annotated[
        Literal["disable", "prefer", "require", "verify-ca", "verify-full"],
        Meta(description="whether the connection is encrypted, and whether the server must prove who it is"),
    ] = "prefer"
    ssl_root_certificate: Annotated[
        str | None,
        Meta(description="file with the certificate authority that verify-ca and verify-full trust; default: the system's"),
    ] = None
    connect_timeout: Annotated[Duration, Meta(description="how long opening a connection may take")] = field(
        default_factory=lambda: Duration(10)
    )
    statement_timeout: Annotated[Duration, Meta(description="how long one statement, such as the merge of a batch, may take")] = (
        field(default_factory=lambda: Duration(600))
    )
    lock_timeout: Annotated[Duration, Meta(description="how long a statement waits for another session's lock")] = field(
        default_factory=lambda: Duration(10)
    )
    stall_timeout: Annotated[
        Duration, Meta(description="how long a load may stand still before the connection counts as lost")
    ] = field(default_factory=lambda: Duration(30))

    def __post_init__(self) -> None:
        if self.dsn is not None and not _readable(self.dsn):  # not quoted: a password may stand in it
            raise ValueError(_DSN)
        if self.dsn is not None and re.search(r"[?#]", self.dsn):  # drivers know many parameters, and one ignored may be `ssl`
            raise ValueError(_PARAMETERS)
        if not _address(self)["db"]:
            raise ValueError("database: expected the name of a database, here or at the end of the dsn")


def _readable(dsn: str) -> bool:
    try:
        parts = urlsplit(dsn)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("mysql", "mariadb") and bool(parts.hostname) and "@" not in parts.netloc.rpartition("@")[0] + parts.path
    )


def _address(options: Options) -> dict[str, Any]:
    """Returns the driver's options of where and who."""
    parts = urlsplit(options.dsn or "mysql://")
    return {
        "host": options.host or parts.hostname or "127.0.0.1",
        "port": options.port or parts.port or PORT,
        "unix_socket": options.socket,
        "user": options.user or unquote(parts.username or ""),
        "password": options.password or unquote(parts.password or ""),
        "db": options.database or unquote(parts.path.lstrip("/")),
    }


def database_of(options: Options) -> str:
    """Returns the database that the tables are in."""
    name: str = _address(options)["db"]
    return name


def address(options: Options) -> str:
    """Returns where the server is, for messages, without anything secret."""
    found = _address(options)
    return options.socket or f"{found['host']}:{found['port']}"


async def connect(options: Options, what: str) -> Link:
    """Opens one connection and sets what its session needs.

    Raises:
        NotConnected, Transient, SetupError
    """
    what = f"{what} at {address(options)}"
    try:
        from loader.warehouses.mysql.link import Link
    except ImportError as error:
        raise SetupError(f"{what}: the driver is not installed ({error}); pip install 'penstock[mysql]'") from error
    found = _address(options)
    if not found["user"]:
        raise SetupError(f"{what}: the destination names no user; set `user`, or write it into the dsn")
    link = Link(
        encrypted=options.ssl in ("require", "verify-ca", "verify-full"),
        ssl=_context(options, what),
        connect_timeout=float(options.connect_timeout),
        autocommit=None,
        **found,
    )
    try:
        async with timeout(float(options.connect_timeout)):
            await link.open()
            await _set(link, options)
    except BaseException as error:
        link.close()
        if isinstance(error, Exception):
            raise translate(error, what) from error
        raise
    return link


async def _set(link: Link, options: Options) -> None:
    wait = max(1, round(options.lock_timeout))
    settings = {
        "sql_mode": f"'{MODE}'",
        "time_zone": "'+00:00'",
        "autocommit": "1",
        "innodb_lock_wait_timeout": str(wait),
        "lock_wait_timeout": str(wait),
        "sql_safe_updates": "0",
        "foreign_key_checks": "1",
        "unique_checks": "1",
    }
    await link.run("SET " + ", ".join(f"SESSION {name} = {value}" for name, value in settings.items()))
    # the gaps between keys stay free, so that two loaders of one table do not wait for each other
    await link.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
    wishes = {
        # lets a table have more than 196 columns of text; a row that is too large for its page is refused then, by itself
        "innodb_strict_mode": "0",
        # refused rows are named by warnings, in which English says "at row"
        "max_error_count": "65535",
        "lc_messages": "'en_US'",
        "net_read_timeout": str(max(30, round(2 * options.stall_timeout))),
        "net_write_timeout": str(max(60, round(2 * options.stall_timeout))),
        # the server's own guard against a frozen loader whose successor never comes
        "idle_transaction_timeout": str(max(1, round(2 * options.stall_timeout))),
        "max_statement_time": f"{options.statement_timeout:g}",
    }
    for name, value in wishes.items():
        try:
            await link.run(f"SET SESSION {name} = {value}")
        except Exception as error:
            if number_of(error) is None or link.closed:  # else the server lacks the setting, or lets this user have no say
                raise


def _context(options: Options, what: str) -> ssl.SSLContext | None:
    if options.ssl == "disable" or options.socket is not None:
        return None
    try:
        context = ssl.create_default_context(cafile=options.ssl_root_certificate)
    except OSError as error:
        raise SetupError(f"{what}: ssl_root_certificate cannot be read: {error}") from error
    context.check_hostname = options.ssl == "verify-full"
    if options.ssl in ("prefer", "require"):
        context.verify_mode = ssl.CERT_NONE
    return context


def lock_name(*parts: str) -> str:
    """Returns the name of a lock of ours, within the servers' limit of 64 characters."""
    return f"penstock.{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:40]}"


async def take_over(link: Link, database: str, connection: str, epoch: int, newest: Any) -> None:
    """Takes the lock of a connection, and ends the session that holds it.

    Args:
        newest: reads the epoch in the ledger; a session of a higher one is left alone.

    Raises:
        Fenced: a session with a higher epoch exists.
        Transient: the older session does not end.
    """
    name = SQL.literal(lock_name(database, connection))
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    delay = 0.01
    while True:
        held = await newest()
        if held is not None and held > epoch:
            raise Fenced(f'connection "{connection}": a loader with a newer epoch than {epoch} holds it', held)
        ((taken, holder),) = (await link.run(f"SELECT GET_LOCK({name}, 0), IS_USED_LOCK({name})")).rows
        if taken == "1":
            return
        if holder is not None:
            try:
                await link.run(f"KILL CONNECTION {int(holder)}")
            except Exception as error:
                if number_of(error) != NOT_FOUND:
                    raise
        if asyncio.get_running_loop().time() > deadline:
            raise Transient(f'connection {holder} of an older session of connection "{connection}" does not end')
        # the server tells nobody when a connection is gone
        await asyncio.sleep(delay)
        delay = min(2 * delay, 0.2)
