"""Reads the table of a lookup from a file: of this machine, of a bucket, or of an address of HTTP.

A file that changes while it is read is not a table; write it aside and rename it into its place.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from stat import S_ISREG
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from yarl import URL

from functions_runtime.lookups.formats import parsed
from functions_runtime.rules.joining import Table
from shared.driving.egress import Guard, Refused
from shared.errors import SetupError, Transient
from shared.project.lookups import Lookup
from shared.secrets.reading import secret_folders
from shared.threads import ThreadGate

if TYPE_CHECKING:
    import aiohttp

PIECE_BYTES = 1 << 18
SILENCE_SECONDS = 60.0
MOST_REDIRECTS = 5
_OF_SYSTEM = (Path("/proc"), Path("/sys"), Path("/dev"))


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
        return await asyncio.to_thread(_of_machine, Path(lookup.file or ""), lookup, what, known)
    with TemporaryDirectory(prefix="penstock-lookup-") as folder:
        path = Path(folder) / "file"
        fetch = _of_bucket if parts.scheme == "s3" else _of_address
        version = await fetch(lookup, what, path, known)
        if version and version == known:
            return None, version
        return await asyncio.to_thread(_of_path, path, lookup, what), version


def _of_machine(path: Path, lookup: Lookup, what: str, known: str) -> tuple[Table | None, str]:
    """Reads a file of this machine; blocks.

    The opened file is compared, not its path: a file that is renamed into its place meanwhile is the next one to read.
    """
    _check_place(path, what)
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # the open of a pipe would wait for its writer
    except OSError as exc:
        raise SetupError(
            f"{what}: {path} cannot be read on the machine of functions_runtime: {exc.strerror}; check `file`"
        ) from exc
    if not S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise SetupError(f"{what}: {path} is no file; check `file`")
    with open(number, "rb") as file:
        version = version_of(number)
        if version == known:
            return None, version
        _check_size(os.fstat(number).st_size, lookup, what)
        try:
            table = parsed(file, lookup, what)
        except SetupError as exc:
            if version_of(number) != version:
                raise _changed(path, what) from exc
            raise
        if version_of(number) != version:
            raise _changed(path, what)
        return table, version


def _check_place(path: Path, what: str) -> None:
    """Raises SetupError for a path that leads, followed through links, to where no table lies: secrets, and files of the system."""
    place = path.resolve()
    folders = (*secret_folders(), *_OF_SYSTEM)
    if any(place.is_relative_to(folder) for folder in folders):
        raise SetupError(
            f"{what}: {path} is among secrets or files of the system; a lookup reads no file below {', '.join(map(str, folders))}"
        )


def version_of(number: int) -> str:
    """Returns a mark of an open file; another file, or a write to this one, gives another mark."""
    stat = os.fstat(number)
    return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"


def _changed(path: Path, what: str) -> Transient:
    return Transient(f"{what}: {path} changed while it was read; write it aside and rename it into its place")


def _of_path(path: Path, lookup: Lookup, what: str) -> Table:
    with path.open("rb") as file:
        return parsed(file, lookup, what)


def _check_size(size: int, lookup: Lookup, what: str) -> None:
    if size > lookup.max_bytes:
        raise SetupError(f"{what}: the file has more than {int(lookup.max_bytes)} bytes; raise `max_bytes`, or make it smaller")


async def _of_bucket(lookup: Lookup, what: str, path: Path, known: str) -> str:
    from shared.stores.s3 import open_store

    key = unquote(urlsplit(lookup.file or "").path.lstrip("/"))
    store = await open_store(lookup.bucket, "", ThreadGate(1, "lookup"), what)
    try:
        found = None
        async for portion in store.walk(key):  # buckets are sorted, so the key itself comes before all that begins with it
            found = next((each for each in portion if each.key == key), None)
            break
        if found is None:
            raise SetupError(f"{what}: the bucket {lookup.bucket.bucket} has no object {key}; check `file`")
        _check_size(found.size, lookup, what)
        version = f"{found.modified}-{found.size}"
        if version == known:
            return version
        data = await store.get(key)
        if data is None:
            raise Transient(f"{what}: the object {key} went away while it was read")
        _check_size(len(data), lookup, what)
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
