"""Sends Arrow tables to Postgres: binary COPY, encoded by pgpq in slices so that memory stays flat.

Straight into the table when it appends and every column has a type that COPY can be given; else into a temporary table with an
INSERT after it. A few rows to be merged go as parameters of one statement.

Measured (30 columns, 840 bytes a row, PostgreSQL 15, two shared cores): slices of 1000 rows cost 0.6 µs a row to encode, 50000
rows 1.7 µs; so short that they are encoded on the event loop. COPY 72 to 100 k rows/s, merge 40 to 55 k; sorting by key first
gained nothing. See `bench/loading/destinations.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loader.contract.warehouse import Kind
from loader.sql.dialect import Dialect
from loader.sql.load import Fitted, Way
from loader.sql.reject import INDEX, indexed, rows_longer_than, rows_with_text
from loader.sql.steps import Ask, Run, Step, Steps
from loader.sql.writes.staged import Staged
from loader.warehouses.postgres.dialect import DIALECT
from loader.warehouses.postgres.errors import ERRORS
from loader.warehouses.postgres.types import cast_of, length_of
from shared.driving.watch import Watch
from shared.errors import RowsRejected

if TYPE_CHECKING:
    import asyncpg
    import pyarrow as pa

SLICE_ROWS = 1000
SLICE_BYTES = 1024 * 1024
STAGE = "_penstock_stage"

_ARRAYS = {Kind.BOOLEAN: "boolean", Kind.BIGINT: "bigint", Kind.DOUBLE: "double precision", Kind.TEXT: "text"}
"""What an array parameter holds for each kind; the others go as text and are cast by the server. Times too: asyncpg takes the last
moment of the year 9999 for infinity."""

JSON_NUL = r"(?:^|[^\\])(?:\\\\)*\\u0000"
"""An escaped NUL in JSON: an odd number of backslashes before it."""


@dataclass(frozen=True, slots=True)
class Copy(Step):
    """Rows into a table by COPY; the bytes sent come back."""

    fitted: Fitted
    schema: str
    table: str


class CopyBulk:
    """Rows into one schema."""

    short_rows = 100
    """Making and dropping a temporary table costs more than so few rows as parameters."""
    straight_casts = False

    def __init__(self, _: Dialect, schema: str) -> None:
        self._schema = schema

    def straight(self, fitted: Fitted) -> Steps[int]:
        """Copies rows into the table itself."""
        return int((yield Copy(fitted, self._schema, fitted.load.table)))

    def send(self, fitted: Fitted, number: int, way: Way) -> Steps[int]:
        """Brings rows into their table by the shortest way that it can take."""
        load, rows = fitted.load, fitted.rows
        if load.write == "append" and fitted.plain:
            return (yield from self.straight(fitted))
        if load.write != "append" and way.short and rows.num_rows <= self.short_rows:
            return (yield from self._insert(fitted))
        source, given, sent = yield from self._stage(fitted, number, {})
        if not way.in_turn or load.write == "append":
            yield Run(fitted.statement(DIALECT, self._schema, f"{source} AS r", given))
            return sent
        keys = [given[name] for name in load.key]
        yield from fitted.in_turn(DIALECT, self._schema, source, given=given, key=keys, order="r.ctid")
        return sent

    def stage(self, fitted: Fitted, number: int) -> Steps[Staged]:
        """Copies rows with their numbers into a temporary table."""
        source, given, sent = yield from self._stage(replace(fitted, rows=indexed(fitted.rows, 1)), number, {INDEX: "bigint"})
        return Staged(source, given, f"r.{INDEX}", sent)

    def statements(self, fitted: Fitted, source: str, given: Mapping[str, str]) -> list[str]:
        """Returns the one that there is."""
        return [fitted.statement(DIALECT, self._schema, source, given)]

    def _stage(self, fitted: Fitted, number: int, more: Mapping[str, str]) -> Steps[tuple[str, dict[str, str], int]]:
        """Copies rows into a temporary table; returns its name, the values in it, and the bytes sent. `more`: types of columns that are
        not the table's."""
        stage = f"{STAGE}_{number}"
        types = {name: "text" if name in fitted.cast else column.native for name, column in fitted.live.items()}
        types.update(more)
        inside = ", ".join(f"{DIALECT.identifier(name)} {native}" for name, native in types.items())
        yield Run(f"CREATE TEMPORARY TABLE {DIALECT.identifier(stage)} ({inside}) ON COMMIT DROP")
        sent: int = yield Copy(fitted, "pg_temp", stage)
        given = fitted.given(DIALECT)
        given |= {name: f"{given[name]}::{cast_of(fitted.live[name].plain)}" for name in fitted.cast}
        return DIALECT.qualified("pg_temp", stage), given, sent

    def _insert(self, fitted: Fitted) -> Steps[int]:
        """Sends rows as arrays, one parameter a column: one round trip, and a statement the server has prepared already."""
        rows, given = fitted.rows, fitted.given(DIALECT)
        types = [_ARRAYS.get(column.kind, "text") for column in fitted.live.values()]
        # text becomes another type by an explicit cast only
        given |= {name: f"{given[name]}::{cast_of(each.plain)}" for name, each in fitted.live.items() if each.kind not in _ARRAYS}
        arrays = ", ".join(f"${position}::{type_}[]" for position, type_ in enumerate(types, 1))
        source = f"unnest({arrays}) AS r({DIALECT.identifiers(rows.column_names)})"
        parameters = [
            [None if value is None else str(value) for value in column.to_pylist()] if type_ == "text" else column.to_pylist()
            for column, type_ in zip(rows.columns, types, strict=True)
        ]
        yield Ask(fitted.statement(DIALECT, self._schema, source, given), parameters, long=True)
        return int(rows.nbytes)

    def refused(self, error: Exception, sending: Sequence[Fitted]) -> Steps[RowsRejected | None]:
        """Returns the row that the server names and all others with the same visible defect. A deferred constraint names the table
        it is on."""
        yield from ()
        named = getattr(error, "table_name", None)
        fitted = next((each for each in sending if each.load.table == named), sending[-1])
        load = fitted.load
        translated = ERRORS.translate(error, "", load.table)
        if not isinstance(translated, RowsRejected):
            return None
        rows = {**_same_defect(getattr(error, "sqlstate", ""), fitted), **translated.rows}
        return RowsRejected(load.table, translated.message, rows, needs_others=translated.needs_others)


def _same_defect(state: str, fitted: Fitted) -> Mapping[int, str]:
    load = fitted.load
    rows: dict[int, str] = {}
    if state == "22021":
        rows = rows_with_text(load, load.rows.column_names, "\0", "a NUL character, which Postgres text cannot hold,")
    elif state == "22P05":
        documents = [name for name, column in fitted.live.items() if column.native == "jsonb"]
        rows = rows_with_text(load, documents, JSON_NUL, "the character \\u0000, which jsonb cannot hold,")
    elif state == "22001":
        for name, column in fitted.live.items():
            length = length_of(column.plain)
            rows |= {} if length is None else rows_longer_than(load, name, length)
    return rows


async def copy(link: asyncpg.Connection, step: Copy, watch: Watch) -> int:
    """Does a `Copy`; `watch` hears of everything that moves."""
    sent = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal sent
        for chunk in encode(step.fitted.rows, [name for name, each in step.fitted.live.items() if each.native == "jsonb"]):
            sent += len(chunk)
            watch.moved()
            yield chunk
            # asyncpg waits only while the socket's buffer is full; a fast server would never let the loop's other tasks run
            await asyncio.sleep(0)
        watch.server_works()

    columns = step.fitted.rows.column_names
    await link.copy_to_table(step.table, schema_name=step.schema, columns=columns, format="binary", source=source())
    watch.moved()
    return sent


def encode(rows: pa.Table, documents: Sequence[str]) -> Iterator[bytes]:
    """Yields rows as the bytes of a binary COPY, a slice at a time; `documents` are the columns of type jsonb."""
    import pgpq
    from pgpq import encoders, schema

    infer = pgpq.ArrowToPostgresBinaryEncoder.infer_encoder
    as_text, jsonb = encoders.StringEncoderBuilder.new_with_output, schema.Jsonb()
    builders = {field.name: as_text(field, jsonb) if field.name in documents else infer(field) for field in rows.schema}
    encoder = pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(rows.schema, builders)
    yield encoder.write_header()
    size = max(1, min(SLICE_ROWS, SLICE_BYTES * rows.num_rows // max(1, rows.nbytes)))
    # a slice never crosses a chunk of any column: those of a table made of many small ones are joined
    chunks = max((column.num_chunks for column in rows.columns), default=1)
    if chunks * SLICE_ROWS > 4 * rows.num_rows and chunks > 1:
        rows = rows.combine_chunks()
    for batch in rows.to_batches(max_chunksize=size):
        yield encoder.write_batch(batch)
    yield encoder.finish()
