"""Opens links to the server: address, TLS, and the settings by which values have one spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from connector_runner.sources.postgres.errors import translate
from shared.driving.network import keep_alive, tls_context
from shared.errors import PenstockError, SetupError

if TYPE_CHECKING:
    import asyncpg

    from connector_runner.sources.postgres import OPTIONS

SPELLING: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
}
"""Settings that decide how a value is written; equal for a copy of a table and for its changes."""
_AUTHORITY = re.compile(r"[A-Za-z+]+://([^/?#]*)")


async def connect(options: OPTIONS, what: str, **startup: str) -> asyncpg.Connection:
    """Opens a link.

    Args:
        what: is opened, for messages: `connector "shop"`.
        startup: further parameters of the session.

    Raises:
        NotConnected, Transient, SetupError
    """
    import asyncpg

    where = f"{what} at {address(options)}"
    tls: Any = options.ssl
    if options.ssl_root_certificate is not None:
        tls = tls_context(where, options.ssl_root_certificate, proven=True, named=options.ssl != "verify-ca")
    settings = {"application_name": "penstock connector", **startup}
    seconds = float(options.connect_timeout)
    try:
        driver: asyncpg.Connection = await asyncpg.connect(
            options.dsn, **options.login, ssl=tls, timeout=seconds, server_settings=settings
        )
    except Exception as error:
        # a certificate that is not proven is an OSError too
        if isinstance(error, ValueError | KeyError) and not isinstance(error, asyncpg.PostgresError | OSError):
            # its text may quote the dsn, and with it the password
            raise SetupError(
                f"{where}: the address is not readable; expected postgresql://user:password@host:port/database"
            ) from None
        raise translate(error, where) from error
    # no public way leads to its socket
    keep_alive(cast("Any", driver)._transport.get_extra_info("socket"), float(options.stall_timeout))
    return driver


async def open_link(options: OPTIONS, what: str) -> asyncpg.Connection:
    """Opens a link for statements, whose sessions can only read. Raises as `connect`."""
    driver = await connect(options, what)
    limits = {"statement_timeout": options.statement_timeout, "lock_timeout": options.lock_timeout}
    settings = {
        **SPELLING,
        "default_transaction_read_only": "on",
        "jit": "off",  # compiling pays for long scans, never for our statements
        **{name: str(max(1, int(seconds * 1000))) for name, seconds in limits.items()},
    }
    if driver.get_server_version().major >= 14:  # a statement whose reader is gone must not sort on for hours
        settings["client_connection_check_interval"] = "5s"
    try:
        await driver.execute("; ".join(f"SET {name} = {literal(value)}" for name, value in settings.items()))
    except BaseException as error:
        driver.terminate()
        if isinstance(error, Exception) and not isinstance(error, PenstockError):
            raise translate(error, what) from error
        raise
    return driver


def address(options: OPTIONS) -> str:
    """Returns where the server is, for messages, without anything secret."""
    netloc = _AUTHORITY.match(options.dsn or "")
    hosts = netloc[1].rsplit("@", 1)[-1] if netloc else ""
    host, colon, port = hosts.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = hosts, ""
    return f"{options.host or host or 'the default host'}:{options.port or port or 5432}"


def quoted(name: str) -> str:
    """Returns a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Returns a text as SQL has it, also where backslashes escape."""
    plain = "'" + text.replace("'", "''") + "'"
    return " E" + plain.replace("\\", "\\\\") if "\\" in text else plain
