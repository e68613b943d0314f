"""Rows that are no events, shaped as events are: columns by source path, values by kind. Pure.

    batch = shape_rows(rows, "orders", Namer(capabilities), first=0)
    fitted = fit_batch(batch, live, rules, stamp)

They come as objects, whose values are taken as an event's are, or as an Arrow table. What an Arrow type becomes: integers, booleans, dates and text stay; a time has microseconds and is in UTC (without a zone it is taken as
UTC); a decimal without a scale stays exact, one with a scale is a number, and asks for a column of its scale where it is not in the key; a
struct's members are columns of their own, as an object's are; a list, a map, and Arrow's JSON is JSON; bytes are Base64; a time of the day is text.
Nulls are left out. So are NaN and infinity, which `notes` counts as `rescue.NOT_FINITE`.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loader.contract.warehouse import Kind
from loader.rows.batch import Columns, DeadEvent, RawTable, ShapedBatch
from loader.rows.columns import Part, Source, Tree
from loader.rows.layouts.contract import Root, TableSpec
from loader.rows.rules import OWN_COLUMNS
from loader.rows.runs import NUL_REPLACED, runs_of
from loader.types.lattice import DECIMAL, TIMESTAMP
from loader.types.names import Namer, Path
from shared.events.event import JSON
from shared.events.frame import Head
from shared.events.outcome import DeadReason
from shared.events.rescue import NOT_FINITE

ROW = "row"
"""The type of the heads of rows; no event is made of them."""
Rows: TypeAlias = list[JSON] | pa.Table
_LARGEST = 2**63 - 1
_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


@dataclass(frozen=True, slots=True)
class RowBatch(ShapedBatch):
    """Rows of one table that are no events. `first`: the number of the first of them; the rows have no frame behind them."""

    first: int = 0

    def dead_letters(self, refused: Mapping[int, tuple[DeadReason, str]]) -> list[DeadEvent]:
        """Returns refused rows, with their numbers as ids."""
        return [
            DeadEvent(
                seq=0,
                index=self.first + row,
                head=Head(message_id=str(self.first + row), type=ROW),
                body=b"",
                reason=reason,
                detail=detail,
            )
            for row, (reason, detail) in sorted(refused.items())
        ]


def shape_rows(
    rows: Rows,
    table: str,
    namer: Namer,
    first: int = 0,
    own_columns: Iterable[str] = OWN_COLUMNS,
    compared: Collection[str] = (),
) -> RowBatch:
    """Returns rows as a batch of one table.

    Args:
        rows: of an Arrow table the column names are unique.
        first: the number of the first row among all that are loaded.
        own_columns: names that no column of the rows may have.
        compared: names of columns by which rows are told from each other; their types are always ours.
    """
    return shape_blocks([rows], table=table, namer=namer, first=first, own_columns=own_columns, compared=compared)


def shape_blocks(
    blocks: Iterable[Rows],
    table: str,
    namer: Namer,
    first: int = 0,
    own_columns: Iterable[str] = OWN_COLUMNS,
    compared: Collection[str] = (),
) -> RowBatch:
    """Returns rows that come in blocks, perhaps of both forms, as a batch of one table; see `shape_rows`.

    Each block is taken when the one before it is in columns, so that no two are in memory as objects.
    """
    notes, count, start = Counter[str](), 0, 0
    plain, hints = set(map(namer.key, compared)), dict[Path, tuple[Kind, str]]()
    tree, arrow, found = Tree(Root(), namer, notes), list[pa.Table](), list[Columns]()
    for block in blocks:
        if isinstance(block, list):
            for number, row in enumerate(block, count):
                tree.add(row, number)
        else:
            # tables are one where they have one schema, and no block of the other form stands between them
            if arrow and (start + sum(map(len, arrow)) != count or not arrow[0].schema.equals(block.schema)):
                found.append(_of_arrow(arrow, start, namer, notes))
                arrow = []
            if not arrow:
                hints.update(hint for hint in _hints(block.schema) if _source(hint[0], namer).key not in plain)
            start = start if arrow else count
            arrow.append(block)
        count += len(block)
    if arrow:
        found.append(_of_arrow(arrow, start, namer, notes))
    columns = _together([tree.take(), *found])
    ordinals = np.arange(count, dtype=np.int32)
    spec = TableSpec(reserved=frozenset(), key="", received="")
    raw = RawTable(
        name=table,
        spec=spec,
        events=ordinals,
        sequences=ordinals.astype(np.int64) + first,
        columns=columns,
        reserved=frozenset(map(namer.key, own_columns)),
        hints=hints,
    )
    return RowBatch(
        tables={table: raw},
        dead=[],
        dropped=Counter(),
        notes=notes,
        events=count,
        frames=[],
        event_frames=np.zeros(count, dtype=np.int32),
        event_indexes=ordinals,
        first=first,
    )


def _together(found: Sequence[Columns]) -> Columns:
    """Returns the columns of several shapings as one: the parts of a path are those of all."""
    some = [columns for columns in found if columns]
    if len(some) < 2:
        return some[0] if some else []
    sources: dict[Path, Source] = {}
    parts: dict[Path, tuple[Part, ...]] = {}
    for source, own in (column for columns in some for column in columns):
        sources.setdefault(source.path, source)
        parts[source.path] = (*parts.get(source.path, ()), *own)
    return [(source, parts[path]) for path, source in sources.items()]


def _of_arrow(tables: Sequence[pa.Table], start: int, namer: Namer, notes: Counter[str]) -> Columns:
    """Returns the columns of tables of one schema; `start` is the number of their first row."""
    rows = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    return [
        (
            _source(path, namer),
            tuple(Part(part.kind, part.rows + np.int32(start), part.values) for part in parts) if start else parts,
        )
        for name, values in zip(rows.column_names, rows.columns, strict=True)
        for path, parts in _column((name,), values, notes)
    ]


def row_as_json(rows: pa.Table, index: int) -> bytes:
    """Returns a row of an Arrow table as a JSON object; bytes are Base64, and what JSON has no form for is text."""
    return _encode(rows.slice(index, 1).to_pylist()[0])


def _source(path: Path, namer: Namer) -> Source:
    parts = [namer.part(key) for key in path]
    name = namer.column(parts)
    key = namer.key(name)
    exact = key == name and tuple(parts) == path
    return Source(path=path, name=name, key=key, suffixed=namer.suffixed(name, path), exact=exact)


def _hints(fields: Iterable[pa.Field], above: Path = ()) -> Iterator[tuple[Path, tuple[Kind, str]]]:
    """Yields the SQL types that columns ask for: a decimal keeps its scale, with room for larger numbers."""
    for field in fields:
        path = (*above, field.name)
        if pa.types.is_struct(field.type):
            yield from _hints((field.type.field(index) for index in range(field.type.num_fields)), path)
        elif pa.types.is_decimal(field.type) and 0 < field.type.scale <= field.type.precision <= DECIMAL.precision:
            yield path, (Kind.OTHER, f"numeric({DECIMAL.precision},{field.type.scale})")


def _column(path: Path, values: pa.Array | pa.ChunkedArray, notes: Counter[str]) -> Iterator[tuple[Path, tuple[Part, ...]]]:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        values = values.chunk(0) if isinstance(values, pa.ChunkedArray) and values.num_chunks == 1 else values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_struct(values.type):
        for index in range(values.type.num_fields):
            # a member of a null struct is null, which `field` would not say
            yield from _column((*path, values.type.field(index).name), pc.struct_field(values, index), notes)
        return
    rows = np.flatnonzero(pc.is_valid(values).to_numpy(zero_copy_only=False)).astype(np.int32)
    if not len(rows):
        return
    if values.null_count:
        values = values.drop_null()
    kind, run = _run(values, notes)
    if kind is Kind.DOUBLE:
        finite = np.isfinite(run.to_numpy())
        if not finite.all():
            notes[NOT_FINITE] += int(len(rows) - finite.sum())
            rows, run = rows[finite], run.filter(pa.array(finite))
            if not len(rows):
                return
    yield path, (Part(kind, rows, run),)


def _run(values: pa.Array, notes: Counter[str]) -> tuple[Kind, pa.Array]:
    """Returns values without nulls in the Arrow type of their kind."""
    type_, types = values.type, pa.types
    if types.is_boolean(type_):
        return Kind.BOOLEAN, values
    if types.is_integer(type_):
        if types.is_uint64(type_) and pc.max(values).as_py() > _LARGEST:
            return Kind.DECIMAL, values.cast(DECIMAL)
        return Kind.BIGINT, values.cast(pa.int64())
    if types.is_floating(type_):
        return Kind.DOUBLE, values.cast(pa.float64())
    if isinstance(type_, pa.JsonType):
        texts = values.storage.cast(pa.string())
        if not pc.any(pc.match_substring(texts, "\\u0000")).as_py():
            return Kind.JSON, texts
        held: list[object] = [[msgspec.json.decode(text)] for text in texts.to_pylist()]  # of any kind: in an array for a moment
        ((_, _, run),) = runs_of(list, np.arange(len(held), dtype=np.int32), held, notes)
        return Kind.JSON, pc.utf8_slice_codeunits(run, 1, -1)
    if types.is_decimal(type_):
        if type_.scale <= 0 and type_.precision - type_.scale <= DECIMAL.precision:
            return Kind.DECIMAL, values.cast(DECIMAL)
        return Kind.NUMBER, pa.array([_plain(value) for value in values.to_pylist()], pa.string())
    if types.is_timestamp(type_):
        micros = values.cast(pa.timestamp("us", type_.tz), safe=False)
        return Kind.TIMESTAMP, micros.cast(TIMESTAMP) if type_.tz else micros.cast(pa.int64()).cast(TIMESTAMP)
    if types.is_date(type_):
        return Kind.DATE, values.cast(pa.date32())
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return Kind.TEXT, _clean(values.cast(pa.string()), notes)
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_) or types.is_map(type_):
        found = [_jsonable(value, type_) for value in values.to_pylist()]
        ((_, _, run),) = runs_of(list, np.arange(len(found), dtype=np.int32), found, notes)
        return Kind.JSON, run
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        return Kind.TEXT, pa.array([base64.b64encode(value).decode() for value in values.to_pylist()], pa.string())
    return Kind.TEXT, _clean(pa.array(list(map(str, values.to_pylist())), pa.string()), notes)


def _plain(value: object) -> str:
    """Returns a decimal without an exponent, and without zeros at the end of its fraction."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _clean(texts: pa.StringArray, notes: Counter[str]) -> pa.StringArray:
    found = pc.match_substring(texts, "\0")
    if pc.any(found).as_py():
        notes[NUL_REPLACED] += pc.sum(pc.count_substring(texts, "\0")).as_py()
        return pc.replace_substring(texts, "\0", "\ufffd")
    return texts


def _jsonable(value: object, type_: pa.DataType) -> object:
    """Returns a value as JSON has it: a map as an object, moments as text."""
    pairs = dict(value) if pa.types.is_map(type_) and isinstance(value, list) else value
    return msgspec.json.decode(_encode(pairs))
