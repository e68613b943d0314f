"""CSV as rows: the names of its columns, their types, and the rows that can be read beside rows that cannot. Blocks; runs on a thread.

A file is read twice: once for the types of the columns that `columns` does not name, by the rule of `penstock load`
(`shared/reading/written.py`), and once for the rows. A row with too few or too many values, or with a value that is not of the type that `columns`
says, is *unread*: it is given as text with the reason, and the rows around it come.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from connector_runner.sources.files.casts import Odd, converted
from connector_runner.sources.files.content import NO_TEXT, Texts, ToTheBreak
from connector_runner.sources.files.places import Broken, opened
from shared.reading.written import Guess, Written

if TYPE_CHECKING:
    import pyarrow as pa

    from connector_runner.sources.files import FileStream

BLOCK_BYTES = 1 << 20
LONGEST_ROW_BYTES = 32 << 20
LONGEST_TEXT = 100_000
"""Characters of an unread row that are kept."""
_CHOICES = ",;\t|"
_UTF_8 = ("utf-8", "utf8")


class Unread(NamedTuple):
    """A row that cannot be read. `number`: of the row in the file, the header counted. `text`: as it stands there."""

    number: int
    why: str
    text: str


class Piece(NamedTuple):
    """Rows of a file in a row. `before`, `end`: rows of data before the piece, and up to its end. `numbers`: of the rows that can be read, from 1."""

    before: int
    end: int
    rows: pa.Table
    numbers: Sequence[int]
    unread: Sequence[Unread]


class Layout(NamedTuple):
    """How a file is written: its columns by their place, and what stands before the rows."""

    names: list[str]
    delimiter: str
    encoding: str
    lines_before: int


def layout_of(stream: FileStream, name: str, path: Path) -> Layout | None:
    """Returns how a file is written; None if it is empty.

    Raises:
        Broken: it begins with no row of CSV.
        pyarrow.ArrowException, OSError, EOFError: nothing of it can be read.
    """
    with opened(path, name) as content:
        whole = ToTheBreak(content)
        begin = whole.read(BLOCK_BYTES)
    encoding = stream.encoding
    if encoding.lower().replace("_", "-") in _UTF_8:
        encoding = "utf-16" if begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    text = begin.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    lines = io.StringIO(text, newline="")
    for _ in range(stream.skip_lines):
        lines.readline()
    place = lines.tell()
    delimiter = stream.delimiter or _delimiter(name, lines.readline(), stream.quote)
    lines.seek(place)
    try:
        row = next(csv.reader(lines, delimiter=delimiter, quotechar=stream.quote), None)
    except csv.Error as exc:
        raise Broken(f"{name} begins with no row of CSV: {exc}") from exc
    if row is None:
        if whole.error is not None:
            raise whole.error
        return None
    return Layout(_names(row, header=stream.header), delimiter, encoding, stream.skip_lines + int(stream.header))


def pieces_of(stream: FileStream, name: str, path: Path, skip: int) -> Iterator[Piece]:
    """Yields the rows of a file behind the first ones.

    Args:
        name: of the file, for messages and its ending.
        skip: rows that are left out.

    Raises:
        Broken: the file cannot be read on.
    """
    layout = layout_of(stream, name, path)
    if layout is None:
        return
    kinds = _kinds(stream, name, path, layout)
    for piece in _rows(stream, name, path, layout=layout, skip=skip):
        rows, odd = converted(piece.rows, kinds, stream.columns)
        yield _without(piece, odd, layout)._replace(rows=_kept(rows, odd)) if odd else piece._replace(rows=rows)


def first_types(stream: FileStream, name: str, path: Path) -> pa.Table | None:
    """Returns the first rows of a file with their types as these rows alone tell them; None if it has no rows."""
    layout = layout_of(stream, name, path)
    piece = None if layout is None else next(_rows(stream, name, path, layout=layout, skip=0), None)
    if piece is None:
        return None
    guesses = [Guess() for _ in piece.rows.columns]
    for guess, values in zip(guesses, piece.rows.columns, strict=True):
        guess.look(values)
    kinds = {each: guess.kind for each, guess in zip(piece.rows.column_names, guesses, strict=True)}
    return converted(piece.rows, kinds if stream.types == "infer" else {}, stream.columns)[0]


def _kinds(stream: FileStream, name: str, path: Path, layout: Layout) -> dict[str, Written]:
    """Returns the types of the columns that the stream does not name."""
    import pyarrow as pa

    guesses = {each: Guess() for each in layout.names if each not in stream.columns}
    if stream.types == "text" or not guesses:
        return {}
    with contextlib.suppress(pa.ArrowException, OSError, EOFError, UnicodeError, Broken):  # the rows before it come
        for piece in _rows(stream, name, path, layout=layout, skip=0):
            for column, guess in guesses.items():
                guess.look(piece.rows.column(column))
    pa.default_memory_pool().release_unused()
    return {column: guess.kind for column, guess in guesses.items()}


def _rows(stream: FileStream, name: str, path: Path, *, layout: Layout, skip: int) -> Iterator[Piece]:
    """Yields rows as texts. Where a row is longer than a block, it begins again there with larger ones."""
    end, block = skip, BLOCK_BYTES
    while True:
        try:
            for piece in _read(stream, name, path, layout=layout, skip=end, block=block):
                yield piece
                end = piece.end
            return
        except _TooLong:
            if block >= LONGEST_ROW_BYTES:
                words = f"is longer than {LONGEST_ROW_BYTES >> 20} MiB, or a quote in it is not closed; check `quote`"
                raise Broken(f"{name} row {end + layout.lines_before + 1} or one soon behind it {words}") from None
            block = LONGEST_ROW_BYTES


class _TooLong(Exception):
    """A row is longer than a block."""


def _read(stream: FileStream, name: str, path: Path, *, layout: Layout, skip: int, block: int) -> Iterator[Piece]:
    import pyarrow as pa
    from pyarrow import csv as arrow

    bad: list[Unread] = []

    def refuse(row: Any) -> str:
        open_ = "; a quote in it may not be closed" if "\n" in row.text else ""
        why = f"has {row.actual_columns} values and not {row.expected_columns}{open_}"
        bad.append(Unread(row.number, why, row.text[:LONGEST_TEXT].replace(NO_TEXT, "\ufffd")))
        return "skip"

    plain = layout.encoding == "utf-8"
    with opened(path, name) as packed:
        whole = ToTheBreak(packed)
        content = Texts(whole) if plain else None
        try:
            reader = arrow.open_csv(
                content or whole,
                read_options=arrow.ReadOptions(
                    block_size=block,
                    column_names=layout.names,
                    skip_rows=layout.lines_before,
                    encoding="utf8" if plain else layout.encoding,
                    use_threads=False,
                ),
                parse_options=arrow.ParseOptions(
                    delimiter=layout.delimiter,
                    quote_char=stream.quote,
                    escape_char=stream.escape or False,
                    newlines_in_values=True,
                    invalid_row_handler=refuse,
                ),
                convert_options=arrow.ConvertOptions(
                    column_types=dict.fromkeys(layout.names, pa.string()),
                    null_values=stream.nulls,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            last: Piece | None = None
            for piece in _pieces(reader, bad, layout=layout, skip=skip):
                if last is not None:
                    yield last
                last = piece
                if content is not None and content.mended and (odd := _no_texts(piece.rows)):
                    last = _without(piece, odd, layout)
            if last is not None and whole.error is not None:
                last = _without_end(last, layout)
            elif last is not None and content is not None and content.ends_open(stream.quote) and _ends_with_lines(last):
                last = _without(last, [Odd(last.rows.num_rows - 1, "has a quote that is not closed")], layout)
            if last is not None:
                yield last
        except pa.ArrowInvalid as exc:
            if "straddl" in str(exc):
                raise _TooLong from exc
            if "Empty CSV file" not in str(exc):  # a header and no row
                raise
        if whole.error is not None:
            raise whole.error


def _pieces(reader: Any, bad: list[Unread], *, layout: Layout, skip: int) -> Iterator[Piece]:
    """Yields what a reader gives, with the rows in their places that it left out."""
    import pyarrow as pa

    end = 0
    for batch in reader:
        before, end = end, _end(end + batch.num_rows, end, bad, layout)
        unread = [each for each in bad if each.number - layout.lines_before <= end]
        del bad[: len(unread)]
        if end <= skip:
            continue
        left = {each.number - layout.lines_before for each in unread}
        numbers: Sequence[int] = range(before + 1, end + 1)
        if left:
            numbers = [each for each in numbers if each not in left]
        first = bisect_left(numbers, skip + 1)
        yield Piece(
            before=max(before, skip),
            end=end,
            rows=pa.Table.from_batches([batch]).slice(first),
            numbers=numbers[first:],
            unread=[each for each in unread if each.number - layout.lines_before > skip],
        )
    rest = [each for each in bad if each.number - layout.lines_before > skip]
    if rest:
        nothing = pa.table([pa.array([], pa.string())] * len(layout.names), names=layout.names)
        yield Piece(before=max(end, skip), end=rest[-1].number - layout.lines_before, rows=nothing, numbers=(), unread=rest)


def _end(end: int, before: int, bad: Sequence[Unread], layout: Layout) -> int:
    """Returns where rows end of which `end - before` can be read: each row that cannot moves it on."""
    for each in bad:
        if before < each.number - layout.lines_before <= end:
            end += 1
    return end


def _no_texts(table: pa.Table) -> list[Odd]:
    """Returns the rows with bytes that are no text."""
    import pyarrow.compute as pc

    odd: list[Odd] = []
    for name, values in zip(table.column_names, table.columns, strict=True):
        places = pc.indices_nonzero(pc.fill_null(pc.match_substring(values, NO_TEXT), fill_value=False)).to_pylist()
        odd.extend(Odd(place, f"{name} has bytes that are no UTF-8; write `encoding`, such as latin-1") for place in places)
    return odd


def _ends_with_lines(piece: Piece) -> bool:
    """Whether the last value of a piece goes over several lines."""
    rows = piece.rows
    return bool(rows.num_rows and rows.num_columns) and "\n" in (rows.column(rows.num_columns - 1)[-1].as_py() or "")


def _without(piece: Piece, odd: Sequence[Odd], layout: Layout) -> Piece:
    """Returns a piece of texts in which some rows are unread ones."""
    why = {each.place: each.why for each in reversed(odd)}
    unread = [
        Unread(piece.numbers[place] + layout.lines_before, words, _written(piece.rows, place, layout.delimiter))
        for place, words in sorted(why.items())
    ]
    numbers = [each for place, each in enumerate(piece.numbers) if place not in why]
    return piece._replace(rows=_kept(piece.rows, odd), numbers=numbers, unread=sorted([*piece.unread, *unread]))


def _kept(rows: pa.Table, odd: Sequence[Odd]) -> pa.Table:
    import pyarrow as pa

    left = {each.place for each in odd}
    return rows.take(pa.array([place for place in range(rows.num_rows) if place not in left], pa.int64()))


def _without_end(piece: Piece, layout: Layout) -> Piece | None:
    """Returns a piece without its last row, of which the file holds the beginning alone; None if it has no other."""
    end = piece.end - 1
    if end <= piece.before:
        return None
    numbers = [each for each in piece.numbers if each <= end]
    unread = [each for each in piece.unread if each.number - layout.lines_before <= end]
    return piece._replace(end=end, rows=piece.rows.slice(0, len(numbers)), numbers=numbers, unread=unread)


def _written(rows: pa.Table, place: int, delimiter: str) -> str:
    values = (column[place].as_py() for column in rows.columns)
    return delimiter.join("" if each is None else str(each) for each in values)[:LONGEST_TEXT].replace(NO_TEXT, "\ufffd")


def _delimiter(name: str, line: str, quote: str) -> str:
    """Returns the character that stands most often in the first row outside of quotes; a comma if none does."""
    if ".tsv" in name:
        return "\t"
    outside = "".join(line.split(quote)[::2])
    return max(_CHOICES, key=lambda each: (outside.count(each), -_CHOICES.index(each)))


def _names(row: Sequence[str], *, header: bool) -> list[str]:
    """Returns the names of columns: those of the header, each once."""
    names: list[str] = []
    for number, word in enumerate(row, 1):
        name = word.strip() if header and word.strip() else f"column_{number}"
        count, base = 2, name
        while name in names or (name != base and name in row):
            name, count = f"{base}_{count}", count + 1
        names.append(name)
    return names
