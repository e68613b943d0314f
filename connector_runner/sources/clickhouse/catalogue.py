"""What the server's catalogue says of a database: tables, views, columns, sorting keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from connector_runner.contract import StreamName
from connector_runner.sources.clickhouse.types import column_of, in_utc, is_readable, without_null
from connector_runner.sql.dialect import Dialect
from connector_runner.sql.tables import Column, Table
from connector_runner.sql.wanted import is_wanted

Ask = Callable[[str], Awaitable[Sequence[Sequence[str | None]]]]

_TABLES = (
    "SELECT name, engine, toString(total_rows), toString(total_bytes) FROM system.tables WHERE database = {} AND NOT is_temporary "
    "AND name NOT LIKE '.inner%' ORDER BY name"
)
_COLUMNS = (
    "SELECT table, name, type, toString(is_in_sorting_key) FROM system.columns WHERE database = {} AND default_kind NOT IN ('ALIAS', 'EPHEMERAL') "
    "ORDER BY table, position"
)
_COLLAPSING = (
    "ReplacingMergeTree",
    "CollapsingMergeTree",
    "VersionedCollapsingMergeTree",
    "AggregatingMergeTree",
    "SummingMergeTree",
)


class ClickHouse(Dialect):
    """ClickHouse's SQL."""

    name_quote = "`"
    backslash_in_text = True
    backslash_in_names = True

    def text(self, column: Column) -> str:
        name = self.identifier(column.name)
        # in UTC, because elsewhere an hour of autumn comes twice
        return f"toString(toTimeZone({name}, 'UTC'))" if column.kind == "moment" else f"toString({name})"

    def value(self, column: Column, text: str) -> str:
        type_ = without_null(column.native)[0]
        return f"CAST({self.literal(text)}, {self.literal(in_utc(type_) if column.kind == 'moment' else type_)})"


SQL = ClickHouse()


async def read_tables(
    ask: Ask, database: str, include: Sequence[str], exclude: Sequence[str], *, final: bool
) -> tuple[list[Table], list[str]]:
    """Returns the wanted tables and views of a database, and the columns, as `table.column`, that cannot be read.

    Args:
        ask: asks the server.
        final: whether tables whose engine collapses rows are read with FINAL; the sorting key is their key then.
    """
    columns: dict[str, list[Column]] = defaultdict(list)
    keys: dict[str, list[str]] = defaultdict(list)
    left: list[str] = []
    asked = SQL.literal(database)
    for table, name, native, in_key in await ask(_COLUMNS.format(asked)):
        table, name, native = table or "", name or "", native or ""
        if not is_readable(native):
            left.append(f"{table}.{name}")
            continue
        columns[table].append(column_of(name, native, SQL.identifier(name)))
        if in_key == "1":
            keys[table].append(name)
    found: list[Table] = []
    for name, engine, rows, bytes_ in await ask(_TABLES.format(asked)):
        stream = StreamName(name or "")
        if not columns[stream.name] or not is_wanted(stream, include, exclude):
            continue
        collapses = (engine or "").removeprefix("Replicated").removeprefix("Shared") in _COLLAPSING
        source = SQL.qualified(database, stream.name) + (" FINAL" if collapses and final else "")
        found.append(
            Table(
                stream,
                source=source,
                columns=tuple(columns[stream.name]),
                key=tuple(keys[stream.name]) if collapses and final else (),
                rows=None if rows is None else int(rows),
                bytes=None if bytes_ is None else int(bytes_),
            )
        )
    wanted = {each.name.name for each in found}
    return found, [each for each in left if each.partition(".")[0] in wanted]
