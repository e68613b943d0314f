"""The SQL sent to ClickHouse. Pure: names are quoted here, values are bound as query parameters, `{name:Type}`."""

# ruff: noqa: S608 - that is what this module is for

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loader.sql.text import LEDGER
from shared.driving.spelling import Spelling

RUNS = "_penstock_runs"
"""Which full refresh of a table is the newest, and what became of it."""


class _ClickHouse(Spelling):
    """Backticks around names, and a backslash begins an escape in names and texts alike. It has no upsert: a merge is an insert."""

    name_quote = "`"
    backslash_in_text = True
    backslash_in_names = True


SPELLING = _ClickHouse()
identifier, identifiers = SPELLING.identifier, SPELLING.identifiers
qualified, literal = SPELLING.qualified, SPELLING.literal


FENCED = "a newer epoch of penstock holds the connection"
"""What the server says of an insert of an older one."""


class Incoming(NamedTuple):
    """A column of rows on their way: its type when it is read, and what takes the place of nulls (None: what the server does)."""

    name: str
    type: str
    default: str | None = None


HAS_TABLE = "SELECT name FROM system.tables WHERE database = {database:String} AND name = {table:String}"


def on_cluster(cluster: str | None) -> str:
    """Returns the clause that runs DDL on all servers of a cluster."""
    return f" ON CLUSTER {identifier(cluster)}" if cluster else ""


TABLES = """
SELECT name, engine, engine_full, sorting_key, comment, position(create_table_query, 'CONSTRAINT') > 0 AS checked
FROM system.tables WHERE database = {database:String} AND name IN {tables:Array(String)}
"""

COLUMNS = """
SELECT table, name, type, default_kind, default_expression, comment
FROM system.columns WHERE database = {database:String} AND table IN {tables:Array(String)} ORDER BY table, position
"""

TYPE = "SELECT toTypeName(defaultValueOfTypeName({type:String})) AS type"
"""Fails where it is not the name of a type; as a value, it can be nothing else than read."""

RANGES = "SELECT toString(toDate32(-719162)) || toString(toDate32(2932896)) AS days, version() AS version"
"""Older servers keep dates from 1900 to 2299 only, newer ones from 0001 to 9999."""


UUIDS = """
SELECT name, toString(uuid) AS uuid FROM system.tables
WHERE database = {database:String} AND (name = {table:String} OR startsWith(name, {prefix:String}))
"""

DROP_LIMIT = "SELECT name FROM system.settings WHERE name = 'max_table_size_to_drop'"

DATABASE_ENGINE = "SELECT engine FROM system.databases WHERE name = {database:String}"


def create_ledger(database: str, cluster: str | None, engine: str) -> str:
    """Returns the statement that makes the table of epochs, and of which connection has loaded which table."""
    return (
        f"CREATE TABLE IF NOT EXISTS {qualified(database, LEDGER)}{on_cluster(cluster)} (connection String,"
        " table_name String COMMENT 'empty: the row of the epoch', epoch UInt64, at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'))"
        f" ENGINE = {engine} ORDER BY (connection, table_name)"
    )


def read_epoch(database: str) -> str:
    """Returns the query for the newest epoch of a connection; 0 where it has none."""
    return f"SELECT max(epoch) AS epoch FROM {qualified(database, LEDGER)} WHERE connection = {{connection:String}} AND table_name = ''"


def write_epoch(database: str) -> str:
    """Returns the insert of an epoch, or of a table that a connection loads."""
    return (
        f"INSERT INTO {qualified(database, LEDGER)} (connection, table_name, epoch)"
        " SELECT {connection:String}, {table:String}, {epoch:UInt64}"
    )


def read_tables(database: str) -> str:
    """Returns the query for the tables that a connection has loaded."""
    return (
        f"SELECT DISTINCT table_name FROM {qualified(database, LEDGER)}"
        " WHERE connection = {connection:String} AND table_name != ''"
    )


def read_all_tables(database: str) -> str:
    """Returns the query for the tables that any connection has loaded, and for the connection."""
    return f"SELECT DISTINCT connection, table_name FROM {qualified(database, LEDGER)} WHERE table_name != ''"


def create_runs(database: str, cluster: str | None, engine: str) -> str:
    """Returns the statement that makes the table of full refreshes."""
    return (
        f"CREATE TABLE IF NOT EXISTS {qualified(database, RUNS)}{on_cluster(cluster)} (connection String, table_name String,"
        " run UInt64, uuid String, state UInt8 COMMENT '0 open, 1 ended, 2 given up', version UInt64 MATERIALIZED run * 4 + state,"
        f" at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')) ENGINE = {engine} ORDER BY (connection, table_name)"
    )


def read_run(database: str) -> str:
    """Returns the query for the newest run of a connection's table."""
    where = "connection = {connection:String} AND table_name = {table:String}"
    return f"SELECT run, uuid, state FROM {qualified(database, RUNS)} WHERE {where} ORDER BY version DESC LIMIT 1"


def write_run(database: str) -> str:
    """Returns the insert of a run; the server refuses it where another epoch holds the connection."""
    return (
        f"INSERT INTO {qualified(database, RUNS)} (connection, table_name, run, uuid, state)"
        f" SELECT {{connection:String}}, {{table:String}}, {{run:UInt64}}, {{uuid:String}}, {{state:UInt8}} WHERE {_fence(database)}"
    )


def forget(database: str, cluster: str | None, table: str = LEDGER) -> str:
    """Returns the statement that removes a connection from the ledger, or from the table of runs."""
    return f"ALTER TABLE {qualified(database, table)}{on_cluster(cluster)} DELETE WHERE connection = {{connection:String}}"


def kill(cluster: str | None) -> str:
    """Returns the statement that ends what older sessions of a connection have running, and waits for it."""
    return (
        f"KILL QUERY{on_cluster(cluster)} WHERE user = currentUser() AND startsWith(Settings['log_comment'], {{prefix:String}})"
        " AND Settings['log_comment'] != {own:String} SYNC"
    )


def insert(database: str, table: str, columns: Sequence[Incoming], *, fenced: bool) -> str:
    """Returns the insert of an Arrow stream.

    Args:
        columns: what the stream has.
        fenced: the server itself refuses it if the epoch is an old one, as `insert_from` says. Asynchronous inserts cannot be fenced so.
    """
    if fenced:
        return f"{insert_from(database, table, columns, f'input({structure(columns)})')} FORMAT ArrowStream"
    names = identifiers(column.name for column in columns)
    return f"INSERT INTO {qualified(database, table)} ({names}) FORMAT ArrowStream"


def insert_from(database: str, table: str, columns: Sequence[Incoming], source: str) -> str:
    """Returns the insert of what a table function reads.

    The server refuses it where the ledger has another epoch than `{epoch:UInt64}` for `{connection:String}`. It looks when the query is
    in its list of processes, so a loader that writes a newer epoch and then ends the older one's processes meets it in one of the two
    ways.

    Args:
        columns: what the source has.
        source: the call of the table function.
    """
    names = identifiers(column.name for column in columns)
    values = ", ".join(
        identifier(column.name) if column.default is None else f"ifNull({identifier(column.name)}, {column.default})"
        for column in columns
    )
    return f"INSERT INTO {qualified(database, table)} ({names}) SELECT {values} FROM {source} WHERE {_fence(database)}"


def mark_older(database: str, table: str, columns: Sequence[str], *, cursor: str, marked: str) -> str:
    """Returns the insert of all rows whose cursor is below `{before:Int64}` and that are not marked, with the mark `{at:String}`; made twice
    it does nothing more. It is refused as `insert_from` says.

    Args:
        columns: the columns of the table that can be written.
    """
    changed = {cursor: "{before:Int64}", marked: "toDateTime64({at:String}, 6, 'UTC')"}
    values = ", ".join(changed.get(name) or identifier(name) for name in columns)
    older = f"(isNull(r.{identifier(cursor)}) OR r.{identifier(cursor)} < {{before:Int64}}) AND isNull(r.{identifier(marked)})"
    source = f"{qualified(database, table)} AS r FINAL"
    return (
        f"INSERT INTO {qualified(database, table)} ({identifiers(columns)}) SELECT {values} FROM {source}"
        f" WHERE {older} AND {_fence(database)}"
    )


def structure(columns: Sequence[Incoming]) -> str:
    """Returns names and types of columns as table functions take them, as a text."""
    return literal(", ".join(f"{identifier(column.name)} {column.type}" for column in columns))


def count_ids(database: str, table: str, column: str, *, final: bool) -> str:
    """Returns the query for how often each of some ids is in a table."""
    return (
        f"SELECT toString({identifier(column)}) AS id, count() AS times FROM {qualified(database, table)}"
        f"{' FINAL' if final else ''} WHERE toString({identifier(column)}) IN {{ids:Array(String)}} GROUP BY id"
    )


def is_of(columns: Sequence[str], names: Sequence[str]) -> str:
    """Returns the condition that one of some columns holds one of the ids. They stand in the text once: a server bounds addresses and queries."""
    texts = ", ".join(f"ifNull(toString({identifier(column)}), '')" for column in columns)
    return f"arrayExists(each -> each IN ({', '.join(map(literal, names))}), [{texts}])"


def delete_rows(database: str, table: str, where: str, cluster: str | None) -> str:
    """Returns the statement that writes the parts of a table again without some rows."""
    return f"ALTER TABLE {qualified(database, table)}{on_cluster(cluster)} DELETE WHERE {where}"


def make_view(database: str, view: str, table: str, cluster: str | None, comment: str) -> str:
    """Returns the statement that makes or renews the view of a merging table's final rows."""
    return (
        f"CREATE OR REPLACE VIEW {qualified(database, view)}{on_cluster(cluster)}"
        f" AS SELECT * FROM {qualified(database, table)} FINAL COMMENT {literal(comment)}"
    )


def _fence(database: str) -> str:
    """Returns the condition that fails where the ledger has another epoch than `{epoch:UInt64}` for `{connection:String}`."""
    epoch = f"(SELECT max(epoch) FROM {qualified(database, LEDGER)} WHERE connection = {{connection:String}} AND table_name = '')"
    return f"NOT throwIf({epoch} != {{epoch:UInt64}}, '{FENCED}')"
