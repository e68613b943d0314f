"""A link of aiomysql that never sends its password in the clear, reads no files, and runs one statement at a time.

Importing this module imports the driver.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from aiomysql.connection import Connection
from pymysql.constants import CLIENT
from pymysql.err import OperationalError

NO_TLS = 2026
"""The number that clients give errors of TLS (CR_SSL_CONNECTION_ERROR)."""
CLEAR = frozenset((b"mysql_clear_password", b"mysql_old_password", "mysql_clear_password", "mysql_old_password"))
"""Ways to prove a password that give it away."""


class SafeConnection(Connection):  # type: ignore[misc]
    """A link that logs in safely.

    Args:
        encrypted: refuse a server that does not speak TLS.
        options: aiomysql's.
    """

    _reader: Any
    _writer: Any

    def __init__(self, *, encrypted: bool, ssl: ssl.SSLContext | None, password: str, **options: Any) -> None:
        self._encrypted = encrypted
        # the driver encodes passwords as Latin-1, the server reads UTF-8
        super().__init__(ssl=ssl, password=password.encode().decode("latin1"), charset="utf8mb4", **options)
        self.client_flag &= ~CLIENT.LOCAL_FILES
        self.client_flag &= ~CLIENT.MULTI_STATEMENTS  # a name that breaks out of its quotes would still be no statement

    async def open(self) -> None:
        """Connects and logs in."""
        await self._connect()

    @property
    def plug(self) -> socket.socket | None:
        """Its socket."""
        found: socket.socket | None = self._writer.transport.get_extra_info("socket")
        return found

    @property
    def is_mariadb(self) -> bool:
        """Whether the server is MariaDB, and not MySQL."""
        return "mariadb" in self.server_version.lower()

    def hang_up(self) -> None:
        """Ends the link at once."""
        if self._writer is not None:
            with contextlib.suppress(AttributeError):  # of Python 3.11.2: a closed TLS transport has no protocol
                self._writer.transport.abort()
        self._writer = self._reader = None

    close = hang_up

    async def say_goodbye(self) -> None:
        """Ends the link in the server's protocol."""
        writer = self._writer
        await self.ensure_closed()
        if writer is not None:
            await writer.wait_closed()

    async def _request_authentication(self) -> None:
        if self._encrypted and not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(NO_TLS, "the server does not speak TLS")
        if self._server_auth_plugin in CLEAR and not self._may_tell():
            raise OperationalError(NO_TLS, "the server asks for the password in the clear")
        await super()._request_authentication()

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        if plugin_name in CLEAR and not self._may_tell():
            raise OperationalError(NO_TLS, "the server asks for the password in the clear")
        return await super()._process_auth(plugin_name, auth_packet)

    def _may_tell(self) -> bool:
        """Whether the server proved by a certificate who it is."""
        return self._encrypted and self._ssl_context is not None and self._ssl_context.verify_mode is ssl.CERT_REQUIRED
