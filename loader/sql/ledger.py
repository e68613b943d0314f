"""The ledger in a database: how far each lane is loaded into each table, and which epoch may load.

It has one row for each connection, table and lane, with the last loaded sequence. One more row for each connection, with empty
table and lane, holds its epoch, and a count of its loads in place of a sequence: if the count differs from the session's, the
database is not as the session left it. That row is locked only between the check and COMMIT, never while rows travel: a loader
that is frozen in its bulk path must not hold up its successor.
"""

# ruff: noqa: S608 - names are quoted by the dialect, values are bound
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loader.contract.warehouse import LoadPlan
from loader.sql.dialect import Dialect
from loader.sql.steps import Ask, Commit, Run, Steps
from loader.sql.text import LEDGER
from shared.errors import Fenced, NotConnected, WentBack
from shared.syncs.naming import is_of_sync

KEY = ("connection", "table_name", "lane")
AT_ONCE = 500
"""Marks removed by one statement."""
REFRESH = "replace"
"""The lane in the row of a table's full refresh, which has the run in place of a sequence."""

OVER = -1
"""Of `Noted.rows`: nothing waits."""


class Holder(NamedTuple):
    """A connection's session: its epoch, and the ledger's count of loads."""

    connection: str
    epoch: int
    loads: int


class Noted(NamedTuple):
    """The newest full refresh of a table: its run, and how many of its rows wait; -1: it is over."""

    run: int
    rows: int


def claim(dialect: Dialect, schema: str, name: str, epoch: int) -> Steps[Holder]:
    """Makes the ledger if it is missing and raises the epoch of a connection.

    Raises:
        Fenced: a session with a higher epoch exists.
    """
    yield Run(dialect.begin)
    # asked first, because IF NOT EXISTS wants the permission even if the table exists
    if not (yield Ask(dialect.has_table(), (schema, LEDGER))):
        yield from dialect.lock(schema, [LEDGER])
        yield from dialect.make_schema(schema)
        yield Run(create(dialect, schema))
    changes = {name: dialect.incoming(name) for name in ("epoch", "loaded_at")}
    condition = f"{dialect.stored(schema, LEDGER, 'epoch')} <= {dialect.incoming('epoch')}"
    insert = f"{_insert(dialect, schema, 1)} {dialect.upsert(schema, LEDGER, KEY, changes=changes, condition=condition)}"
    yield Ask(insert, (name, "", "", epoch, 0, 0))
    ((held, loads),) = yield Ask(_epoch(dialect, schema), (name,))
    if held != epoch:
        raise Fenced(f'connection "{name}": a loader with a newer epoch than {epoch} holds it', held)
    yield Commit()
    return Holder(name, epoch, loads)


def newest(dialect: Dialect, schema: str, name: str) -> Steps[int | None]:
    """Returns the epoch that holds a connection, None where none does yet."""
    if not (yield Ask(dialect.has_table(), (schema, LEDGER))):
        return None
    rows = yield Ask(_epoch(dialect, schema), (name,))
    return rows[0][0] if rows else None


def read_marks(dialect: Dialect, schema: str, name: str) -> Steps[Mapping[tuple[str, str], int]]:
    """Returns the last loaded sequence by table and lane."""
    rows = yield Ask(f"SELECT table_name, lane, last_sequence {_marks(dialect, schema)}", (name,))
    return {(table, lane): sequence for table, lane, sequence in rows if lane != REFRESH}


def read_tables(dialect: Dialect, schema: str, name: str) -> Steps[list[str]]:
    """Returns the tables that a connection has loaded."""
    rows = yield Ask(f"SELECT DISTINCT table_name {_marks(dialect, schema)}", (name,))
    return [table for (table,) in rows]


def read_all_tables(dialect: Dialect, schema: str) -> Steps[list[str]]:
    """Returns the tables that any connection has loaded; not those of syncs."""
    query = f"SELECT DISTINCT connection, table_name FROM {dialect.qualified(schema, LEDGER)} WHERE table_name <> ''"
    rows = yield Ask(query, ())
    return sorted({table for connection, table in rows if not is_of_sync(connection)})


def forget_marks(dialect: Dialect, schema: str, name: str, marks: Sequence[tuple[str, str]]) -> Steps[None]:
    """Removes marks by table and lane."""
    for start in range(0, len(marks), AT_ONCE):
        some = marks[start : start + AT_ONCE]
        pairs = ", ".join(f"({dialect.parameter(n)}, {dialect.parameter(n + 1)})" for n in range(2, 2 * len(some) + 2, 2))
        values = [each for mark in some for each in mark]
        yield Ask(f"DELETE {_marks(dialect, schema)} AND (table_name, lane) IN ({pairs})", (name, *values))


def forget(dialect: Dialect, schema: str, name: str) -> Steps[None]:
    """Removes all rows of a connection from the ledger."""
    yield Ask(f"DELETE FROM {dialect.qualified(schema, LEDGER)} WHERE connection = {dialect.parameter(1)}", (name,))


def check(dialect: Dialect, schema: str, holder: Holder) -> Steps[None]:
    """Checks that the epoch is still ours and the database as the session left it; locks both until the transaction ends.

    Raises:
        Fenced: the epoch is no longer ours.
        WentBack: the ledger is older than the session.
        NotConnected: the ledger is gone.
    """
    name, epoch, loads = holder
    try:
        rows = yield Ask(_epoch(dialect, schema) + dialect.lock_rows, (name,))
    except Exception as error:
        if dialect.trouble(error) != "gone":
            raise
        raise NotConnected(
            f'connection "{name}": the ledger is gone, and the database with it perhaps; a new session makes it'
        ) from error
    held = tuple(rows[0]) if rows else None
    if held is not None and held[0] > epoch:
        raise Fenced(f'connection "{name}": a newer epoch than {epoch} exists; nothing was loaded', held[0])
    if held != (epoch, loads):
        raise WentBack(f'connection "{name}": the ledger is not as this loader left it, an older copy was put back')


def write_marks(
    dialect: Dialect, schema: str, holder: Holder, plan: LoadPlan, rows: Mapping[str, int], waiting: Mapping[str, Noted]
) -> Steps[None]:
    """Counts a load and writes its marks, after `check`; the next step must be `Commit`.

    Args:
        rows: the number of rows by table.
        waiting: by table, how many of these wait for the end of which run.
    """
    name, epoch, loads = holder
    marks = [(name, "", "", epoch, loads + 1, 0), *((name, table, plan.lane, epoch, plan.last, n) for table, n in rows.items())]
    marks += ((name, table, REFRESH, epoch, noted.run, noted.rows) for table, noted in waiting.items())
    last = ("last_sequence", "rows")
    stored, incoming = [dialect.stored(schema, LEDGER, each) for each in last], [dialect.incoming(each) for each in last]
    changes = {
        "epoch": dialect.incoming("epoch"),
        "last_sequence": f"greatest({stored[0]}, {incoming[0]})",
        "rows": f"{stored[1]} + {incoming[1]}",
        "loaded_at": dialect.incoming("loaded_at"),
    }
    insert = f"{_insert(dialect, schema, len(marks))} {dialect.upsert(schema, LEDGER, KEY, changes=changes, condition=None)}"
    yield Ask(insert, [each for mark in marks for each in mark])


def lock(dialect: Dialect, schema: str, table: str) -> str:
    """Returns the statement that waits for other transactions which named the same table; its row is of no connection and no lane."""
    insert, changes = (
        f"INSERT INTO {dialect.qualified(schema, LEDGER)} {dialect.alias}",
        {"loaded_at": dialect.incoming("loaded_at")},
    )
    names = dialect.identifiers((*KEY, "epoch", "last_sequence", "rows", "loaded_at"))
    values = f"('', {dialect.literal(table)}, '', 0, 0, 0, {dialect.now})"
    return f"{insert} ({names}) VALUES {values} {dialect.upsert(schema, LEDGER, KEY, changes=changes, condition=None)}"


def read_refresh(dialect: Dialect, schema: str, name: str, table: str) -> Steps[Noted | None]:
    """Returns the newest full refresh of a table by a connection."""
    where = f"connection = {dialect.parameter(1)} AND table_name = {dialect.parameter(2)} AND lane = {dialect.parameter(3)}"
    query = f"SELECT last_sequence, {dialect.identifier('rows')} FROM {dialect.qualified(schema, LEDGER)} WHERE {where}"
    rows = yield Ask(query, (name, table, REFRESH))
    return Noted(*rows[0]) if rows else None


def read_over(dialect: Dialect, schema: str, name: str) -> Steps[list[tuple[str, int]]]:
    """Returns the newest full refreshes of a connection that are over: tables and runs."""
    own = f"connection = {dialect.parameter(1)} AND lane = {dialect.parameter(2)} AND {dialect.identifier('rows')} = {OVER}"
    query = f"SELECT table_name, last_sequence FROM {dialect.qualified(schema, LEDGER)} WHERE {own}"
    return [(table, run) for table, run in (yield Ask(query, (name, REFRESH)))]


def write_refresh(dialect: Dialect, schema: str, holder: Holder, table: str, noted: Noted) -> Steps[None]:
    """Writes the newest full refresh of a table, after `check`."""
    changes = {each: dialect.incoming(each) for each in ("epoch", "last_sequence", "rows", "loaded_at")}
    insert = f"{_insert(dialect, schema, 1)} {dialect.upsert(schema, LEDGER, KEY, changes=changes, condition=None)}"
    yield Ask(insert, (holder.connection, table, REFRESH, holder.epoch, noted.run, noted.rows))


def create(dialect: Dialect, schema: str) -> str:
    """Returns the DDL of the ledger."""
    number = dialect.big_number
    types = {
        **{name: dialect.key_text.get(name, "text") for name in KEY},
        **dict.fromkeys(("epoch", "last_sequence", "rows"), number),
        "loaded_at": dialect.moment,
    }
    columns = "".join(f"{dialect.identifier(name)} {type_} NOT NULL, " for name, type_ in types.items())
    key = f"PRIMARY KEY ({dialect.identifiers(KEY)})"
    return f"CREATE TABLE IF NOT EXISTS {dialect.qualified(schema, LEDGER)} ({columns}{key}){dialect.ledger_storage}"


def _insert(dialect: Dialect, schema: str, rows: int) -> str:
    names = dialect.identifiers((*KEY, "epoch", "last_sequence", "rows", "loaded_at"))
    values = ", ".join(
        f"({', '.join(dialect.parameter(6 * row + column) for column in range(1, 7))}, {dialect.now})" for row in range(rows)
    )
    return f"INSERT INTO {dialect.qualified(schema, LEDGER)} {dialect.alias} ({names}) VALUES {values}"


def _epoch(dialect: Dialect, schema: str) -> str:
    """Returns the query of a connection's epoch and count of loads."""
    own = f"connection = {dialect.parameter(1)} AND table_name = '' AND lane = ''"
    return f"SELECT epoch, last_sequence FROM {dialect.qualified(schema, LEDGER)} WHERE {own}"


def _marks(dialect: Dialect, schema: str) -> str:
    return f"FROM {dialect.qualified(schema, LEDGER)} WHERE connection = {dialect.parameter(1)} AND table_name <> ''"
