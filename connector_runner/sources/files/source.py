"""Files as a `Source`: lists them, and gives the rows of new and changed ones."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import msgspec

from connector_runner.contract import (
    Checked,
    Checkpoint,
    Ended,
    Environment,
    JsonRows,
    Message,
    Row,
    Rows,
    Said,
    Selected,
    Stream,
    StreamName,
)
from connector_runner.sources.files.delimited import Unread
from connector_runner.sources.files.formats import Part, parts_of, types_of, with_more
from connector_runner.sources.files.places import Addresses, Broken, Bucket, Folder, Found, Refusal
from shared.errors import PenstockError, SetupError
from shared.reading.decode import json_schema
from shared.reading.mask import Mask
from shared.threads import ThreadGate

if TYPE_CHECKING:
    import pyarrow as pa

    from connector_runner.sources.files import OPTIONS, FileStream

LOOKED_AT_BYTES = 64 << 20
"""A file beyond this is not brought from afar only to tell its columns."""
_HASH_CHARACTERS = 16


class State(msgspec.Struct):
    """Files that were read, by the hash of name and version; the one in the middle of which the state stands; and rows of broken ones."""

    done: list[str] = []
    file: str = ""
    rows: int = 0
    held: dict[str, int] = {}


class FilesSource:
    """A connector; see the contract of `Source`."""

    def __init__(self, name: str, options: OPTIONS, environment: Environment) -> None:
        self._name = name
        self._options = options
        self._environment = environment
        self._gate = ThreadGate(2, "files")
        self._mask = Mask([options.headers, *([options.s3.secret_access_key, options.s3.session_token] if options.s3 else [])])
        self._place: Folder | Bucket | None = None
        self._addresses = Addresses(options.headers)

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of its options."""
        return json_schema(type(self._options))

    async def check(self) -> Checked:
        """Lists the files of all streams."""
        try:
            for each in self._options.streams.values():
                await self._list(each)
        except SetupError as exc:
            return Checked(False, self._mask.text(str(exc)))
        return Checked(True)

    async def discover(self) -> Sequence[Stream]:
        """Returns the streams; their columns are those of the newest file."""
        found = []
        for name, each in self._options.streams.items():
            try:
                listed = await self._list(each)
            except Refusal as exc:  # the other streams have columns
                self._environment.heard(Said("error", f"stream {name}: {exc}"))
                listed = []
            files = [file for file in listed if file.size <= LOOKED_AT_BYTES or self._options.path]
            properties = await self._columns(each, files[-1]) if files else {}
            # keys of JSON are those of the first rows only; later ones may have others
            others: dict[str, Any] = {} if all(properties.values()) else {"patternProperties": {"": {}}}
            found.append(
                Stream(
                    name=name,
                    json_schema={"type": "object", "properties": properties, **others},
                    modes=("full_refresh", "incremental"),
                    source_cursor=True,
                    primary_key=tuple((key,) for key in each.primary_key),
                    added=("_file", "_row", "_modified_at"),
                )
            )
        return found

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields the rows of files that are new or changed, the oldest first; a file that is broken does not keep others back."""
        broken: list[str] = []
        refused: PenstockError | None = None
        for each in selected:
            name = each.stream.known_as
            stream = self._options.streams.get(name.name)
            if stream is None:
                raise SetupError(f"connectors.{self._name}.streams: {name} is not there any more")
            before = len(broken)
            kept = states.get(name) if each.mode == "incremental" else None
            state = msgspec.json.decode(kept, type=State) if kept else State()
            try:
                files = await self._list(stream)
            except PenstockError as exc:
                if not any(map(_is_far, stream.patterns)):
                    raise
                refused = refused or exc
                yield Said("error", f"stream {name}: {exc}")
                yield Ended(name, False)
                continue
            there = {_hash(file): file for file in files}
            done = {hashed for hashed in state.done if hashed in there}
            held = {hashed: count for hashed, count in state.held.items() if hashed in there}
            weight = rows = 0
            for hashed, file in there.items():
                if hashed in done:
                    continue
                end = held.get(hashed, state.rows if state.file == hashed else 0)
                unread, first = 0, ""
                try:
                    async with contextlib.aclosing(self._parts(stream, file, end, _wanted(each))) as parts:
                        async for part in parts:
                            for message in self._messages(name, file, part, _wanted(each)):
                                yield message
                            end = part.end
                            if part.unread:
                                first, unread = first or _words(file, part.unread[0]), unread + len(part.unread)
                            rows += len(part.rows) + len(part.unread)
                            weight += sum(len(line) for _, line in part.rows) if isinstance(part.rows, list) else part.rows.nbytes
                            if each.mode == "incremental" and weight >= len(done) * _HASH_CHARACTERS:  # else states outweigh rows
                                yield Checkpoint(name, _state(done, held, hashed, end), rows)
                                weight = rows = 0
                except Broken as exc:
                    broken.append(str(exc))
                    held[hashed] = end
                    yield Said("error", str(exc))
                    continue
                if unread:
                    yield Said("warn", f"{unread} rows of {file.name} cannot be read and become dead letters; the first: {first}")
                held.pop(hashed, None)
                done.add(hashed)
            if each.mode == "incremental":
                yield Checkpoint(name, _state(done, held), rows)
            yield Ended(name, len(broken) == before)
        if broken:
            more = f" (and {len(broken) - 1} files more)" if len(broken) > 1 else ""
            raise SetupError(f"connectors.{self._name}: {broken[0]}{more}; mend the file, the others were read")
        if refused is not None:
            raise refused

    async def close(self) -> None:
        """Closes the links and ends the threads."""
        if self._place is not None:
            await self._place.close()
        self._gate.close()

    async def _list(self, stream: FileStream) -> list[Found]:
        """Returns the files of a stream, the oldest first."""
        far = list(filter(_is_far, stream.patterns))
        near = [each for each in stream.patterns if each not in far]
        try:
            found = await (await self._opened()).list(near, self._gate) if near else []
            found += await self._addresses.list(far, self._gate) if far else []
        except PenstockError as exc:
            self._mask.error(exc)
            raise
        return sorted(found, key=lambda file: (file.modified, file.name))

    async def _opened(self) -> Folder | Bucket:
        if self._place is None:
            options = self._options
            if options.s3 is not None:
                from shared.stores import s3

                what = f'connector "{self._name}"'
                self._place = Bucket(await s3.open_store(options.s3, "", self._gate, what), f"{what}: {options.s3.where}")
            else:
                self._place = Folder(Path(options.path or ""))
        return self._place

    async def _parts(self, stream: FileStream, file: Found, skip: int, columns: set[str] | None) -> AsyncGenerator[Part, None]:
        """Yields the rows of one file, read on a thread."""
        async with self._brought(file) as path:
            parts = parts_of(stream, file.name, path=path, skip=skip, columns=columns)
            try:
                while (part := await self._gate.run(_next, parts)) is not None:
                    yield part
            finally:
                parts.close()  # type: ignore[attr-defined]  # it is a generator

    @contextlib.asynccontextmanager
    async def _brought(self, file: Found) -> AsyncGenerator[Path, None]:
        """Has a file on this machine while the context is open; errors come without secrets."""
        folder = Path(mkdtemp(prefix="file-", dir=self._environment.private))
        try:
            far = _is_far(file.name)
            place: Any = self._addresses if far else await self._opened()
            yield await place.bring(file, folder)
        except PenstockError as exc:
            self._mask.error(exc)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _columns(self, stream: FileStream, file: Found) -> dict[str, Any]:
        with contextlib.suppress(Broken):
            async with self._brought(file) as path:
                found = await self._gate.run(types_of, stream, file.name, path)
            if isinstance(found, list):
                return {key: {} for line in found for key in msgspec.json.decode(line, type=dict[str, msgspec.Raw])}
            return {each.name: _described(each.type) for each in found.schema}
        return {}

    def _messages(self, stream: StreamName, file: Found, part: Part, columns: set[str] | None) -> Iterator[Message]:
        add = self._options.add
        more: dict[str, Any] = {}
        if "file" in add:
            more["_file"] = file.name
        if "modified_at" in add:
            more["_modified_at"] = file.modified
        for each in part.unread:
            yield Row(stream, msgspec.json.encode(_words(file, each)))
        if isinstance(part.rows, list):
            numbered = "row" in add
            lines = [with_more(line, {**more, "_row": number} if numbered else more, columns) for number, line in part.rows]
            if lines:
                yield JsonRows(stream, lines)
            return
        if not part.rows.num_rows:
            return
        import pyarrow as pa

        table = part.rows
        for key, value in more.items():
            table = table.append_column(key, pa.array([value] * table.num_rows))
        if "row" in add:
            table = table.append_column("_row", pa.array(part.numbers, pa.int64()))
        yield Rows(stream, table)


def _is_far(pattern: str) -> bool:
    return pattern.startswith(("http://", "https://"))


def _next(parts: Iterator[Part]) -> Part | None:
    return next(parts, None)


def _wanted(selected: Selected) -> set[str] | None:
    if selected.columns is None:
        return None
    return {path[0] for path in (*selected.columns, *selected.primary_key, selected.cursor) if path}


def _hash(file: Found) -> str:
    return hashlib.sha256(f"{file.name}\0{file.version}".encode()).hexdigest()[:_HASH_CHARACTERS]


def _state(done: set[str], held: dict[str, int], file: str = "", rows: int = 0) -> bytes:
    return msgspec.json.encode(State(done=sorted(done), file=file, rows=rows, held=held))


def _words(file: Found, unread: Unread) -> str:
    return f"{file.name} row {unread.number} {unread.why}: {unread.text}"


def _described(type_: pa.DataType) -> dict[str, Any]:
    import pyarrow as pa

    types = pa.types
    if types.is_integer(type_):
        return {"type": "integer"}
    if types.is_floating(type_) or types.is_decimal(type_):
        return {"type": "number"}
    if types.is_boolean(type_):
        return {"type": "boolean"}
    if types.is_timestamp(type_):
        return {"type": "string", "format": "date-time"}
    if types.is_date(type_):
        return {"type": "string", "format": "date"}
    if types.is_struct(type_) or types.is_map(type_):
        return {"type": "object"}
    return {"type": "array"} if types.is_list(type_) or types.is_large_list(type_) else {"type": "string"}
