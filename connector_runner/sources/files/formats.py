"""The rows of one file, part by part: tables of CSV and Parquet, lines of NDJSON. Blocks; runs on a thread."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from connector_runner.sources.files.content import ToTheBreak
from connector_runner.sources.files.delimited import LONGEST_TEXT, Unread, first_types, pieces_of
from connector_runner.sources.files.places import PACKED, Broken, opened

if TYPE_CHECKING:
    import pyarrow as pa

    from connector_runner.sources.files import FileStream, Format

PART_ROWS = 10_000
PART_BYTES = 1 << 20
LONGEST_LINE_BYTES = 32 << 20
ENDINGS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Part(NamedTuple):
    """Rows of a file, as a table or as lines with their numbers.

    `before`, `end`: how many rows of the file stand before them, and up to their end. `unread`: rows among them that cannot be read. `numbers`: of the rows of
    a table.
    """

    before: int
    end: int
    rows: pa.Table | list[tuple[int, bytes]]
    numbers: Sequence[int] = ()
    unread: Sequence[Unread] = ()


def format_of(stream: FileStream, name: str) -> Format:
    """Returns the format of a file.

    Raises:
        Broken: its name does not say it.
    """
    if stream.format is not None:
        return stream.format
    path = PurePosixPath(urlsplit(name).path)
    ending = PurePosixPath(path.stem).suffix if path.suffix.lower() in PACKED else path.suffix
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
                for piece in pieces_of(stream, name, path, skip):
                    rows = piece.rows if columns is None else _chosen(piece.rows, columns)
                    yield Part(before=piece.before, end=piece.end, rows=rows, numbers=piece.numbers, unread=piece.unread)
            case "parquet":
                yield from _parquet(path, skip, columns)
            case "ndjson":
                yield from _ndjson(name, path, skip)
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as exc:
        raise Broken(f"{name} cannot be read: {exc}") from exc


def types_of(stream: FileStream, name: str, path: Path) -> pa.Table | list[bytes]:
    """Returns the first rows of a file, which tell its columns.

    Raises:
        Broken: it cannot be read.
    """
    import pyarrow as pa

    try:
        if format_of(stream, name) == "csv":
            found = first_types(stream, name, path)
            return [] if found is None else found
        first = next(parts_of(stream, name, path), None)
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as exc:
        raise Broken(f"{name} cannot be read: {exc}") from exc
    if first is None:
        return []
    return [line for _, line in first.rows[:100]] if isinstance(first.rows, list) else first.rows


def _chosen(table: pa.Table, columns: set[str]) -> pa.Table:
    return table.select([name for name in table.column_names if name in columns])


def _parquet(path: Path, skip: int, columns: set[str] | None) -> Iterator[Part]:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(path) as content:
        groups, before = list(range(content.num_row_groups)), 0
        while groups and before + content.metadata.row_group(groups[0]).num_rows <= skip:
            before += content.metadata.row_group(groups.pop(0)).num_rows
        chosen = None if columns is None else [each for each in content.schema_arrow.names if each in columns]
        batches = content.iter_batches(batch_size=PART_ROWS, row_groups=groups, columns=chosen)
        for batch in batches:
            start, end = max(skip, before), before + batch.num_rows
            if start < end:
                rows = pa.Table.from_batches([batch]).slice(start - before)
                yield Part(before=start, end=end, rows=rows, numbers=range(start + 1, end + 1))
            before = end


def _ndjson(name: str, path: Path, skip: int) -> Iterator[Part]:
    rows: list[tuple[int, bytes]] = []
    unread: list[Unread] = []
    held, number, count, before = 0, 0, 0, skip
    with opened(path, name) as packed:
        whole = ToTheBreak(packed)
        content = io.BufferedReader(whole, PART_BYTES)
        while line := content.readline(LONGEST_LINE_BYTES + 1):
            if whole.error is not None and not line.endswith(b"\n"):  # the file holds its beginning alone
                break
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
                rows.append((number, line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
                text = line[:LONGEST_TEXT].decode("utf-8", "replace")
                unread.append(Unread(number, f"is no JSON object ({exc})", text))
            held += len(line)
            if count - before >= PART_ROWS or held >= PART_BYTES:
                yield Part(before=before, end=count, rows=rows, unread=unread)
                before, rows, unread, held = count, [], [], 0
    if count > before:
        yield Part(before=before, end=count, rows=rows, unread=unread)
    if whole.error is not None:
        raise whole.error


def with_more(line: bytes, more: dict[str, Any], columns: set[str] | None) -> bytes:
    """Returns a JSON object with more keys, and only the wanted ones of its own."""
    if not more and columns is None:
        return line
    own = _object(line)
    return msgspec.json.encode({**{key: own[key] for key in own if columns is None or key in columns}, **more})
