"""A load into DuckDB, and its ledger: one transaction on one thread. Blocking; `file.py` calls it.

The Arrow table is scanned in place. A merge is tried as a bare insert first (`loader/sql/straight.py`): 75 to 82 k rows/s instead of 36 to 40 k,
with loads of 20000. An anti-join comes to 47 to 51 k, and reads the whole key column each time. Measured (DuckDB 2.0, 30 columns, 790 bytes a row, two shared cores): append 47 to 60 k rows/s
at 10000 rows a load and 110 to 170 k at 100000; merge through a unique index 42 to 61 k. MERGE INTO without an index merges faster
into small tables, but reads the whole key column each time: 50 ms for 2 million rows against 5 ms, however few rows arrive.
See `bench/destinations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from loader.contract.warehouse import Kind, LoadPlan, LoadReport, TableLoad
from loader.sql import merge
from loader.sql.merge import in_turn, insert
from loader.sql.straight import Straight, has_key
from loader.sql.text import is_constant
from loader.warehouses.duckdb import statements
from loader.warehouses.duckdb.dialect import DIALECT
from loader.warehouses.duckdb.errors import describe, translate
from loader.warehouses.duckdb.patch import LiveKey, read_keys
from loader.warehouses.duckdb.types import kind_of
from shared.errors import Fenced, NotConnected, RowsRejected, TableChanged, WentBack
from shared.threads import Stop

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


WHOLE = ""
"""A load is tried straight as a whole, so that an attempt that fails costs one load, however many tables it has."""

REFUSED_BY_KEY = "ConstraintException"


class Holder(NamedTuple):
    """A connection's session: its epoch, and how many loads the ledger counts. Another count means that the file is not as the session
    left it."""

    connection: str
    epoch: int
    loads: int


def claim(connection: duckdb.DuckDBPyConnection, stop: Stop, schema: str, name: str, epoch: int) -> Holder:
    """Makes the ledger if it is missing and raises the epoch of a connection.

    Raises:
        Fenced: a session with a higher epoch exists.
    """
    connection.execute("BEGIN")
    connection.execute(statements.create_ledger(schema))
    held = connection.execute(statements.read_epoch(schema), [name]).fetchone()
    if held is not None and held[0] > epoch:
        raise Fenced(f'connection "{name}": a loader with a newer epoch than {epoch} holds it', held[0])
    connection.execute(statements.write_epoch(schema), [name, epoch])
    stop.check()
    connection.execute("COMMIT")
    return Holder(name, epoch, held[1] if held is not None else 0)


def read_marks(connection: duckdb.DuckDBPyConnection, _: Stop, schema: str, name: str) -> Mapping[tuple[str, str], int]:
    """Returns the last loaded sequence by table and lane."""
    rows = connection.execute(statements.read_marks(schema), [name]).fetchall()
    return {(table, lane): sequence for table, lane, sequence in rows}


def forget_marks(
    connection: duckdb.DuckDBPyConnection, _: Stop, schema: str, name: str, marks: Sequence[tuple[str, str]]
) -> None:
    """Removes marks by table and lane."""
    tables, lanes = [table for table, _ in marks], [lane for _, lane in marks]
    connection.execute(statements.forget_marks(schema), [name, tables, lanes])


def references(connection: duckdb.DuckDBPyConnection, _: Stop, schema: str) -> list[tuple[str, str]]:
    """Returns which tables refer to which others."""
    return connection.execute(statements.REFERENCES, [schema]).fetchall()


def load_all(
    connection: duckdb.DuckDBPyConnection,
    stop: Stop,
    schema: str,
    holder: Holder,
    plan: LoadPlan | None,
    loads: Sequence[TableLoad],
    straight: Straight,
) -> LoadReport:
    """Loads everything and commits, or nothing; without a plan, takes everything back.

    Raises:
        Fenced, WentBack, TableChanged, RowsRejected
        the driver's errors; translated by the caller.
    """
    may = plan is not None and any(load.write == "merge" and not load.coalesce for load in loads)
    if may and straight.tries(WHOLE):
        try:
            report = _load_all(connection, stop, schema, holder, plan, loads, straight=True)
        except Exception as error:
            if type(error).__name__ != REFUSED_BY_KEY:
                raise
            straight.met(WHOLE)
        else:
            straight.passed(WHOLE)
            return report
    return _load_all(connection, stop, schema, holder, plan, loads, straight=False)


def _load_all(
    connection: duckdb.DuckDBPyConnection,
    stop: Stop,
    schema: str,
    holder: Holder,
    plan: LoadPlan | None,
    loads: Sequence[TableLoad],
    *,
    straight: bool,
) -> LoadReport:
    started = perf_counter()
    rows: dict[str, int] = {}
    connection.execute("BEGIN")
    # nobody else can write between here and COMMIT, so looking once is enough
    name, epoch, counted = holder
    try:
        held = connection.execute(statements.read_epoch(schema), [name]).fetchone()
    except Exception as error:
        if type(error).__name__ != "CatalogException":
            raise
        raise NotConnected(
            f'connection "{name}": the ledger is gone, and the file with it perhaps; a new session makes it'
        ) from error
    if held is not None and held[0] > epoch:
        raise Fenced(f'connection "{name}": a newer epoch than {epoch} exists; nothing was loaded', held[0])
    if held != (epoch, counted):
        raise WentBack(f'connection "{name}": the ledger is not as this loader left it, an older copy of the file was put back')
    found = _read_live(connection, schema, loads)
    keys = read_keys(connection, schema, [load.table for load in loads]) if straight else {}
    for load in loads:
        _load(connection, schema, load, found, straight=_may_go_straight(load, keys.get(load.table, ())))
        rows[load.table] = rows.get(load.table, 0) + load.rows.num_rows
        stop.check()
    copied = perf_counter()
    if plan is None:
        connection.execute("ROLLBACK")
    else:
        connection.execute(statements.count_load(schema), [name])
        marks = [name, epoch, plan.lane, plan.last, list(rows), list(rows.values())]
        connection.execute(statements.write_marks(schema), marks)
        stop.check()
        connection.execute("COMMIT")
    sent = sum(load.rows.nbytes for load in loads)
    return LoadReport(rows, sent, {"copy": copied - started, "commit": perf_counter() - copied})


def _may_go_straight(load: TableLoad, keys: Sequence[LiveKey]) -> bool:
    names = [[DIALECT.fold(name) for name in key.columns] for key in keys]
    return load.write == "merge" and not load.coalesce and has_key(names, [DIALECT.fold(name) for name in load.key])


def _load(
    connection: duckdb.DuckDBPyConnection, schema: str, load: TableLoad, found: Mapping[str, _Found], *, straight: bool
) -> None:
    live, others = _live(load, found.get(load.table))
    # keys that are different text can be one uuid; DuckDB would keep the first of them without a word
    key = {name: live[name].native for name in load.key if kind_of(live[name].native) is Kind.OTHER and load.write == "merge"}
    connection.register(statements.ROWS, _indexed(load) if key else load.rows)
    defaults = {
        name: column.default for name, column in live.items() if column.default is not None and load.rows.column(name).null_count
    }
    given = {name: f"r.{DIALECT.identifier(name)}" for name in load.rows.column_names}
    rows, values = f"{statements.ROWS} AS r", merge.values(DIALECT, schema, load, given, defaults)
    try:
        if straight:
            connection.execute(insert(DIALECT, schema, replace(load, write="append"), rows, values))
            return
        if not key:
            connection.execute(insert(DIALECT, schema, load, rows, values, others))
            return
        casts = [f"CAST({given[name]} AS {live[name].native})" for name in load.key]
        source = in_turn(statements.ROWS, casts, "r._penstock_index")
        ((turns,),) = connection.execute(f"SELECT max(_penstock_turn) FROM {source}").fetchall()  # noqa: S608 - made of quoted names
        for turn in range(1, turns + 1):
            one = f"{source} WHERE r._penstock_turn = {turn}"
            connection.execute(insert(DIALECT, schema, load, one, values, others))
    except Exception as error:
        with suppress(Exception):  # nothing else works in a transaction that failed, and its words would hide these
            connection.execute("ROLLBACK")
        refused = translate(error, "", load.table)
        if not isinstance(refused, RowsRejected) or (straight and type(error).__name__ == REFUSED_BY_KEY):
            raise
        named = _refused(connection, load, live)
        raise RowsRejected(load.table, describe(error), named, needs_others="foreign key" in str(error)) from error
    finally:
        connection.unregister(statements.ROWS)


class _Live(NamedTuple):
    native: str
    nullable: bool
    default: str | None
    generated: bool
    comment: str | None


class _Found(NamedTuple):
    """A table's columns, and the names or SQL texts of those that a merge cannot change."""

    columns: dict[str, _Live]
    indexed: set[str]


def _read_live(connection: duckdb.DuckDBPyConnection, schema: str, loads: Sequence[TableLoad]) -> dict[str, _Found]:
    """Returns those tables of a load that exist."""
    found: dict[str, _Found] = {}
    names = [load.table for load in loads]
    for table, name, *column in connection.execute(statements.COLUMNS, [schema, names]).fetchall():
        found.setdefault(table, _Found({}, set())).columns[DIALECT.fold(name)] = _Live(*column)
    # of a table whose columns all have values there is nothing to leave alone
    merged = [
        load.table
        for load in loads
        if load.write == "merge" and load.table in found and len(found[load.table].columns) > load.rows.num_columns
    ]
    if merged:
        for table, text in connection.execute(statements.INDEXED, [schema, merged]).fetchall():
            found[table].indexed.add(DIALECT.fold(text).strip('"'))
    return found


def _live(load: TableLoad, found: _Found | None) -> tuple[dict[str, _Live], list[str]]:
    """Returns the columns the rows have, as they are in the table, and the others that a replaced row must not keep."""
    from loader.types.lattice import ARROW

    if found is None:
        raise TableChanged(f'table "{load.table}" is gone')
    live = found.columns
    for field in load.rows.schema:
        column = live.get(DIALECT.fold(field.name))
        if column is None:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is gone')
        if column.generated:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is computed by DuckDB now')
        native = column.native
        if field.type != ARROW[kind_of(native)]:
            # DuckDB would cast what it can, each value in its own way
            raise TableChanged(f'table "{load.table}": column "{field.name}" is {native} now, the rows have {field.type}')
    there = {DIALECT.fold(name) for name in load.rows.column_names}
    others = [
        name
        for name, each in live.items()
        if name not in there and name not in found.indexed and not each.generated and is_constant(each.default)
    ]
    return {name: live[DIALECT.fold(name)] for name in load.rows.column_names}, others


def _indexed(load: TableLoad) -> pa.Table:
    import pyarrow as pa

    return load.rows.append_column("_penstock_index", pa.array(range(load.rows.num_rows), pa.int64()))


def _refused(connection: duckdb.DuckDBPyConnection, load: TableLoad, live: Mapping[str, _Live]) -> dict[int, str]:
    """Returns the rows with a value that its column cannot hold; the error itself names none."""
    refused: dict[int, str] = {}
    connection.register(statements.ROWS, _indexed(load))
    for name, column in live.items():
        nullable = column.nullable or column.default is not None
        for (index,) in connection.execute(statements.uncastable(name, column.native, nullable=nullable)).fetchall():
            value = load.rows.column(name)[index].as_py()
            words = "has no value and must have one" if value is None else f"{value!r} is not {column.native}"
            refused.setdefault(index, f"column {DIALECT.identifier(name)}: {words}")
    return refused
