"""Shared by all databases behind a network: options, and the name by which a successor finds a session on the server. Pure."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from shared.reading.units import Duration


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options that every such destination takes; each adds its own ways to name its address."""

    dsn: Annotated[
        str | None,
        Meta(
            description="address as mysql:// or postgresql://user:password@host:port/database; the other fields override it",
            extra={"secret": True},
        ),
    ] = None
    host: Annotated[str | None, Meta(description="host name or address; of Postgres also the directory of a Unix socket")] = None
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="port; default: 5432 of Postgres, 3306 of MySQL")
    ] = None
    database: Annotated[str | None, Meta(description="database; of Postgres by default the user's name")] = None
    user: Annotated[str | None, Meta(description="user name")] = None
    password: Annotated[
        str | None, Meta(description="password; write ${NAME} and set the environment variable", extra={"secret": True})
    ] = None
    ssl_root_certificate: Annotated[
        str | None, Meta(description="file with the certificate authority that verify-ca and verify-full trust")
    ] = None
    connect_timeout: Annotated[Duration, Meta(description="how long opening a connection may take")] = field(
        default_factory=lambda: Duration(10)
    )
    statement_timeout: Annotated[Duration, Meta(description="how long one statement, such as bringing in a batch, may take")] = (
        field(default_factory=lambda: Duration(600))
    )
    lock_timeout: Annotated[Duration, Meta(description="how long a statement waits for another session's lock")] = field(
        default_factory=lambda: Duration(10)
    )
    stall_timeout: Annotated[
        Duration, Meta(description="how long a load may stand still before the connection counts as lost")
    ] = field(default_factory=lambda: Duration(30))

    @property
    def login(self) -> dict[str, Any]:
        """Where and who, as most drivers call them."""
        who = {"user": self.user, "password": self.password}
        return {"host": self.host, "port": self.port, "database": self.database, **who}


def session_name(schema: str, connection: str, epoch: int, limit: int) -> str:
    """Returns the name of a session on the server, `penstock/<connection>/<epoch>/<tag>`, within so many bytes.

    The tag tells apart two schemas of one database that have connections of one name.
    """
    tag = hashlib.sha256(f"{schema}\0{connection}".encode()).hexdigest()[:8]
    room = limit - len(f"penstock//{epoch}/{tag}")
    return f"penstock/{connection[:room]}/{epoch}/{tag}"


def epoch_of(name: str, schema: str, connection: str, limit: int) -> int | None:
    """Returns the epoch in the name of one of this connection's sessions, None for any other name."""
    parts = name.rsplit("/", 2)
    epoch = int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else None
    return epoch if epoch is not None and name == session_name(schema, connection, epoch, limit) else None
