"""What errors of aiomysql mean, by the servers' numbers.

https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html,
https://mariadb.com/kb/en/mariadb-error-code-reference/ (above 1900 they differ).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from loader.servers.errors import Code, Errors, Meaning, by_code
from loader.sql.dialect import Trouble
from shared.errors import (
    NotConnected,
    Permanent,
    RowsRejected,
    SetupError,
    TableBusy,
    TableChanged,
    TableSetupError,
    Transient,
)

AT_ROW = r"\bat row (\d+)"
NO_SUCH_THREAD = 1094
NO_LINK = 2003
_NO_SPACE = re.compile(r"(?i)errno:? 28\b|errcode: 28\b|error 28\b|no space left")
_FULL = "the server's disk, or the space it allows for tables, is full; free space there"
_INFILE = (
    "the server takes no LOAD DATA LOCAL; set its variable local_infile to ON (`SET GLOBAL local_infile = 1`, and local_infile=1 in "
    "its configuration)"
)
_KEYLESS = (
    "the server makes no tables without a primary key; set its sql_require_primary_key to OFF or sql_generate_invisible_primary_key to "
    "ON for this user"
)
_RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, CREATE TEMPORARY TABLES and LOCK TABLES on the database"
_UNKNOWN_WAY = "the server identifies this user in a way the driver does not know"
_FROM_WHERE = (
    "the user name or the password is wrong, or the user may not come from this address; check `user`, `password` and the server's "
    "mysql.user"
)
_FOR_ALL = (1021, 1026, 1028, 1030, 1044, 1045, 1114, 1142, 1143, 1205, 1213, 1227, 1290, 1317, 1792, 1836, 1969, 3024, 3750)
"""Errors that no choice of columns gets around."""


class MySQLErrors(Errors):
    """Both servers'."""

    product = "MySQL"
    foreign_keys = frozenset((1452,))
    meanings: ClassVar[Mapping[Code, Meaning]] = by_code(
        # statements that the server does not take; the driver has no class of its own for most of these
        (Permanent, {"": (
            *range(1050, 1200), 1221, 1235, 1239, 1252, 1253, 1267, 1279, 1283, 1286, 1291, 1293, 1294, 1425, 1426, 1427, 1439, 1470,
            1674, 1709, 1845, 1846, 3102, 3105, 3106, 3152, 3153, 4161,
        )}),
        (SetupError, {
            _FROM_WHERE: (1045,),
            "the server does not let this user in by a password; check `user` and the plugin it is identified with": (1698,),
            f"the user may not use this database so; check `database`, or grant {_RIGHTS}": (1044,),
            f"the user lacks a permission of the server; grant {_RIGHTS}": (1227,),
            "the database does not exist; create it, or check `database`": (1049,),
            "the server blocks this host, which failed to log in too often; run FLUSH HOSTS there": (1129,),
            "the server does not let this host in; create the user for it": (1130,),
            _INFILE: (1148, 3948, 3950, 4166),
            "the server refuses to write (read_only, perhaps: a replica); point the destination at the primary": (1290,),
            "the server is read-only; point the destination at the primary": (1792, 1836),
            _FULL: (1021, 1114),
            "a packet is larger than the server takes; raise its max_allowed_packet to 16M or more": (1153,),
            "the server identifies this user in a way the driver does not know": (1251, 2059, 2061),
            "the server identifies this user by a plugin that it does not have": (1524,),
            "the server's binlog_format is STATEMENT, which cannot take these writes; set it to MIXED or ROW": (1665,),
            "the user's password has expired; change it": (1820, 1862),
            "check `ssl` and the certificates": (2026,),
            "the user's account is locked": (3118, 4151),
            "the server takes encrypted clients only; set `ssl: require`": (3159,),
            _KEYLESS: (3750,),
        }),
        (TableSetupError, {
            f"the user lacks a permission; grant it {_RIGHTS}": (1142, 1143),
            "the table is read-only": (1036,),
            "the table is damaged; repair it": (126, 127, 1034, 1194, 1195),
            "an index of the table is damaged; rebuild it": (1712,),
        }),
        (Transient, {
            "the server takes no more clients (max_connections)": (1040,),
            "the server takes no more clients of this user (max_user_connections)": (1203,),
            "the user has used what it may (max_user_connections, perhaps)": (1226,),
            "transactions met; it is tried again": (1213,),
            "the server has no room for locks": (1206,),
            "the server is out of memory": (1037, 1038, 1041),
            "the statement was ended on the server": (1317,),
            "it took longer than statement_timeout": (1969, 3024),
            "the COMMIT failed": (1180,),
            "the ROLLBACK was not whole": (1196,),
            "the table changed meanwhile": (1615,),
            "too many transactions are open": (1637,),
            "the server does not say more": (1105,),
            "the node is not part of its cluster at the moment": (1047,),
        }),
        (TableBusy, {
            "another session holds a lock on it (information_schema.innodb_trx says which); its rows wait until that ends": (1205,),
        }),
        # null, range, length, spelling, keys, CHECK, triggers, partitions
        (RowsRejected, {"": (
            1048, 1062, 1118, 1138, 1263, 1264, 1265, 1292, 1300, 1364, 1365, 1366, 1367, 1406, 1411, 1416, 1451, 1452, 1526, 1586, 1644,
            1690, 1748, 1761, 1762, 3140, 3141, 3143, 3155, 3156, 3819, 3854, 3903, 4025, 4078, 4079,
        )}),
        (TableChanged, {"": (1054, 1109, 1146, 1347, 1412, 1932)}),
        (NotConnected, {"": (
            1053, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2002, 2003, 2006, 2013, 2014, 2027, 2055, 3169,
        )}),
    )  # fmt: skip
    troubles: ClassVar[Mapping[Code, Trouble | Literal["no"]]] = {
        **dict.fromkeys(_FOR_ALL, "no"),
        # another program made or dropped the same object between our look and our statement
        **dict.fromkeys((1050, 1060, 1061, 1091), "race"),
        **dict.fromkeys((1048, 1138, 1265), "null"),
        1062: "duplicate", 1406: "long", 1146: "gone",
    }  # fmt: skip

    def code(self, error: BaseException) -> Code | None:
        first = error.args[0] if error.args else None
        return first or None if type(error).__module__.startswith("pymysql") and type(first) is int else None

    def describe(self, error: BaseException) -> str:
        if self.code(error) is not None and len(error.args) > 1:
            return str(error.args[1])
        return str(error) or type(error).__name__

    def row(self, error: BaseException) -> int | None:
        match = re.search(AT_ROW, self.describe(error))
        return int(match[1]) - 1 if match else None

    def trouble(self, error: BaseException) -> Trouble | None:
        code = self.code(error)
        if code in self.troubles:
            return super().trouble(error)
        # the server may take the statement with other columns
        return "refused" if isinstance(code, int) and (1000 <= code < 2000 or 3000 <= code < 5000) else None

    def meaning(self, error: BaseException, code: Code) -> Meaning | None:
        from pymysql import err

        if _NO_SPACE.search(self.describe(error)):
            return Meaning(SetupError, _FULL)
        refused = (err.ProgrammingError, err.NotSupportedError, err.DataError, err.IntegrityError)
        return super().meaning(error, code) or (Meaning(Permanent) if isinstance(error, refused) else None)

    def cause(self, error: BaseException) -> BaseException:
        cause = error.__cause__ if self.code(error) == NO_LINK else None
        return cause if isinstance(cause, OSError) else error

    def without_code(self, error: BaseException) -> Meaning | None:
        from pymysql import err

        if isinstance(error, (err.InterfaceError, err.OperationalError)):
            return Meaning(NotConnected, "the link was lost")
        return Meaning(NotConnected) if isinstance(error, err.InternalError) else None


ERRORS = MySQLErrors()
