"""Where files lie: a folder, a bucket, addresses of HTTP. Each lists its files and brings one onto the disk."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from shared.errors import Permanent, SetupError, Transient
from shared.tasks import timeout
from shared.threads import ThreadGate

PIECE_BYTES = 1 << 20
PACKED = {".gz": "gzip", ".zst": "zstd"}
"""Endings of packed files."""
SILENCE_SECONDS = 60.0


class Broken(Permanent):
    """A file cannot be read on; the other files can."""


class Found(NamedTuple):
    """A file: its name in its place, when it was changed, its bytes, and what tells this version from others."""

    name: str
    modified: datetime
    size: int
    version: str


class Folder:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def list(self, patterns: Iterable[str], gate: ThreadGate) -> list[Found]:
        """Returns the files that match; raises SetupError where the folder cannot be read."""
        return await gate.run(lambda: list(self._walk(matcher(patterns))))

    def _walk(self, matches: re.Pattern[str]) -> Iterator[Found]:
        if not self._root.is_dir():
            raise SetupError(f"there is no folder {self._root} on this machine; write the path of one into `path`")

        def fail(error: OSError) -> None:
            if isinstance(error, FileNotFoundError):  # it went meanwhile
                return
            raise SetupError(f"{error.filename} cannot be read: {error.strerror}; let this user read it") from error

        for folder, _, names in os.walk(self._root, onerror=fail):
            for each in names:
                path = Path(folder, each)
                name = path.relative_to(self._root).as_posix()
                if matches.fullmatch(name):
                    try:
                        stat = path.stat()
                    except FileNotFoundError:  # it went meanwhile
                        continue
                    yield Found(
                        name, datetime.fromtimestamp(stat.st_mtime, UTC), stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}"
                    )

    async def bring(self, found: Found, beside: Path) -> Path:  # noqa: ARG002  # it is here already
        """Returns the path of a file."""
        return self._root / found.name

    async def close(self) -> None:
        """Does nothing."""


class Bucket:
    """A bucket of S3."""

    def __init__(self, store: Any, where: str) -> None:
        self._store = store
        self._where = where

    async def list(self, patterns: Iterable[str], gate: ThreadGate) -> list[Found]:  # noqa: ARG002  # it waits for a server
        """Returns the objects that match; raises as the store does."""
        matches, found = matcher(patterns), dict[str, Found]()
        for prefix in sorted({re.split(r"[*?\[]", each, maxsplit=1)[0] for each in patterns}):
            for key, size, modified in await self._store.list(prefix):
                if matches.fullmatch(key):
                    found[key] = Found(key, datetime.fromtimestamp(modified, UTC), size, f"{modified}-{size}")
        return list(found.values())

    async def bring(self, found: Found, beside: Path) -> Path:
        """Copies an object into a folder, piece by piece."""
        answer = await self._store.call("get_object", f"reading {found.name}", Key=found.name)
        path = beside / "object"
        async with answer["Body"] as body:
            with open(path, "wb") as file:  # noqa: ASYNC230  # pieces, and the disk is this machine's
                while piece := await _patiently(body.content.read(PIECE_BYTES), f"{self._where}: reading {found.name}"):
                    file.write(piece)
        return path

    async def close(self) -> None:
        """Closes the links."""
        await self._store.close()


class Addresses:
    """Files at addresses of HTTP."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def list(self, patterns: Iterable[str], gate: ThreadGate) -> list[Found]:  # noqa: ARG002  # it waits for servers
        """Returns what each address has; raises SetupError where a server refuses, Transient where it does not answer."""
        found = []
        async with self._session() as session:
            for each in patterns:
                async with self._head(session, each) as answer:
                    changed = answer.headers.get("Last-Modified")
                    modified = parsedate_to_datetime(changed) if changed else datetime.fromtimestamp(0, UTC)
                    size = int(answer.headers.get("Content-Length", "0"))
                    version = answer.headers.get("ETag") or f"{changed}-{size}"
                    found.append(Found(each, modified, size, version))
        return found

    async def bring(self, found: Found, beside: Path) -> Path:
        """Copies a file into a folder, piece by piece."""
        path = beside / "answer"
        async with self._session() as session, self._asked(session, "GET", found.name) as answer:
            with open(path, "wb") as file:  # noqa: ASYNC230  # pieces, and the disk is this machine's
                async for piece in answer.content.iter_chunked(PIECE_BYTES):
                    file.write(piece)
        return path

    @asynccontextmanager
    async def _head(self, session: Any, address: str) -> AsyncGenerator[Any, None]:
        """Asks for the headers of an answer alone; of a server that refuses HEAD, as for a signed address, for all and leaves the rest."""
        try:
            async with self._asked(session, "HEAD", address) as answer:
                yield answer
        except Refusal:
            async with self._asked(session, "GET", address) as answer:
                yield answer

    def _session(self) -> Any:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        return aiohttp.ClientSession(headers=dict(self._headers), timeout=limits, auto_decompress=False)

    def _asked(self, session: Any, method: str, address: str) -> _Asked:
        return _Asked(session.request(method, address), shown(address))

    async def close(self) -> None:
        """Does nothing: each call has a session of its own."""


class Refusal(SetupError):
    """A server answers, and not with the file."""


def shown(address: str) -> str:
    """Returns an address without what may be secret: the user, and what follows `?`."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Asked:
    """One request; its errors are ours."""

    def __init__(self, request: Any, shown: str) -> None:
        self._request = request
        self._shown = shown

    async def __aenter__(self) -> Any:
        import aiohttp

        try:
            answer = await self._request.__aenter__()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise Transient(f"{self._shown}: the server does not answer: {exc or type(exc).__name__}") from exc
        if answer.status < 400:
            return answer
        await self._request.__aexit__(None, None, None)
        words = f"{self._shown}: the server answers {answer.status} {answer.reason}"
        if answer.status in (408, 429) or (answer.status >= 500 and answer.status != 501):
            raise Transient(words)
        raise Refusal(f"{words}; check `files` and `headers`")

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import aiohttp

        await self._request.__aexit__(kind, error, trace)
        if isinstance(error, (aiohttp.ClientError, TimeoutError)):
            raise Transient(f"{self._shown}: the answer was cut off: {error or type(error).__name__}") from error


async def _patiently(step: Any, doing: str) -> bytes:
    try:
        async with timeout(SILENCE_SECONDS):
            piece: bytes = await step
            return piece
    except Exception as exc:
        raise Transient(f"{doing}: it was cut off: {exc or type(exc).__name__}") from exc


def matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """Returns what finds the names that match one of some patterns: `*` and `?` stop at a slash, `**/` is any folders."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = ["".join(words.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", each)) for each in patterns]
    return re.compile("|".join(f"(?:{part})" for part in parts), re.DOTALL)


def opened(path: Path, name: str) -> IO[bytes]:
    """Opens a file, unpacked where its name ends with `.gz` or `.zst`."""
    import pyarrow as pa

    packed = PACKED.get(Path(urlsplit(name).path).suffix.lower())
    stream: IO[bytes] = pa.input_stream(str(path), compression=packed)
    return stream
