"""Finds the rows of a person in an object, and writes the object again without them. Blocks; reads slice by slice, so that memory stays flat.

The rows of others keep their bytes in NDJSON and CSV, and their columns, types and row groups in Parquet.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

import msgspec

from loader.contract.forgets import ID_COLUMNS, person_columns
from loader.objects.formats import Compression, Format, compressed, extension

if TYPE_CHECKING:
    import pyarrow as pa

_FORMATS: tuple[Format, ...] = ("parquet", "ndjson", "csv")
_COMPRESSIONS: tuple[Compression, ...] = ("zstd", "gzip", "none")
LONGEST_LINE = 64 * 2**20
"""Bytes. A longer line is no row of ours."""


def kind_of(key: str) -> tuple[Format, Compression] | None:
    """Returns format and compression of an object by the end of its name; None: a loader never wrote it.

    >>> kind_of("tracks/a-b-1-2-0.ndjson.gz")
    ('ndjson', 'gzip')
    """
    return next(
        ((format_, each) for format_ in _FORMATS for each in _COMPRESSIONS if key.endswith("." + extension(format_, each))), None
    )


class Search:
    """What to look for in the objects of a table.

    Args:
        table: its name, as the object's key has it.
        names: ids, compared byte by byte with the text of a value.
        more: columns that hold such ids beside those of the layouts.
    """

    def __init__(self, table: str, names: Sequence[str], more: Sequence[str] = ()) -> None:
        self._table = table
        self._names = frozenset(names)
        self._more = more

    def columns(self, there: Sequence[str]) -> tuple[str, ...]:
        """Returns the columns of an object to look into."""
        return person_columns(self._table, there, self._more)

    @property
    def candidates(self) -> tuple[str, ...]:
        """All columns that may be looked into, where an object does not name its columns."""
        return self.columns((*ID_COLUMNS, "id", *self._more))

    def has(self, value: object) -> bool:
        """Whether a value is one of the ids; a number is its text."""
        if isinstance(value, str):
            return value in self._names
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value) in self._names
        return False

    def mask(self, rows: pa.RecordBatch | pa.Table) -> Any:
        """Returns which rows are of the person, as an Arrow array of booleans; None: no column holds ids."""
        import pyarrow as pa
        import pyarrow.compute as pc

        mask = None
        for column in self.columns(rows.schema.names):
            values = rows.column(column)
            if pa.types.is_nested(values.type):
                continue
            if not pa.types.is_string(values.type):
                values = (
                    pc.cast(values, pa.string(), safe=False) if not pa.types.is_binary(values.type) else values.cast(pa.string())
                )
            found = pc.is_in(values, value_set=pa.array(sorted(self._names), pa.string()))
            mask = found if mask is None else pc.or_(mask, found)
        return mask


def count(data: IO[bytes], kind: tuple[Format, Compression], search: Search) -> tuple[int, int]:
    """Returns how many rows of an object are of the person, and how many it has.

    Raises:
        OSError, ValueError: it cannot be read as what its name says.
    """
    format_, compression = kind
    if format_ == "parquet":
        return _count_parquet(data, search)
    found = rows = 0
    with _plain(data, compression) as stream:
        for _, gone in _lines(stream, format_, search):
            rows += gone is not None
            found += bool(gone)
    return found, rows


def without(data: IO[bytes], output: IO[bytes], kind: tuple[Format, Compression], search: Search) -> None:
    """Writes an object again without the rows of the person. Raises as `count`."""
    format_, compression = kind
    if format_ == "parquet":
        _without_parquet(data, output, search)
        return
    with _plain(data, compression) as stream, compressed(output, compression) as written:
        for line, gone in _lines(stream, format_, search):
            if not gone:
                written.write(line)


def _count_parquet(data: IO[bytes], search: Search) -> tuple[int, int]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(data)
    columns = search.columns(file.schema_arrow.names)
    found = 0
    if columns:
        for batch in file.iter_batches(columns=list(columns)):
            mask = search.mask(batch)
            found += 0 if mask is None else pc.sum(mask).as_py() or 0
    return found, file.metadata.num_rows


def _without_parquet(data: IO[bytes], output: IO[bytes], search: Search) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(data)
    codec = file.metadata.row_group(0).column(0).compression.lower() if file.metadata.num_row_groups else "zstd"
    with pq.ParquetWriter(output, file.schema_arrow, compression="none" if codec == "uncompressed" else codec) as writer:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number)
            mask = search.mask(rows)
            if mask is not None:
                rows = rows.filter(pc.invert(pc.fill_null(mask, False)))
            if rows.num_rows:
                writer.write_table(rows)


def _lines(stream: IO[bytes], format_: Format, search: Search) -> Iterator[tuple[bytes, bool | None]]:
    """Yields the lines of an object, each with whether it is a row of the person; None: it is no row."""
    yield from _json_rows(stream, search) if format_ == "ndjson" else _csv_rows(stream, search)


def _json_rows(stream: IO[bytes], search: Search) -> Iterator[tuple[bytes, bool | None]]:
    columns = search.candidates
    fields = [(f"field_{number}", Any, None) for number, _ in enumerate(columns)]
    renamed = {f"field_{number}": column for number, column in enumerate(columns)}
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(msgspec.defstruct("Row", fields, rename=renamed)).decode
    for line in _split(stream):
        if not line.strip():
            yield line, None
            continue
        row = decode(line)
        yield line, any(search.has(getattr(row, field)) for field in renamed)


def _csv_rows(stream: IO[bytes], search: Search) -> Iterator[tuple[bytes, bool | None]]:
    csv.field_size_limit(LONGEST_LINE)  # of the process: Python's own is 128 KiB, and an event may have longer values
    positions: list[int] | None = None
    for record in _records(stream):
        text = record.decode("utf-8", "surrogateescape")
        row = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
        if positions is None:
            searched = set(search.columns(row))
            positions = [number for number, column in enumerate(row) if column in searched]
            yield record, None
            continue
        yield record, any(number < len(row) and search.has(row[number]) for number in positions)


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields the records of a CSV file: a quoted text may have line breaks."""
    parts: list[bytes] = []
    quotes = size = 0
    for line in _split(stream):
        parts.append(line)
        quotes += line.count(b'"')
        size += len(line)
        if size > LONGEST_LINE:
            raise ValueError("a quote is never closed")
        if quotes % 2 == 0:
            yield b"".join(parts)
            parts, quotes, size = [], 0, 0
    if parts:
        raise ValueError("its last record is not whole")


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            raise ValueError(f"a line is longer than {LONGEST_LINE} bytes")
        yield line


@contextmanager
def _plain(data: IO[bytes], compression: Compression) -> Iterator[IO[bytes]]:
    if compression == "none":
        yield data
    elif compression == "gzip":
        with gzip.GzipFile(fileobj=data, mode="rb") as stream:
            yield cast("IO[bytes]", stream)
    else:
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True, closefd=False) as reader:
            yield io.BufferedReader(cast("Any", reader))
