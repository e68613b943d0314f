"""What errors of asyncpg mean to a person, by their SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""

from __future__ import annotations

from collections.abc import Mapping

from shared.driving.network import translate_socket
from shared.errors import NotConnected, PenstockError, SetupError, Transient, unknown

_MEANINGS: Mapping[str, tuple[type[PenstockError], str]] = {
    "28P01": (SetupError, "the user name or the password is wrong; check `user` and `password` (or the dsn)"),
    "28000": (SetupError, "the server does not let this user in from here; check `user`, `ssl` and the server's pg_hba.conf"),
    "3D000": (SetupError, "the database does not exist; check `database`"),
    "42501": (SetupError, "the user lacks a permission; GRANT USAGE ON SCHEMA and SELECT ON the tables to it"),
    "42P01": (Transient, "the table is gone; look at the streams again"),
    "3F000": (Transient, "the schema is gone; look at the streams again"),
    "42703": (Transient, "the columns changed; look at the streams again"),
    "42883": (SetupError, "the column cannot be ordered; choose another cursor"),
    "42P17": (SetupError, "the server does not allow it"),
    "40001": (Transient, "a replica ended the statement; raise max_standby_streaming_delay there, or read from the primary"),
    "57014": (Transient, "the statement took longer than statement_timeout, or was cancelled on the server"),
    "53300": (Transient, "the server takes no more clients (max_connections)"),
    "53400": (SetupError, "all replication slots or senders are taken; raise max_replication_slots and max_wal_senders"),
    "55006": (Transient, "another program uses it"),
    "55000": (SetupError, "the server is not set up for it"),
    "55P03": (Transient, "another session holds a lock on it (pg_locks says who)"),
    "58P01": (SetupError, "the server has removed what is asked for"),
    "22021": (SetupError, "the database holds bytes that are no UTF-8; correct them, or leave the table or column out"),
    "22": (SetupError, "the server cannot read a value"),
    "40": (Transient, ""),
    "53": (Transient, ""),
    "57P": (NotConnected, ""),
    "25P": (NotConnected, ""),
    "08": (NotConnected, ""),
    "XX": (Transient, "the server reports an internal error or damaged data; look at its log"),
}
"""By code, or by its first three or two characters."""


def translate(error: BaseException, what: str) -> PenstockError:
    """Returns our error for one of the driver.

    Args:
        what: failed, for the message: `reading "public.orders"`.
    """
    import asyncpg

    if isinstance(error, PenstockError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        found = next((_MEANINGS[part] for part in (code, code[:3], code[:2]) if part in _MEANINGS), None)
        words = f"{what}: {_words(error)}"
        if found is None:
            return unknown(error, words)
        kind, remedy = found
        return kind(f"{words}; {remedy}" if remedy else words)
    if isinstance(error, OSError) and "SSL upgrade" in str(error):
        return SetupError(f"{what}: what listens there takes no TLS, or is no PostgreSQL server; check `ssl`, `host` and `port`")
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return NotConnected(f"{what}: the link was lost ({error})")
    return translate_socket(error, what) or unknown(error, f"{what}: {error or type(error).__name__}")


def _words(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    detail = getattr(error, "detail", None)
    return f"{message} ({detail})" if detail else str(message)
