"""Files of rows: CSV, TSV, NDJSON, JSON, Parquet and Arrow, read in batches that are always cut the same way.

A batch is `BATCH_ROWS` rows, or fewer where it would hold more than `BATCH_BYTES` of text. The same file gives the same batches, so that a
load can go on between two of them. CSV is read twice: once for the types, which hold for the whole file, and once for the rows.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import msgspec

from shared.errors import Permanent, SetupError
from shared.events import exact
from shared.reading.written import Guess, Written, as_type

if TYPE_CHECKING:
    import pyarrow as pa

    from loader.rows.given import Rows

Format = Literal["csv", "tsv", "ndjson", "json", "parquet", "arrow"]
ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
COMPRESSED = ".gz"
BATCH_ROWS = 50_000
BATCH_BYTES = 32 << 20
BLOCK_BYTES = 4 << 20
MOST_JSON_BYTES = 256 << 20
LONGEST_LINE_BYTES = 32 << 20


class RowFile(NamedTuple):
    """A file of rows. `compressed`: with gzip."""

    path: Path
    format: Format
    compressed: bool = False
    header: bool = True

    def open(self) -> BinaryIO:
        """Opens its content.

        Raises:
            SetupError: it cannot be read.
        """
        try:
            return gzip.open(self.path, "rb") if self.compressed else open(self.path, "rb")  # type: ignore[return-value]
        except OSError as exc:
            raise SetupError(f"{self.path} cannot be read: {exc.strerror}") from exc


def format_of(path: Path) -> tuple[Format, bool] | None:
    """Returns the format that a file's name tells, and whether it is compressed; None if it tells none."""
    compressed = path.suffix.lower() == COMPRESSED
    found = ENDINGS.get((path.with_suffix("") if compressed else path).suffix.lower())
    return None if found is None else (found, compressed)


def fingerprint(file: RowFile) -> str:
    """Returns a token for a file's content.

    Raises:
        SetupError: it cannot be read.
    """
    digest = hashlib.sha256(f"{file.format} {file.header}".encode())
    try:
        with open(file.path, "rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        raise SetupError(f"{file.path} cannot be read: {exc.strerror}") from exc
    return digest.hexdigest()[:32]


def batches(file: RowFile) -> Iterator[tuple[Rows, bool]]:
    """Yields the rows of a file in batches, each with whether it is the last.

    Raises:
        SetupError: the file cannot be read.
        Permanent: it is not what its format says; names the line where it can.
    """
    before: Rows | None = None
    try:
        for rows in _READERS[file.format](file):
            if before is not None:
                yield before, False
            before = rows
    except (OSError, EOFError) as exc:
        raise Permanent(f"{file.path} cannot be read to its end: {exc}") from exc
    if before is not None:
        yield before, True


def _ndjson(file: RowFile) -> Iterator[Rows]:
    lines: list[bytes] = []
    held, begin = 0, 1
    number = 0
    with file.open() as content:
        while line := content.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            if len(line) > LONGEST_LINE_BYTES:
                raise Permanent(f"{file.path} line {number} is longer than {LONGEST_LINE_BYTES >> 20} MiB")
            lines.append(line.strip())
            held += len(line)
            if len(lines) >= BATCH_ROWS or held >= BATCH_BYTES:
                yield from _objects(file, lines, begin)
                lines, held, begin = [], 0, number + 1
    yield from _objects(file, lines, begin)


def _objects(file: RowFile, lines: list[bytes], begin: int) -> Iterator[list[dict[str, Any]]]:
    wanting = exact.suspects(b"".join(lines), [len(line) for line in lines])
    plain = msgspec.json.Decoder(dict[str, Any]).decode
    found: list[dict[str, Any]] = []
    for index, line in enumerate(lines):
        if not line:
            continue
        try:
            found.append(exact.decode(line) if index in wanting else plain(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise Permanent(f"{file.path} line {begin + index} is no JSON object: {exc}") from exc
    if found:
        yield found


def _json(file: RowFile) -> Iterator[Rows]:
    with file.open() as content:
        text = content.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise Permanent(
            f"{file.path} is one JSON value of more than {MOST_JSON_BYTES >> 20} MiB; write one object a line (ndjson)"
        )
    if not text.lstrip().startswith(b"["):
        yield from _ndjson(file)
        return
    try:
        found = msgspec.json.Decoder(list[dict[str, Any]], float_hook=exact.number).decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Permanent(f"{file.path} is no list of JSON objects: {exc}") from exc
    for start in range(0, len(found), BATCH_ROWS):
        yield found[start : start + BATCH_ROWS]


def _csv(file: RowFile) -> Iterator[Rows]:
    import pyarrow as pa

    kinds: dict[str, Written] = {}
    guesses: dict[str, Guess] = {}
    for table in _texts(file):
        for name, values in zip(table.column_names, table.columns, strict=True):
            guesses.setdefault(name, Guess()).look(values)
    kinds = {name: guess.kind for name, guess in guesses.items()}
    for table in _again(_texts(file)):
        typed = [as_type(values, kinds[name]) for name, values in zip(table.column_names, table.columns, strict=True)]
        yield pa.table(typed, names=table.column_names)


def _texts(file: RowFile) -> Iterator[pa.Table]:
    """Yields the blocks of a CSV file, each value as text; what stands between two commas is null, and `""` an empty text."""
    import pyarrow as pa
    from pyarrow import csv

    delimiter = "\t" if file.format == "tsv" else ","
    with file.open() as content:
        names = _names(file, content, delimiter)
        content.seek(0)
        try:
            reader = csv.open_csv(
                content,
                read_options=csv.ReadOptions(block_size=BLOCK_BYTES, column_names=names, skip_rows=int(file.header)),
                parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as exc:
            raise Permanent(f"{file.path} is no CSV: {exc}") from exc
        except pa.ArrowException as exc:
            raise Permanent(f"{file.path} cannot be read: {exc}") from exc


def _names(file: RowFile, content: BinaryIO, delimiter: str) -> list[str]:
    """Returns the names of the columns, or `column_1` and so on where there is no header."""
    import csv

    try:
        row = next(
            csv.reader(
                io.TextIOWrapper(io.BytesIO(content.read(BLOCK_BYTES)), "utf-8-sig", "strict", newline=""), delimiter=delimiter
            ),
            None,
        )
    except (UnicodeDecodeError, csv.Error) as exc:
        raise Permanent(f"{file.path} begins with no row of CSV in UTF-8: {exc}") from exc
    if row is None:
        raise Permanent(f"{file.path} is empty: there is no row to take the columns from")
    if not file.header:
        return [f"column_{number}" for number in range(1, len(row) + 1)]
    twice = sorted({name for name in row if row.count(name) > 1})
    if twice:
        raise Permanent(f"{file.path} has columns of one name: {', '.join(twice)}; rename them")
    return [name or f"column_{number}" for number, name in enumerate(row, 1)]


def _parquet(file: RowFile) -> Iterator[Rows]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file.path) as content:
            for batch in content.iter_batches(batch_size=BATCH_ROWS):
                yield pa.Table.from_batches([batch])
    except pa.ArrowException as exc:
        raise Permanent(f"{file.path} is no Parquet file: {exc}") from exc


def _arrow(file: RowFile) -> Iterator[Rows]:
    import pyarrow as pa
    from pyarrow import ipc

    try:
        with file.open() as content:
            streams = content.read(6) != b"ARROW1"
            content.seek(0)
            if streams:
                tables = (pa.Table.from_batches([batch]) for batch in ipc.open_stream(content))
            else:
                reader = ipc.open_file(content)
                tables = (pa.Table.from_batches([reader.get_batch(index)]) for index in range(reader.num_record_batches))
            yield from _again(tables)
    except pa.ArrowException as exc:
        raise Permanent(f"{file.path} is no Arrow file or stream: {exc}") from exc


def _again(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cuts tables again, into batches of `BATCH_ROWS`."""
    import pyarrow as pa

    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        while count >= BATCH_ROWS:
            joined = pa.concat_tables(held).combine_chunks()
            yield joined.slice(0, BATCH_ROWS)
            held, count = [joined.slice(BATCH_ROWS)], count - BATCH_ROWS
    if count:
        yield pa.concat_tables(held).combine_chunks()


_READERS = {"csv": _csv, "tsv": _csv, "ndjson": _ndjson, "json": _json, "parquet": _parquet, "arrow": _arrow}
