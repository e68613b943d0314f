"""Makes the table of a lookup from an open file: CSV, TSV, NDJSON, Parquet."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any
from urllib.parse import urlsplit

import msgspec

from functions_runtime.rules.joining import Builder, Table
from shared.errors import PenstockError, SetupError
from shared.project.lookups import Lookup

PART_ROWS = 10_000
LONGEST_FIELD = 1 << 20
LONGEST_LINE = 1 << 22
"""Characters of a line of CSV: each comma of it is a text in memory."""

_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?", re.ASCII)
_TRUTH = {"true": True, "false": False}
_READERS: dict[str, Callable[[str], Any]] = {"boolean": _TRUTH.__getitem__, "integer": int, "number": float, "text": str}


def parsed(file: IO[bytes], lookup: Lookup, what: str) -> Table:
    """Returns the table in an open file, from its begin; blocks.

    Args:
        what: the lookup, for messages.

    Raises:
        SetupError: it is not what `format` says, lacks a column, or is larger than its bounds.
    """
    try:
        match lookup.form:
            case "csv" | "tsv":
                return _of_text(file, lookup, what)
            case "ndjson":
                return _of_lines(file, lookup, what)
            case _:
                return _of_parquet(file, lookup, what)
    except PenstockError:
        raise
    except (OSError, EOFError, zlib.error) as exc:
        raise SetupError(f"{what}: the file cannot be read: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise SetupError(f"{what}: the file is no {lookup.form}: it is not UTF-8") from exc
    except (csv.Error, ValueError) as exc:
        raise SetupError(f"{what}: the file is no {lookup.form}: {exc}") from exc


def _again(file: IO[bytes], lookup: Lookup) -> IO[bytes]:
    """Returns a file from its begin, unpacked; the file stays open."""
    import gzip

    begun = open(file.fileno(), "rb", closefd=False)  # noqa: SIM115  # nothing to close: the descriptor is the caller's
    begun.seek(0)
    return gzip.open(begun) if urlsplit(lookup.file or "").path.lower().endswith(".gz") else begun  # type: ignore[return-value]


def _rows_of(file: IO[bytes], lookup: Lookup, what: str) -> Iterator[list[str]]:
    import io

    csv.field_size_limit(LONGEST_FIELD)
    with _again(file, lookup) as begun, io.TextIOWrapper(begun, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(_bounded(text, what), delimiter="\t" if lookup.form == "tsv" else ",", strict=True)
        width = 0
        for row in lines:
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                raise SetupError(f"{what}: line {lines.line_num} has {len(row)} fields, and the first line has {width}")
            yield row


def _bounded(text: IO[str], what: str) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise SetupError(f"{what}: a line has more than {LONGEST_LINE} characters")
        yield line


def _of_text(file: IO[bytes], lookup: Lookup, what: str) -> Table:
    """Reads twice: a column is of numbers only if all of its values are."""
    kinds: list[str] = []
    names: list[str] = []
    count = 0
    for row in _rows_of(file, lookup, what):
        if not names:
            names, kinds = row, [""] * len(row)
            continue
        count += 1
        if count > 2 * lookup.max_rows:
            break  # the second reading says it
        for place, value in enumerate(row):
            if value and kinds[place] != "text":
                kinds[place] = _kind(value, kinds[place])
    if not names:
        raise SetupError(f"{what}: the file is empty; expected a first line with the names of columns")
    builder = Builder(lookup, what, names)
    key = names.index(lookup.key)
    kinds[key] = "text"  # 00123 is a key of its own
    readers = [_READERS[kind or "text"] for kind in kinds]
    rows = _rows_of(file, lookup, what)
    next(rows, None)
    for row in rows:
        builder.add([read(value) if value else None for read, value in zip(readers, row, strict=True)])
    return builder.made()


def _kind(value: str, before: str) -> str:
    """Returns the kind of a column that has a value, and had others; a number must come back as it is written."""
    if value in _TRUTH:
        return "boolean" if before in ("", "boolean") else "text"
    if _INTEGER.fullmatch(value) and before in ("", "integer"):
        return "integer"
    return "number" if _NUMBER.fullmatch(value) and before in ("", "integer", "number") else "text"


def _of_lines(file: IO[bytes], lookup: Lookup, what: str) -> Table:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    builder: Builder | None = None
    names: Sequence[str] = ()
    with _again(file, lookup) as begun:
        for number, line in enumerate(_lines(begun, what), 1):
            if not line.strip():
                continue
            try:
                row = decode(line)
            except msgspec.MsgspecError as exc:
                raise SetupError(f"{what}: line {number} is no JSON object: {exc}") from exc
            if builder is None:
                names = list(dict.fromkeys((lookup.key, *lookup.columns, *(() if lookup.columns else row))))
                builder = Builder(lookup, what, names)
            builder.add([row.get(name) for name in names])
    return (builder or Builder(lookup, what, [lookup.key, *lookup.columns])).made()


def _lines(file: IO[bytes], what: str) -> Iterator[bytes]:
    while line := file.readline(LONGEST_FIELD + 1):
        if len(line) > LONGEST_FIELD:
            raise SetupError(f"{what}: a line has more than {LONGEST_FIELD} bytes")
        yield line


def _of_parquet(file: IO[bytes], lookup: Lookup, what: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as read:
            names = read.schema_arrow.names
            wanted = list(dict.fromkeys((lookup.key, *lookup.columns))) if lookup.columns else names
            builder = Builder(lookup, what, [name for name in names if name in wanted])
            if read.metadata.num_rows > 2 * lookup.max_rows:
                raise SetupError(f"{what}: the file has {read.metadata.num_rows} rows, more than `max_rows`")
            for batch in read.iter_batches(batch_size=PART_ROWS, columns=wanted, use_threads=False):
                ordered = batch.select([name for name in names if name in wanted])
                for row in zip(*(column.to_pylist() for column in ordered.columns), strict=True):
                    builder.add(row)
    except pa.ArrowException as exc:
        raise SetupError(f"{what}: the file is no Parquet: {exc}") from exc
    return builder.made()
