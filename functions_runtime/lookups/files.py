"""Reads the table of a lookup from a file: of this machine, of a bucket, or of an address of HTTP.

A file that changes while it is read is not a table; write it aside and rename it into its place.
"""

from __future__ import annotations

import asyncio
import csv
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec
from yarl import URL

from functions_runtime.rules.joining import Builder, Table
from shared.driving.egress import Guard, Refused
from shared.errors import PenstockError, SetupError, Transient
from shared.project.lookups import Lookup
from shared.threads import ThreadGate

if TYPE_CHECKING:
    import aiohttp

PIECE_BYTES = 1 << 18
SILENCE_SECONDS = 60.0
PART_ROWS = 10_000
LONGEST_FIELD = 1 << 20
LONGEST_LINE = 1 << 22
"""Characters of a line of CSV: each comma of it is a text in memory."""
MOST_REDIRECTS = 5

_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?", re.ASCII)
_TRUTH = {"true": True, "false": False}
_READERS: dict[str, Callable[[str], Any]] = {"boolean": _TRUTH.__getitem__, "integer": int, "number": float, "text": str}


async def read_file(lookup: Lookup, what: str, known: str) -> tuple[Table | None, str]:
    """Returns the table of a lookup's file, and the version that was read; no table where the version is the known one.

    Args:
        what: the lookup, for messages.
        known: version of an earlier call; empty: none.

    Raises:
        SetupError: it is not there, cannot be read, or is larger than its bounds.
        Transient: it may be there later.
    """
    parts = urlsplit(lookup.file or "")
    if parts.scheme not in ("s3", "http", "https"):
        path = Path(lookup.file or "")
        version = await asyncio.to_thread(_version_of, path, lookup, what)
        if version == known:
            return None, version
        table = await asyncio.to_thread(_parsed, path, lookup, what)
        if await asyncio.to_thread(_version_of, path, lookup, what) != version:
            raise Transient(f"{what}: {path} changed while it was read; write it aside and rename it into its place")
        return table, version
    with TemporaryDirectory(prefix="penstock-lookup-") as folder:
        path = Path(folder) / "file"
        fetch = _of_bucket if parts.scheme == "s3" else _of_address
        version = await fetch(lookup, what, path, known)
        if version and version == known:
            return None, version
        return await asyncio.to_thread(_parsed, path, lookup, what), version


def _version_of(path: Path, lookup: Lookup, what: str) -> str:
    try:
        stat = path.stat()
    except OSError as exc:
        raise SetupError(
            f"{what}: {path} cannot be read on the machine of functions_runtime: {exc.strerror}; check `file`"
        ) from exc
    _check_size(stat.st_size, lookup, what)
    return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"


def _check_size(size: int, lookup: Lookup, what: str) -> None:
    if size > lookup.max_bytes:
        raise SetupError(f"{what}: the file has more than {int(lookup.max_bytes)} bytes; raise `max_bytes`, or make it smaller")


async def _of_bucket(lookup: Lookup, what: str, path: Path, known: str) -> str:
    from shared.stores.s3 import open_store

    key = unquote(urlsplit(lookup.file or "").path.lstrip("/"))
    store = await open_store(lookup.bucket, "", ThreadGate(1, "lookup"), what)
    try:
        found = next((each for each in await store.list(key) if each.key == key), None)
        if found is None:
            raise SetupError(f"{what}: the bucket {lookup.bucket.bucket} has no object {key}; check `file`")
        _check_size(found.size, lookup, what)
        version = f"{found.modified}-{found.size}"
        if version == known:
            return version
        data = await store.get(key)
        if data is None:
            raise Transient(f"{what}: the object {key} went away while it was read")
        await asyncio.to_thread(path.write_bytes, data)
        return version
    finally:
        await store.close()


async def _of_address(lookup: Lookup, what: str, path: Path, known: str) -> str:
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
    tag = {"If-None-Match": known} if known else {}
    try:
        written = URL(lookup.file or "")
        guard = Guard(trusted={(written.raw_host or "", written.port or 0)}, remedy="write the final address into `file`")
        connector = aiohttp.TCPConnector(resolver=guard, use_dns_cache=False)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limits, auto_decompress=False) as session,
            _followed(session, guard=guard, url=written, headers=lookup.headers, tag=tag, what=what) as answer,
        ):
            if answer.status == 304 and known:
                return known
            if answer.status >= 400:
                kind = Transient if answer.status in (408, 429) or answer.status >= 500 else SetupError
                raise kind(f"{what}: the server answers {answer.status} {answer.reason}; check `file` and `headers`")
            size = 0
            with open(path, "wb") as file:  # noqa: ASYNC230  # pieces, and the disk is this machine's
                async for piece in answer.content.iter_chunked(PIECE_BYTES):
                    size += len(piece)
                    _check_size(size, lookup, what)
                    file.write(piece)
            return answer.headers.get("ETag", "")
    except Refused as exc:
        raise SetupError(f"{what}: {exc.strerror}") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        if isinstance(exc, aiohttp.ClientConnectorError) and isinstance(exc.os_error, Refused):
            raise SetupError(f"{what}: {exc.os_error.strerror}") from None
        # an address may hold a token behind its `?`
        raise Transient(f"{what}: the server does not answer, or not to the end: {type(exc).__name__}; check `file`") from None


@asynccontextmanager
async def _followed(
    session: aiohttp.ClientSession, *, guard: Guard, url: URL, headers: Mapping[str, str], tag: Mapping[str, str], what: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Asks for a file; redirects lead to addresses of the internet only, and the headers go to the host of `file` alone."""
    place = url.origin()
    for _ in range(MOST_REDIRECTS + 1):
        guard.check_host(url.raw_host or "", url.port or 0)
        sent = {**headers, **tag} if url.origin() == place else tag
        async with session.get(url, headers=sent, allow_redirects=False) as answer:
            if answer.status not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
                yield answer
                return
            try:
                url = url.join(URL(answer.headers["Location"]))
            except ValueError:
                url = URL()
            if url.scheme not in ("http", "https") or not url.raw_host:
                raise SetupError(f"{what}: the server redirects to no http(s) address; check `file`")
    raise SetupError(f"{what}: more than {MOST_REDIRECTS} redirects; write the final address into `file`")


def _parsed(path: Path, lookup: Lookup, what: str) -> Table:
    """Returns the table in a file; blocks."""
    try:
        match lookup.form:
            case "csv" | "tsv":
                return _of_text(path, lookup, what)
            case "ndjson":
                return _of_lines(path, lookup, what)
            case _:
                return _of_parquet(path, lookup, what)
    except PenstockError:
        raise
    except (OSError, EOFError, zlib.error) as exc:
        raise SetupError(f"{what}: the file cannot be read: {exc}") from exc
    except (UnicodeDecodeError, csv.Error, ValueError) as exc:
        raise SetupError(f"{what}: the file is no {lookup.form}: {exc}") from exc


def _opened(path: Path, lookup: Lookup) -> IO[bytes]:
    import gzip

    return gzip.open(path) if urlsplit(lookup.file or "").path.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _rows_of(path: Path, lookup: Lookup, what: str) -> Iterator[list[str]]:
    import io

    csv.field_size_limit(LONGEST_FIELD)
    with _opened(path, lookup) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
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


def _of_text(path: Path, lookup: Lookup, what: str) -> Table:
    """Reads twice: a column is of numbers only if all of its values are."""
    kinds: list[str] = []
    names: list[str] = []
    count = 0
    for row in _rows_of(path, lookup, what):
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
    rows = _rows_of(path, lookup, what)
    next(rows)
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


def _of_lines(path: Path, lookup: Lookup, what: str) -> Table:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    builder: Builder | None = None
    names: Sequence[str] = ()
    with _opened(path, lookup) as file:
        for number, line in enumerate(_lines(file, what), 1):
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


def _of_parquet(path: Path, lookup: Lookup, what: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = list(dict.fromkeys((lookup.key, *lookup.columns))) if lookup.columns else names
            builder = Builder(lookup, what, [name for name in names if name in wanted])
            if file.metadata.num_rows > 2 * lookup.max_rows:
                raise SetupError(f"{what}: the file has {file.metadata.num_rows} rows, more than `max_rows`")
            for batch in file.iter_batches(batch_size=PART_ROWS, columns=wanted, use_threads=False):
                ordered = batch.select([name for name in names if name in wanted])
                for row in zip(*(column.to_pylist() for column in ordered.columns), strict=True):
                    builder.add(row)
    except pa.ArrowException as exc:
        raise SetupError(f"{what}: the file is no Parquet: {exc}") from exc
    return builder.made()
