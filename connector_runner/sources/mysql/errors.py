"""Translates what MySQL, MariaDB and their driver raise into our tree; the only place of the source that knows their codes.

https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
"""

from __future__ import annotations

from shared.driving.network import translate_socket
from shared.errors import NotConnected, PenstockError, Permanent, SetupError, Transient, UnknownDriverError, unknown

_SETUP = {
    1044: "the user may not use this database; check `database`, or grant SELECT on it",
    1045: (
        "the user name or the password is wrong, or the user may not come from this address; check `user`, `password` and the "
        "server's mysql.user"
    ),
    1049: "the database does not exist; check `database`",
    1129: "the server blocks this host, which failed to log in too often; run FLUSH HOSTS there",
    1130: "the server does not let this host in; create the user for it",
    1142: "the user may not read this table; grant SELECT on it, or exclude it",
    1143: "the user may not read all of these columns; grant SELECT on them, or choose others",
    1227: "the user lacks a permission",
    1251: "the server identifies this user in a way the driver does not know",
    1356: "the view names what is not there (any more), or its definer lacks rights; mend it, or exclude it",
    1449: "the definer of the view does not exist; mend it, or exclude it",
    1698: "the server does not let this user in by a password; check `user` and the plugin it is identified with",
    1820: "the user's password has expired; change it",
    1862: "the user's password has expired; change it",
    2026: "check `ssl` and the certificates",
    2059: "the server identifies this user in a way the driver does not know",
    2061: "the server identifies this user in a way the driver does not know",
    3118: "the user's account is locked",
    3159: "the server takes encrypted clients only; set `ssl: require`",
    4151: "the user's account is locked",
}
_PASSING = {
    1040: "the server takes no more clients (max_connections)",
    1054: "the table was changed during the read; it is read again as it is now",
    1146: "the table was dropped during the read, or is not there yet",
    1203: "the server takes no more clients of this user (max_user_connections)",
    1205: "another session holds a lock on the table",
    1213: "transactions met; it is tried again",
    1226: "the user has used what it may (max_user_connections, perhaps)",
    1317: "the statement was ended on the server",
    1412: "the table was changed during the read; it is read again as it is now",
    1969: "the statement took longer than the server allows (max_statement_time)",
    3024: "the statement took longer than the server allows (max_execution_time)",
}
LOST = frozenset((1053, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2002, 2003, 2006, 2013, 2014, 2027, 2055, 3169))
_DOOR = "check `host` and `port`, and that a MySQL server listens there"
_NO_LINK = 2003


def code_of(error: BaseException) -> int | None:
    """Returns the server's or client's code of an error of the driver, None if it has none."""
    first = error.args[0] if error.args else None
    return first or None if type(error).__module__.startswith("pymysql") and type(first) is int else None


def translate(error: BaseException, what: str, *, door: bool = False) -> PenstockError:
    """Returns our error for one of the driver.

    Args:
        what: what failed, for the message.
        door: it failed while a link was opened: a server of another kind may listen there.
    """
    if isinstance(error, PenstockError):
        return error
    code = code_of(error)
    if code == _NO_LINK and isinstance(error.__cause__, OSError):
        error, code = error.__cause__, None
    if code is None:
        if (found := translate_socket(error, what)) is not None:
            return found
        if type(error).__module__.startswith("pymysql") or isinstance(error, (EOFError, AttributeError)):
            if door:
                return SetupError(f"{what}: what answers does not speak as a MySQL server ({error}); {_DOOR}")
            return NotConnected(f"{what}: the link was lost ({error})")
        return unknown(error, f"{what}: {type(error).__name__}: {error}")
    words = f"{what}: {error.args[1] if len(error.args) > 1 else error}"
    if code in _SETUP:
        return SetupError(f"{words}; {_SETUP[code]}")
    if code in _PASSING:
        return Transient(f"{words}; {_PASSING[code]}")
    if code in LOST:
        return NotConnected(f"{words}; {_DOOR}" if door else words)
    from pymysql import err

    if isinstance(error, (err.ProgrammingError, err.NotSupportedError, err.DataError)):
        return Permanent(words)
    return UnknownDriverError(words)
