"""Sends Arrow tables to Postgres: binary COPY, encoded by pgpq in slices so that memory stays flat.

Straight into the table when it appends and every column has a type that COPY can be given; else into a temporary table with an
INSERT after it. The types of the live columns are read under a lock on the tables (`lock_tables`), in the same transaction:
eight bytes meant for a bigint would be taken for a double without a word by a column altered behind our back.

Measured (30 columns, 840 bytes a row, PostgreSQL 15, two shared cores): slices of 1000 rows cost 0.6 µs a row to encode, 50000
rows 1.7 µs; so short that they are encoded on the event loop. COPY 72 to 100 k rows/s, merge 40 to 55 k; sorting by key first
gained nothing. See `bench/destinations.py`.
"""

# ruff: noqa: S608 - names are quoted by loader/sql/dialect.py

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loader.contract.warehouse import Kind, TableLoad
from loader.sql import merge
from loader.sql.merge import in_turn as in_turn_of
from loader.sql.merge import insert
from loader.sql.reject import narrow, rows_longer_than, rows_with_text
from loader.sql.straight import Straight, has_key
from loader.sql.text import is_constant
from loader.warehouses.postgres import statements
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import translate
from loader.warehouses.postgres.types import LiveColumn, length_of, live_column
from loader.warehouses.postgres.watch import Watch
from shared.errors import RowsRejected, TableChanged

if TYPE_CHECKING:
    import asyncpg
    import pyarrow as pa

SLICE_ROWS = 1000
SLICE_BYTES = 1024 * 1024
STAGE = "_penstock_stage"
SMALL_ROWS = 100
"""Up to here a merge goes as parameters of one statement: making and dropping a temporary table costs more."""

_ARRAYS = {
    Kind.BOOLEAN: "boolean",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double precision",
    Kind.TEXT: "text",
}
"""What an array parameter holds for each kind; the others go as text and are cast by the server. Times too: asyncpg takes the last
moment of the year 9999 for infinity."""

UNIQUE = "23505"
JSON_NUL = r"(?:^|[^\\])(?:\\\\)*\\u0000"
"""An escaped NUL in JSON: an odd number of backslashes before it."""


@dataclass(frozen=True, slots=True)
class LiveRows:
    """Where rows go: the columns, and whether COPY may write there.

    It may not into a view, nor under row-level security, nor where one column's type has no binary form, be it a column without values.
    """

    columns: Mapping[str, LiveColumn]
    copied: bool = True
    oid: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A load whose columns are as COPY sends them.

    `staged` names those the server must cast, `filled` those with a default and rows that have no value for them; `copied` says
    whether COPY may go into the table itself.
    """

    load: TableLoad
    rows: pa.Table
    live: Mapping[str, LiveColumn]
    staged: frozenset[str]
    filled: frozenset[str]
    copied: bool
    oid: int = 0


async def lock_tables(connection: asyncpg.Connection, schema: str, tables: Sequence[str]) -> Mapping[str, LiveRows]:
    """Begins a transaction, keeps others from altering the tables until its end, and returns their columns.

    Raises:
        the driver's errors; translated by the caller.
    """
    names = ", ".join(DIALECT.qualified(schema, table) for table in sorted(set(tables)))
    await connection.execute(f"BEGIN; LOCK TABLE {names} IN ROW EXCLUSIVE MODE")
    return await read_columns(connection, schema, tables)


async def read_columns(connection: asyncpg.Connection, schema: str, tables: Sequence[str]) -> Mapping[str, LiveRows]:
    """Returns the live columns of those of `tables` that exist."""
    found: dict[str, dict[str, LiveColumn]] = {}
    copied: dict[str, bool] = {}
    oids: dict[str, int] = {}
    for row in await connection.fetch(statements.COLUMNS, schema, list(tables)):
        columns = found.setdefault(row["name"], {})
        oids[row["name"]] = row["oid"]
        may = row["relkind"] != "v" and not row["guarded"] and row["received"] is not False
        copied[row["name"]] = may and copied.get(row["name"], True)
        if row["column"] is not None:
            columns[row["column"]] = live_column(row)
    return {name: LiveRows(columns, copied[name], oids[name]) for name, columns in found.items()}


def prepare(load: TableLoad, live: LiveRows) -> Prepared:
    """Fits a load to the live columns' exact types.

    Raises:
        TableChanged: a column is missing or has another kind than the rows were shaped for.
        RowsRejected: naming rows whose number the column's smaller type cannot hold.
    """
    import pyarrow as pa

    from loader.types.lattice import ARROW

    narrower = {"integer": pa.int32(), "smallint": pa.int16(), "real": pa.float32()}
    rows = load.rows
    staged: set[str] = set()
    filled: set[str] = set()
    for position, field in enumerate(rows.schema):
        column = live.columns.get(field.name)
        if column is None:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is gone')
        if field.type != ARROW[column.kind]:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is {column.native} now, the rows have {field.type}')
        if not column.writable:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is computed by the server now')
        if column.default is not None and rows.column(position).null_count:
            filled.add(field.name)
        base = column.base or column.native
        if base in narrower:
            changed = narrow(load, field.name, rows.column(position), narrower[base], column.native)
            rows = rows.set_column(position, field.name, changed)
        elif column.kind is Kind.OTHER:
            staged.add(field.name)
    return Prepared(load, rows, live.columns, frozenset(staged), frozenset(filled), live.copied, live.oid)


async def send(
    connection: asyncpg.Connection,
    schema: str,
    prepared: Prepared,
    number: int,
    watch: Watch,
    *,
    small: bool,
    in_turn: bool,
    straight: Straight | None = None,
) -> int:
    """Brings the rows into the table within the open transaction; returns the bytes sent.

    Args:
        connection: with a transaction open.
        schema: of the table.
        prepared: the rows.
        number: distinguishes the staging tables of one transaction.
        watch: hears of everything that moves.
        small: whether a merge of few rows may take the short way, on which the server names no refused row.
        in_turn: whether keys that differ here may be one key there; rows of one key are then merged one after the other.

        straight: which tables a merge may try to copy its rows into; None: it does not.

    Raises:
        the driver's errors; translated by the caller.
    """
    load = prepared.load
    if load.write == "append" and prepared.copied and not prepared.staged and not prepared.filled:
        return await _copy(connection, prepared, load.table, schema, watch)
    if small and load.write == "merge" and prepared.rows.num_rows <= SMALL_ROWS:
        return await _insert(connection, schema, prepared, watch)
    if straight is not None and not in_turn and _may_go_straight(prepared) and straight.tries(load.table):
        sent = await _copy_straight(connection, schema, prepared, watch)
        if sent is not None:
            straight.passed(load.table)
            return sent
        straight.met(load.table)
    stage = f"{STAGE}_{number}"
    types = {name: "text" if name in prepared.staged else prepared.live[name].native for name in prepared.rows.column_names}
    await connection.execute(statements.create_stage(stage, types))
    sent = await _copy(connection, prepared, stage, "pg_temp", watch)
    casts = {name: f"r.{DIALECT.identifier(name)}" for name in types}
    casts |= {name: f"{casts[name]}::{prepared.live[name].cast}" for name in prepared.staged}
    values, others = _values(schema, prepared, casts), _others(prepared)
    watch.server_works()
    if in_turn and load.write == "merge":
        turns = in_turn_of(f"pg_temp.{DIALECT.identifier(stage)}", [casts[name] for name in load.key], "r.ctid")
        for turn in range(1, await connection.fetchval(f"SELECT coalesce(max(_penstock_turn), 0) FROM {turns}") + 1):
            one = f"{turns} WHERE r._penstock_turn = {turn}"
            await connection.execute(insert(DIALECT, schema, load, one, values, others))
    else:
        await connection.execute(insert(DIALECT, schema, load, f"pg_temp.{DIALECT.identifier(stage)} AS r", values, others))
    watch.moved()
    return sent


def _may_go_straight(prepared: Prepared) -> bool:
    load = prepared.load
    plain = prepared.copied and not prepared.staged and not prepared.filled
    return plain and load.write == "merge" and not load.coalesce


async def _copy_straight(connection: asyncpg.Connection, schema: str, prepared: Prepared, watch: Watch) -> int | None:
    """Copies a merge's rows into their table; returns None, and leaves nothing behind, where a unique key has one of them already."""
    load = prepared.load
    keys = await connection.fetch(statements.KEYS, [prepared.oid])
    if not has_key([key["columns"] for key in keys], load.key):
        return None
    await connection.execute("SAVEPOINT straight")
    try:
        sent = await _copy(connection, prepared, load.table, schema, watch)
    except Exception as error:
        if getattr(error, "sqlstate", None) != UNIQUE:
            raise
        await connection.execute("ROLLBACK TO SAVEPOINT straight")
        return None
    await connection.execute("RELEASE SAVEPOINT straight")
    return sent


def _values(schema: str, prepared: Prepared, casts: Mapping[str, str]) -> list[str]:
    """Returns what is inserted for every column: the value, or the column's default where the row has none."""
    defaults = {name: default for name in prepared.filled if (default := prepared.live[name].default) is not None}
    return merge.values(DIALECT, schema, prepared.load, casts, defaults)


def _others(prepared: Prepared) -> list[str]:
    """Returns the columns that a replaced row must not keep: all others, but not what is made for each row, as a serial number is."""
    there = set(prepared.rows.column_names)
    return [
        name for name, column in prepared.live.items() if name not in there and column.writable and is_constant(column.default)
    ]


def refusal(error: BaseException, sent: Sequence[Prepared]) -> RowsRejected | None:
    """Returns which rows a data error of the server means: the one it names, and all others with the same visible defect.

    Args:
        error: the driver's.
        sent: what was sent, the last of it perhaps in part. A deferred constraint names the table it is on.
    """
    state = getattr(error, "sqlstate", "")
    named = getattr(error, "table_name", None)
    prepared = next((each for each in sent if each.load.table == named), sent[-1])
    load = prepared.load
    rows: dict[int, str] = {}
    if state == "22021":
        rows = rows_with_text(load, load.rows.column_names, "\0", "a NUL character, which Postgres text cannot hold,")
    elif state == "22P05":
        documents = [name for name in load.rows.column_names if prepared.live[name].native == "jsonb"]
        rows = rows_with_text(load, documents, JSON_NUL, "the character \\u0000, which jsonb cannot hold,")
    elif state == "22001":
        for name in load.rows.column_names:
            length = length_of(prepared.live[name].base or prepared.live[name].native)
            rows |= {} if length is None else rows_longer_than(load, name, length)
    translated = translate(error, "", load.table)
    if not isinstance(translated, RowsRejected):
        return None
    named = {**rows, **translated.rows}
    return RowsRejected(load.table, translated.message, named, needs_others=translated.needs_others)


async def _copy(connection: asyncpg.Connection, prepared: Prepared, table: str, schema: str, watch: Watch) -> int:
    sent = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal sent
        for chunk in encode(prepared):
            sent += len(chunk)
            watch.moved()
            yield chunk
            # asyncpg waits only while the socket's buffer is full; a fast server would never let the loop's other tasks run
            await asyncio.sleep(0)
        watch.server_works()

    await connection.copy_to_table(
        table, schema_name=schema, columns=prepared.rows.column_names, format="binary", source=source()
    )
    watch.moved()
    return sent


async def _insert(connection: asyncpg.Connection, schema: str, prepared: Prepared, watch: Watch) -> int:
    """Sends rows as arrays, one parameter a column: one round trip, and a statement the server has prepared already."""
    rows, types = prepared.rows, []
    casts: dict[str, str] = {}
    for field in rows.schema:
        live = prepared.live[field.name]
        type_ = _ARRAYS.get(live.kind, "text")
        types.append(type_)
        # text becomes another type by an explicit cast only
        casts[field.name] = f"r.{DIALECT.identifier(field.name)}" + ("" if live.kind in _ARRAYS else f"::{live.cast}")
    arrays = ", ".join(f"${position}::{type_}[]" for position, type_ in enumerate(types, 1))
    source = f"unnest({arrays}) AS r({DIALECT.identifiers(rows.column_names)})"
    statement = insert(DIALECT, schema, prepared.load, source, _values(schema, prepared, casts), _others(prepared))
    parameters = [
        [None if value is None else str(value) for value in column.to_pylist()] if type_ == "text" else column.to_pylist()
        for column, type_ in zip(rows.columns, types, strict=True)
    ]
    watch.server_works()
    await connection.execute(statement, *parameters)
    watch.moved()
    sent: int = rows.nbytes
    return sent


def encode(prepared: Prepared) -> Iterator[bytes]:
    """Yields the rows as the bytes of a binary COPY, a slice at a time."""
    import pgpq
    from pgpq import encoders, schema

    rows = prepared.rows
    infer = pgpq.ArrowToPostgresBinaryEncoder.infer_encoder
    as_text, jsonb = encoders.StringEncoderBuilder.new_with_output, schema.Jsonb()
    builders = {
        field.name: as_text(field, jsonb) if prepared.live[field.name].native == "jsonb" else infer(field)
        for field in rows.schema
    }
    encoder = pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(rows.schema, builders)
    yield encoder.write_header()
    size = max(1, min(SLICE_ROWS, SLICE_BYTES * rows.num_rows // max(1, rows.nbytes)))
    for batch in _whole(rows).to_batches(max_chunksize=size):
        yield encoder.write_batch(batch)
    yield encoder.finish()


def _whole(rows: pa.Table) -> pa.Table:
    """Joins the chunks of a table made of many small ones: a slice never crosses a chunk of any column."""
    chunks = max((column.num_chunks for column in rows.columns), default=1)
    return rows.combine_chunks() if chunks * SLICE_ROWS > 4 * rows.num_rows and chunks > 1 else rows
