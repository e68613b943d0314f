"""Opens links to MySQL and MariaDB: the address, and what a session sets for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loader.warehouses.mysql.errors import ERRORS
from shared.driving.mysql import MySQLOptions, address, login_of, must_encrypt, tls_of
from shared.errors import SetupError
from shared.tasks import timeout

if TYPE_CHECKING:
    from loader.warehouses.mysql.link import Link

MODE = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"
"""Refuse what does not fit, and number no row whose number is 0. Backslashes escape, as `dialect.py` writes them."""


class Options(MySQLOptions, frozen=True, kw_only=True):
    """What a user may write for a MySQL destination."""


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
    found = login_of(options)
    if not found["user"]:
        raise SetupError(f"{what}: the destination names no user; set `user`, or write it into the dsn")
    link = Link(
        encrypted=must_encrypt(options),
        ssl=tls_of(options, what),
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
