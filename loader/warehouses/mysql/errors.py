"""Translates what aiomysql and the sockets under it raise into our tree; the only place that knows their errors.

The numbers are the servers': https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html,
https://mariadb.com/kb/en/mariadb-error-code-reference/ (above 1900 they differ). No text here holds a password: the servers never
repeat it.
"""

from __future__ import annotations

import re

from shared.driving.network import translate_socket
from shared.errors import (
    NotConnected,
    PenstockError,
    Permanent,
    RowsRejected,
    SetupError,
    TableBusy,
    TableChanged,
    TableSetupError,
    Transient,
    UnknownDriverError,
    unknown,
)

DEADLOCK, LOCK_WAIT = 1213, 1205
DUPLICATE_KEY = 1062
FOREIGN_KEY = 1452
ROW_TOO_LARGE = 1118
NO_TABLE = 1146
NO_PRIVILEGE_HERE = 1227

_INFILE = (
    "the server takes no LOAD DATA LOCAL; set its variable local_infile to ON (`SET GLOBAL local_infile = 1`, and local_infile=1 in "
    "its configuration)"
)
_FULL = "the server's disk, or the space it allows for tables, is full; free space there"
_KEYLESS = (
    "the server makes no tables without a primary key; set its sql_require_primary_key to OFF or sql_generate_invisible_primary_key to "
    "ON for this user"
)
_SETUP = {
    1045: "the user name or the password is wrong, or the user may not come from this address; check `user`, `password` and the "
    "server's mysql.user",
    1698: "the server does not let this user in by a password; check `user` and the plugin it is identified with",
    1044: "the user may not use this database; grant it, or check `database`",
    1049: "the database does not exist; create it, or check `database`",
    1129: "the server blocks this host after too many failed connections; run FLUSH HOSTS there",
    1130: "the server does not let this host in; create the user for it",
    1148: _INFILE, 3948: _INFILE, 3950: _INFILE, 4166: _INFILE,
    1290: "the server refuses to write (read_only, perhaps: a replica); point the destination at the primary",
    1792: "the server is read-only; point the destination at the primary",
    1836: "the server is read-only; point the destination at the primary",
    1021: _FULL, 1114: _FULL,
    1153: "a packet is larger than the server takes; raise its max_allowed_packet to 16M or more",
    1251: "the server identifies this user in a way the driver does not know",
    1524: "the server identifies this user by a plugin that it does not have",
    1665: "the server's binlog_format is STATEMENT, which cannot take these writes; set it to MIXED or ROW",
    1820: "the user's password has expired; change it",
    1862: "the user's password has expired; change it",
    2026: "check `ssl` and the certificates",
    2059: "the server identifies this user in a way the driver does not know",
    2061: "the server identifies this user in a way the driver does not know",
    3118: "the user's account is locked",
    3159: "the server takes encrypted connections only; set `ssl: require`",
    3750: _KEYLESS,
    4151: "the user's account is locked",
}  # fmt: skip
_PRIVILEGE = "the user lacks a permission; grant it SELECT, INSERT, UPDATE, CREATE, ALTER, INDEX and CREATE TEMPORARY TABLES on the database"
_OF_A_TABLE = {
    1142: _PRIVILEGE,
    1143: _PRIVILEGE,
    1036: "the table is read-only",
    126: "the table is damaged; repair it", 127: "the table is damaged; repair it", 1034: "the table is damaged; repair it",
    1194: "the table is damaged; repair it", 1195: "the table is damaged; repair it", 1712: "an index of the table is damaged; rebuild it",
}  # fmt: skip
_ROWS = frozenset((
    1048, 1062, 1138, 1263, 1264, 1265, 1292, 1300, 1364, 1365, 1366, 1367, 1406, 1411, 1416, 1451, 1452, 1526, 1586, 1644, 1690, 1748,
    1761, 1762, 3140, 3141, 3143, 3155, 3156, 3819, 3854, 3903, 4025, 4078, 4079,
    ROW_TOO_LARGE,
))  # fmt: skip
"""The server does not take a value, or a row: null, range, length, spelling, keys, CHECK, triggers, partitions."""
_CHANGED = frozenset((1054, NO_TABLE, 1109, 1347, 1412, 1932))
_GONE = frozenset((1053, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2002, 2003, 2006, 2013, 2014, 2027, 2055, 3169))
_AGAIN = {
    1040: "the server has no connection free",
    1203: "the user has no connection free (max_user_connections)",
    1226: "the user has used what it may (max_user_connections, perhaps)",
    DEADLOCK: "transactions met; it is tried again",
    1206: "the server has no room for locks",
    1037: "the server is out of memory", 1038: "the server is out of memory for sorting", 1041: "the server is out of memory",
    1317: "the statement was ended on the server", 1969: "it took longer than statement_timeout", 3024: "it took longer than statement_timeout",
    1180: "the COMMIT failed", 1196: "the ROLLBACK was not whole", 1615: "the table changed meanwhile", 1637: "too many transactions are open",
    1105: "the server does not say more",
    1047: "the node is not part of its cluster at the moment",
}  # fmt: skip
_NO_SPACE = re.compile(r"(?i)errno:? 28\b|errcode: 28\b|error 28\b|no space left")


def number_of(error: BaseException) -> int | None:
    """Returns the server's or the driver's number of an error, None where it has none."""
    first = error.args[0] if error.args else None
    return first if type(error).__module__.startswith("pymysql") and type(first) is int else None


def describe(error: BaseException) -> str:
    """Returns the server's words without the number."""
    if number_of(error) is not None and len(error.args) > 1:
        return str(error.args[1])
    return str(error) or type(error).__name__


def translate(error: BaseException, what: str, table: str | None = None) -> PenstockError:
    """Returns the error of our tree for one of the driver's.

    Args:
        error: what was raised.
        what: what failed, for the message: `loading into mysql destination "wh"`.
        table: the table whose rows were on their way; data errors become `RowsRejected` of it.
    """
    if isinstance(error, PenstockError):
        return error
    number = number_of(error)
    if number:
        return _of_number(error, number, what, table)
    of_socket = translate_socket(error, what)
    if of_socket is not None:
        return of_socket

    from pymysql import err

    if isinstance(error, (err.InterfaceError, err.OperationalError)):
        return NotConnected(f"{what}: the connection was lost ({describe(error)})")
    if isinstance(error, err.InternalError):
        return NotConnected(f"{what}: {describe(error)}")
    return unknown(error, f"{what}: {type(error).__name__}: {describe(error)}")


def _of_number(error: BaseException, number: int, what: str, table: str | None) -> PenstockError:
    words = f"{what}: {describe(error)}"
    if number == 2003 and isinstance(error.__cause__, OSError):
        return translate(error.__cause__, what)
    if _NO_SPACE.search(words):
        return SetupError(f"{words}; {_FULL}")
    if number in _SETUP:
        return SetupError(f"{words}; {_SETUP[number]}")
    if number in _OF_A_TABLE:
        return TableSetupError(f"{words}; {_OF_A_TABLE[number]}")
    if number == LOCK_WAIT:
        return TableBusy(
            f"{words}: another session holds a lock on it (information_schema.innodb_trx says which); its rows wait until that ends"
        )
    if number in _AGAIN:
        return Transient(f"{words}: {_AGAIN[number]}")
    if number in _GONE:
        return NotConnected(words)
    if number in _ROWS and table is not None:
        return RowsRejected(table, describe(error), needs_others=number == FOREIGN_KEY)
    if number in _CHANGED:
        return TableChanged(words)

    from pymysql import err

    if number in _ROWS or isinstance(error, (err.ProgrammingError, err.NotSupportedError, err.DataError, err.IntegrityError)):
        return Permanent(words)
    # the driver has no class of its own for most numbers of statements that the server does not take
    return Permanent(words) if 1050 <= number < 1200 or number in _STATEMENTS else UnknownDriverError(words)


_STATEMENTS = frozenset((1221, 1235, 1239, 1252, 1253, 1267, 1279, 1283, 1286, 1291, 1293, 1294, 1347, 1425, 1426, 1427, 1439, 1470, 1674, 1709,
                         1845, 1846, 3102, 3105, 3106, 3152, 3153, 4161))  # fmt: skip
"""Statements that the server does not take: options, types, names that it cannot have."""
