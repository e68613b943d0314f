"""What the server's catalogue says of a database: tables, views, columns, keys."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from connector_runner.contract import StreamName
from connector_runner.sources.mysql.types import column_of
from connector_runner.sql.dialect import Dialect
from connector_runner.sql.tables import Column, Table
from connector_runner.sql.wanted import is_wanted

Ask = Callable[[str], Awaitable[Sequence[Sequence[str | None]]]]

# MySQL's own names of these columns are in capitals, MariaDB's as they are asked for
_TABLES = "SELECT TABLE_NAME, TABLE_ROWS, DATA_LENGTH FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_TYPE <> 'SEQUENCE' ORDER BY 1"
_COLUMNS = (
    "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, EXTRA FROM information_schema.COLUMNS "
    "WHERE TABLE_SCHEMA = {} ORDER BY TABLE_NAME, ORDINAL_POSITION"
)
_KEYS = (
    "SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, NULLABLE, SUB_PART FROM information_schema.STATISTICS "
    "WHERE TABLE_SCHEMA = {} AND NON_UNIQUE = 0 ORDER BY TABLE_NAME, INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX"
)
_CHECKS = "SELECT TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = {}"
_JSON = re.compile(r"json_valid\(`((?:[^`]|``)*)`\)", re.IGNORECASE)


class MySQL(Dialect):
    """On links whose `sql_mode` is empty."""

    name_quote = "`"
    backslash_in_text = True

    def text(self, column: Column) -> str:
        name = self.identifier(column.name)
        return f"HEX({name})" if column.kind == "bytes" else name

    def value(self, column: Column, text: str) -> str:
        return f"X{self.literal(text)}" if column.kind == "bytes" else self.literal(text)


SQL = MySQL()


async def read_tables(
    ask: Ask, database: str, include: Sequence[str], exclude: Sequence[str], *, booleans: bool, mariadb: bool
) -> list[Table]:
    """Returns the wanted tables and views of a database that the user may read.

    Args:
        ask: asks the server.
        booleans: as of `column_of`.
        mariadb: whether the server is MariaDB.
    """
    asked = SQL.literal(database)
    json = set[tuple[str, str]]()
    if mariadb:
        for table, clause in await ask(_CHECKS.format(asked)):
            json |= {(table or "", name.replace("``", "`")) for name in _JSON.findall(clause or "")}
    columns: dict[str, list[Column]] = defaultdict(list)
    for table, name, native, nullable, extra in await ask(_COLUMNS.format(asked)):
        columns[table or ""].append(
            column_of(
                name or "",
                native or "",
                quoted=SQL.identifier(name or ""),
                nullable=nullable == "YES",
                extra=extra or "",
                json=(table or "", name or "") in json,
                booleans=booleans,
            )
        )
    indexes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    loose = set[tuple[str, str]]()
    for table, index, column, nullable, part in await ask(_KEYS.format(asked)):
        indexes[table or ""][index or ""].append(column or "")
        if nullable == "YES" or part is not None or column is None:  # nulls repeat, and so do beginnings of texts
            loose.add((table or "", index or ""))
    found: list[Table] = []
    for name, rows, bytes_ in await ask(_TABLES.format(asked)):
        stream = StreamName(name or "")
        if columns[stream.name] and is_wanted(stream, include, exclude):
            keys = (tuple(each) for index, each in indexes[stream.name].items() if (stream.name, index) not in loose)
            found.append(
                Table(
                    stream,
                    source=SQL.qualified(database, stream.name),
                    columns=tuple(columns[stream.name]),
                    key=next(keys, ()),
                    rows=None if rows is None else int(rows),
                    bytes=None if bytes_ is None else int(bytes_),
                )
            )
    return found
