"""The address of a MySQL or MariaDB server, as people write it, and the TLS of a link to it."""

from __future__ import annotations

import re
import ssl
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta

from shared.driving.network import tls_context
from shared.driving.server import ServerOptions

PORT = 3306
_DSN = (
    "dsn: expected an address such as mysql://user:password@host:3306/database, with %40 for @, %3A for :, %2F for /, %3F for ? and %23 "
    "for # in user and password; or write `password` as an option of its own"
)
_PARAMETERS = "dsn: nothing may stand behind the database; write what `?` or `#` is to say as options, such as `ssl: require`"


class MySQLOptions(ServerOptions, frozen=True, kw_only=True):
    """What a user may write to name a server and a database of it."""

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
        if not login_of(self)["db"]:
            raise ValueError("database: expected the name of a database, here or at the end of the dsn")


def login_of(options: MySQLOptions) -> dict[str, Any]:
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


def database_of(options: MySQLOptions) -> str:
    """Returns the database that the tables are in."""
    name: str = login_of(options)["db"]
    return name


def address(options: MySQLOptions) -> str:
    """Returns where the server is, for messages, without anything secret."""
    found = login_of(options)
    return options.socket or f"{found['host']}:{found['port']}"


def must_encrypt(options: MySQLOptions) -> bool:
    """Whether a server that does not speak TLS is refused."""
    return options.ssl in ("require", "verify-ca", "verify-full")


def tls_of(options: MySQLOptions, what: str) -> ssl.SSLContext | None:
    """Returns the TLS of a link; None: it is not encrypted.

    Args:
        what: fails, for the message.

    Raises:
        SetupError: the file of the authority cannot be read.
    """
    if options.ssl == "disable" or options.socket is not None:
        return None
    proven = options.ssl in ("verify-ca", "verify-full")
    return tls_context(what, options.ssl_root_certificate, proven=proven, named=options.ssl == "verify-full")


def _readable(dsn: str) -> bool:
    try:
        parts = urlsplit(dsn)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("mysql", "mariadb") and bool(parts.hostname) and "@" not in parts.netloc.rpartition("@")[0] + parts.path
    )
