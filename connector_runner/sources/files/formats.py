"""The rows of one file, part by part: tables of CSV and Parquet, lines of NDJSON. Blocks; runs on a thread."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from connector_runner.sources.files.places import opened
from shared.errors import Permanent

if TYPE_CHECKING:
    import pyarrow as pa

    from connector_runner.sources.files import FileStream, Format

PART_ROWS = 10_000
PART_BYTES = 1 << 20
LONGEST_LINE_BYTES = 32 << 20
PACKED = (".gz", ".zst")
ENDINGS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Part(NamedTuple):
    """Rows of a file, as a table or as lines with their numbers; `before`: how many rows of the file stand before them."""

    before: int
    rows: pa.Table | list[tuple[int, bytes]]

    @property
    def length(self) -> int:
        """How many rows."""
        return len(self.rows)


class Broken(Permanent):
    """A file cannot be read on; the other files can."""


def format_of(stream: FileStream, name: str) -> Format:
    """Returns the format of a file.

    Raises:
        Broken: its name does not say it.
    """
    if stream.format is not None:
        return stream.format
    path = PurePosixPath(urlsplit(name).path)
    ending = PurePosixPath(path.stem).suffix if path.suffix in PACKED else path.suffix
    if ending.lower() not in ENDINGS:
        raise Broken(f"{name}: its ending says no format; write `format` at the stream, or leave the file out of its pattern")
    return ENDINGS[ending.lower()]


def parts_of(stream: FileStream, name: str, path: Path, skip: int = 0, columns: set[str] | None = None) -> Iterator[Part]:
    """Yields the rows of a file behind the first ones.

    Args:
        name: of the file, for messages and its ending.
        skip: rows that are left out.
        columns: the columns that are wanted; None: all.

    Raises:
        Broken: the file is not what its stream says; names the line.
    """
    import pyarrow as pa

    try:
        match format_of(stream, name):
            case "csv":
                yield from _tables(_csv(stream, name, path), skip, columns)
            case "parquet":
                yield from _parquet(path, skip, columns)
            case "ndjson":
                yield from _ndjson(name, path, skip)
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as exc:
        raise Broken(f"{name} cannot be read: {exc}") from exc


def _tables(tables: Iterator[pa.Table], skip: int, columns: set[str] | None) -> Iterator[Part]:
    before = 0
    for each in tables:
        start = min(max(skip - before, 0), each.num_rows)
        if start < each.num_rows:
            chosen = each if columns is None else each.select([name for name in each.column_names if name in columns])
            for first in range(start, each.num_rows, PART_ROWS):
                yield Part(before + first, chosen.slice(first, PART_ROWS))
        before += each.num_rows


def _csv(stream: FileStream, name: str, path: Path) -> Iterator[pa.Table]:
    import pyarrow as pa
    from pyarrow import csv as arrow

    kinds: dict[str, pa.DataType] = {
        "text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "date": pa.date32(),
        "timestamp": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    delimiter = "\t" if stream.delimiter == "," and ".tsv" in name else stream.delimiter
    names = _names(stream, name, path, delimiter)
    if not names:
        return
    ragged: list[str] = []

    def refuse(row: Any) -> str:
        ragged.append(f"{name} row {row.number} has {row.actual_columns} values and not {row.expected_columns}: {row.text[:100]}")
        return "error"

    with opened(path, name) as content:
        try:
            reader = arrow.open_csv(
                content,
                read_options=arrow.ReadOptions(
                    block_size=PART_BYTES,
                    column_names=names,
                    skip_rows=int(stream.header),
                    encoding=stream.encoding,
                    use_threads=False,
                ),
                parse_options=arrow.ParseOptions(
                    delimiter=delimiter, quote_char=stream.quote, newlines_in_values=True, invalid_row_handler=refuse
                ),
                convert_options=arrow.ConvertOptions(
                    column_types={each: kinds[stream.columns.get(each, "text")] for each in names},
                    null_values=stream.nulls,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as exc:
            if "Empty CSV file" in str(exc):  # a header and no row
                return
            raise Broken(ragged[0] if ragged else f"{name} is not the CSV that its stream says: {exc}") from exc


def _names(stream: FileStream, name: str, path: Path, delimiter: str) -> list[str]:
    encoding = "utf-8-sig" if stream.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else stream.encoding
    with opened(path, name) as content:
        begin = content.read(PART_BYTES)
    text = io.TextIOWrapper(io.BytesIO(begin), encoding, "replace", newline="")
    row = next(csv.reader(text, delimiter=delimiter, quotechar=stream.quote), None)
    if row is None:
        return []
    if not stream.header:
        return [f"column_{number}" for number in range(1, len(row) + 1)]
    if twice := sorted({each for each in row if row.count(each) > 1}):
        raise Broken(f"{name} line 1: two columns are named {twice[0]!r}; rename one")
    return [each or f"column_{number}" for number, each in enumerate(row, 1)]


def _parquet(path: Path, skip: int, columns: set[str] | None) -> Iterator[Part]:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(path) as content:
        groups, before = list(range(content.num_row_groups)), 0
        while groups and before + content.metadata.row_group(groups[0]).num_rows <= skip:
            before += content.metadata.row_group(groups.pop(0)).num_rows
        chosen = None if columns is None else [each for each in content.schema_arrow.names if each in columns]
        batches = content.iter_batches(batch_size=PART_ROWS, row_groups=groups, columns=chosen)
        for part in _tables((pa.Table.from_batches([batch]) for batch in batches), skip - before, None):
            yield Part(before + part.before, part.rows)


def _ndjson(name: str, path: Path, skip: int) -> Iterator[Part]:
    rows: list[tuple[int, bytes]] = []
    held, number, count = 0, 0, 0
    with opened(path, name) as raw:
        content = io.BufferedReader(raw, PART_BYTES)  # type: ignore[type-var]  # Arrow's file reads as a raw one does
        while line := content.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            if len(line) > LONGEST_LINE_BYTES:
                raise Broken(f"{name} line {number} is longer than {LONGEST_LINE_BYTES >> 20} MiB")
            line = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not line:
                continue
            count += 1
            if count <= skip:
                continue
            try:
                _object(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
                if rows:
                    yield Part(count - 1 - len(rows), rows)
                raise Broken(f"{name} line {number} is no JSON object: {exc}") from exc
            rows.append((number, line))
            held += len(line)
            if len(rows) >= PART_ROWS or held >= PART_BYTES:
                yield Part(count - len(rows), rows)
                rows, held = [], 0
    if rows:
        yield Part(count - len(rows), rows)


def with_more(line: bytes, more: dict[str, Any], columns: set[str] | None) -> bytes:
    """Returns a JSON object with more keys, and of its own only those that are wanted."""
    if not more and columns is None:
        return line
    own = _object(line)
    return msgspec.json.encode({**{key: own[key] for key in own if columns is None or key in columns}, **more})
