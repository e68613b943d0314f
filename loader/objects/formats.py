"""Writes rows as Parquet, NDJSON or CSV, each with its compression. Blocks; writes slice by slice, so that memory stays flat.

NDJSON omits nulls; times are RFC 3339 with microseconds. CSV writes a null as nothing and an empty text as `""`, and names the
columns in its first line. The bytes of equal rows are equal: a repeat of a load writes the same object.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "ndjson", "csv"]
Compression = Literal["zstd", "gzip", "none"]

SLICE_ROWS = 5000
ROW_GROUP_ROWS = 128 * 1024
_SUFFIX = {"zstd": ".zst", "gzip": ".gz", "none": ""}


def default_compression(format_: Format) -> Compression:
    """Returns the compression that a format's usual readers open without being told."""
    return "zstd" if format_ == "parquet" else "gzip"


def extension(format_: Format, compression: Compression) -> str:
    """Returns the end of an object's name, such as `parquet` or `ndjson.gz`."""
    return format_ if format_ == "parquet" else format_ + _SUFFIX[compression]


def write(rows: pa.Table, output: IO[bytes], format_: Format, compression: Compression) -> None:
    """Writes an Arrow table as one object."""
    if format_ == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(rows, output, compression=compression, row_group_size=ROW_GROUP_ROWS)
        return
    with compressed(output, compression) as stream:
        if format_ == "ndjson":
            for lines in _json_lines(rows):
                stream.write(lines)
        else:
            from pyarrow import csv

            csv.write_csv(_times_as_text(rows), stream, csv.WriteOptions(batch_size=SLICE_ROWS))


def count_rows(data: IO[bytes], format_: Format, compression: Compression) -> int:
    """Returns the rows of an object, by reading it."""
    if format_ == "parquet":
        import pyarrow.parquet as pq

        rows: int = pq.read_metadata(data).num_rows
        return rows
    import pyarrow as pa

    with pa.input_stream(data, compression=None if compression == "none" else compression) as stream:
        lines: int = stream.read().count(b"\n")
    return lines - (format_ == "csv")


def _json_lines(rows: pa.Table) -> Iterator[bytes]:
    import msgspec

    encoder = msgspec.json.Encoder(decimal_format="number")
    for batch in _times_as_text(rows).to_batches(max_chunksize=SLICE_ROWS):
        names = batch.schema.names
        columns = [column.to_pylist() for column in batch.columns]
        yield encoder.encode_lines(
            [
                {name: value for name, value in zip(names, row, strict=True) if value is not None}
                for row in zip(*columns, strict=True)
            ]
        )


def _times_as_text(rows: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    for position, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            text = pc.strftime(rows.column(position), format="%Y-%m-%dT%H:%M:%SZ")  # %S has the digits of the column's unit
            rows = rows.set_column(position, field.name, text)
    return rows


@contextmanager
def compressed(output: IO[bytes], compression: Compression) -> Iterator[IO[bytes]]:
    """Yields a stream whose bytes arrive compressed in `output`, which stays open."""
    if compression == "none":
        yield output
    elif compression == "gzip":
        # no name and no time in the header: equal rows, equal bytes
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=output, mtime=0) as stream:
            yield cast("IO[bytes]", stream)
    else:
        import zstandard

        with zstandard.ZstdCompressor(level=3).stream_writer(output, closefd=False) as writer:
            yield cast("IO[bytes]", writer)
