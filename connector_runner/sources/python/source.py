"""A Python file of the user as a `Source`: each call runs its program once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
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
    Rows,
    Said,
    Selected,
    Stream,
    StreamName,
)
from connector_runner.programs.program import Limits, Program
from connector_runner.sources.python.frames import Frame, Frames
from shared.errors import PenstockError, Permanent, SetupError, Transient
from shared.reading.mask import Mask

if TYPE_CHECKING:
    from connector_runner.sources.python import OPTIONS

CHECK_SECONDS = 300.0
CHILD = Path(__file__).with_name("child.py")
ROOM_BYTES = 16 << 20
"""A frame holds several rows, or a table of 8 MiB: it may be so much larger than one row."""


class _Failure(msgspec.Struct, frozen=True):
    words: str
    place: str
    person: bool
    stream: str | None = None


class _Kept(msgspec.Struct, frozen=True):
    stream: str
    state: msgspec.Raw
    rows: int


class _Done(msgspec.Struct, frozen=True):
    stream: str


class _Declared(msgspec.Struct, frozen=True):
    name: str
    primary_key: list[list[str]]
    cursor: list[str]
    incremental: bool
    columns: dict[str, Any]


THE_FILE = "the file"
"""In messages: the name of the file does not travel with its text."""


class _File(msgspec.Struct, frozen=True):
    streams: list[_Declared]
    spec: Any = None


class PythonSource:
    """A connector; see the contract of `Source`."""

    def __init__(self, name: str, options: OPTIONS, code: str, environment: Environment) -> None:
        self._name = name
        self._options = options
        self._code = code
        self._mask = Mask([options.config, options.environment])
        self._environment = environment

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of `config`: `SPEC` of the file."""
        spec = (await self._asked("spec")).spec
        return spec if isinstance(spec, dict) else {"type": "object", "properties": {}}

    async def check(self) -> Checked:
        """Runs the file, and the function in it that is marked as the check."""
        try:
            await self._asked("check")
        except SetupError as exc:
            return Checked(False, str(exc))
        return Checked(True)

    async def discover(self) -> Sequence[Stream]:
        """Returns the streams that the file declares."""
        return [_stream(each) for each in (await self._asked("discover")).streams]

    async def read(
        self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]
    ) -> AsyncGenerator[Message, None]:
        """Yields what the functions yield, stream after stream; one that fails does not keep the others back."""
        streams = [
            {
                "name": each.stream.name,
                "mode": each.mode,
                "columns": each.columns,
                "state": msgspec.Raw(states.get(each.stream.known_as, b"{}")),
            }
            for each in selected
        ]
        failures: list[_Failure] = []
        async with aclosing(self._run("read", self._options.limits(), streams=streams)) as frames:
            async for frame in frames:
                if frame.kind == "F":
                    failure = msgspec.json.decode(frame.content, type=_Failure)
                    failures.append(failure)
                    yield Said("error", str(self._error(failure)))
                    if failure.stream is not None:
                        yield Ended(StreamName(failure.stream), False)
                else:
                    for message in _messages(frame):
                        yield message
        if failures:
            raise self._error(next((each for each in failures if each.person), failures[0]))

    async def close(self) -> None:
        """Does nothing: each call ends its own program."""

    async def _asked(self, call: str) -> _File:
        limits = self._options.limits()
        limits = limits._replace(seconds=min(CHECK_SECONDS, limits.seconds))
        found: _File | None = None
        async with aclosing(self._run(call, limits)) as frames:
            async for frame in frames:
                if frame.kind == "F":
                    raise self._error(msgspec.json.decode(frame.content, type=_Failure))
                if frame.kind == "S":
                    found = msgspec.json.decode(frame.content, type=_File)
        if found is None:
            raise Transient(f"connectors.{self._name}: the program ended without an answer")
        return found

    async def _run(self, call: str, limits: Limits, **asked: Any) -> AsyncGenerator[Frame, None]:
        """Runs the program once and yields its frames.

        Raises:
            SetupError, Transient, Permanent
        """
        options = self._options
        folder = Path(mkdtemp(prefix="run-", dir=self._environment.private))  # for this user alone
        secret = Path(mkdtemp(prefix="run-", dir=self._environment.secret or self._environment.private))
        try:
            request = secret / "request.json"
            file = options.file or THE_FILE
            request.write_bytes(
                msgspec.json.encode({"call": call, "file": file, "code": self._code, "config": options.config, **asked})
            )
            program = await Program.start(
                [self._interpreter(), "-I", str(CHILD), str(request)],
                folder=folder,
                secret=secret,
                environment={"PYTHONFAULTHANDLER": "1", "LANG": "C.UTF-8", **options.environment},
                limits=limits,
                mask=self._mask,
                heard=self._environment.heard,
            )
            whole = False
            try:
                cut = Frames(limits.line_bytes + ROOM_BYTES)
                async with aclosing(program.chunks()) as chunks:
                    async for chunk in chunks:
                        for frame in cut.add(chunk):
                            whole = whole or frame.kind in "SF"
                            yield frame
                code = await program.ended()
            finally:
                await program.close()
            if code or not whole:
                raise Transient(
                    f"connectors.{self._name}: the program ended with code {code}: {program.last_words or 'it wrote no error'}"
                )
        except PenstockError as exc:
            raise type(exc)(self._mask.text(str(exc))) from exc
        finally:
            for each in (secret, folder):
                shutil.rmtree(each, ignore_errors=True)

    def _interpreter(self) -> str:
        chosen = self._options.python
        if chosen is None:
            return sys.executable
        if (found := shutil.which(chosen)) is None:
            raise SetupError(
                f"connectors.{self._name}.python: {chosen} is no program here; name the interpreter of an environment"
            )
        return found

    def _error(self, failure: _Failure) -> PenstockError:
        stream = f" (stream {failure.stream})" if failure.stream else ""
        words = self._mask.text(f"connectors.{self._name}: {failure.place}{stream}: {failure.words}")
        return SetupError(words) if failure.person else Transient(words)


def code_of(name: str, options: OPTIONS) -> str:
    """Returns the text of a connector's file.

    Raises:
        SetupError: it cannot be read.
    """
    if options.code is not None:
        return options.code
    try:
        return Path(options.file or "").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise SetupError(f"connectors.{name}.file: {options.file} cannot be read: {reason}") from exc


def _messages(frame: Frame) -> list[Message]:
    """Returns the messages of a frame of a read.

    Raises:
        Permanent: it holds a table whose columns share a name.
    """
    match frame.kind:
        case "R":
            named, *lines = bytes(frame.content).split(b"\n")
            stream = StreamName(msgspec.json.decode(named, type=str))
            return [JsonRows(stream, lines)]
        case "A":
            return [_table(frame.content)]
        case "C":
            kept = msgspec.json.decode(frame.content, type=_Kept)
            return [Checkpoint(StreamName(kept.stream), bytes(kept.state), kept.rows)]
        case "D":
            return [Ended(StreamName(msgspec.json.decode(frame.content, type=_Done).stream), True)]
        case _:
            return []


def _table(content: memoryview) -> Rows:
    import pyarrow as pa

    size = int.from_bytes(content[:2], "big")
    name = bytes(content[2 : 2 + size]).decode()
    table = pa.ipc.open_stream(pa.py_buffer(content[2 + size :])).read_all()
    if twice := {each for each in table.column_names if table.column_names.count(each) > 1}:
        raise Permanent(f"stream {name} has two columns {min(twice)!r}; give one of them another name")
    return Rows(StreamName(name), table)


def _stream(declared: _Declared) -> Stream:
    return Stream(
        name=declared.name,
        json_schema={"type": "object", "properties": declared.columns},
        modes=("full_refresh", "incremental") if declared.incremental else ("full_refresh",),
        source_cursor=declared.incremental,
        cursor=tuple(declared.cursor),
        primary_key=tuple(map(tuple, declared.primary_key)),
    )
