"""Opens links to MySQL and MariaDB: the address, and what a session sets for itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta

from loader.warehouses.mysql.errors import ERRORS
from shared.driving.network import tls_context
from shared.driving.server import ServerOptions
from shared.errors import SetupError
from shared.tasks import timeout

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

PORT = 3306
MODE = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"
"""Refuse what does not fit, and number no row whose number is 0. Backslashes escape, as `dialect.py` writes them."""
_DSN = (
    "dsn: expected an address such as mysql://user:password@host:3306/database, with %40 for @, %3A for :, %2F for /, %3F for ? and %23 "
    "for # in user and password; or write `password` as an option of its own"
)
_PARAMETERS = "dsn: nothing may stand behind the database; write what `?` or `#` is to say as options, such as `ssl: require`"


class Options(ServerOptions, frozen=True, kw_only=True):
    """What a user may write for a MySQL destination."""

    socket: Annotated[str | None, Meta(description="path of the server's Unix socket, instead of host and port")] = None
    database: Annotated[str | None, Meta(description="database of the tables; must exist")] = None
    ssl: Annotated[
        Literal["disable", "prefer", "require", "verify-ca", "verify-full"],
        Meta(description="whether the link is encrypted, and whether the server must prove who it is"),
    ] = "prefer"

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
    """Opens a link and sets what its session needs.

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
    tls = None
    if options.ssl != "disable" and options.socket is None:
        proven = options.ssl in ("verify-ca", "verify-full")
        tls = tls_context(what, options.ssl_root_certificate, proven=proven, named=options.ssl == "verify-full")
    link = Link(
        encrypted=options.ssl in ("require", "verify-ca", "verify-full"),
        ssl=tls,
        connect_timeout=float(options.connect_timeout),
        autocommit=None,
        **found,
    )
    try:
        async with timeout(float(options.connect_timeout)):
            await link.open()
            await _set(link, options)
    except BaseException as error:
        link.hang_up()
        if isinstance(error, Exception):
            raise ERRORS.at_the_door(error, what) from error
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
            if ERRORS.code(error) is None or link.closed:  # else the server lacks the setting, or lets this user have no say
                raise
