"""The program that runs the user's file: `python -I child.py request.json`. It answers with frames (`frames.py`) on standard output.

What the user's code prints goes to standard error, and so into the log. Standard library only: the interpreter may be the user's own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import linecache
import os
import struct
import sys
import time
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

FLUSH_ROWS = 500
FLUSH_BYTES = 256 * 1024
FLUSH_SECONDS = 0.5
TABLE_BYTES = 8 << 20
TABLE_ROWS = 10_000
OF_CODE = (AttributeError, ImportError, NameError, SyntaxError, TypeError)
"""Errors that do not pass by themselves: a person mends the code."""


def load(name: str) -> Any:
    """Returns a module that lies beside this file."""
    spec = importlib.util.spec_from_file_location(f"penstock.{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None  # noqa: S101  # the file lies beside us
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


declare, rows = load("declare"), load("rows")


class Broken(Exception):  # what becomes of a stream
    """A stream failed; its failure was told."""


class Pipe:
    """Writes frames; rows are held back until there are some, or a moment has passed."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lines: list[bytes] = []
        self._bytes = 0
        self._flushed = time.monotonic()

    def add(self, name: str, line: bytes) -> bool:
        """Adds a row of a stream; returns whether rows went out."""
        if not self._lines:
            self._lines.append(json.dumps(name).encode())
        self._lines.append(line)
        self._bytes += len(line)
        full = len(self._lines) > FLUSH_ROWS or self._bytes > FLUSH_BYTES
        if full or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
            return True
        return False

    def flush(self) -> None:
        """Writes the rows that are held."""
        if self._lines:
            lines, self._lines, self._bytes = self._lines, [], 0
            if sum(map(len, lines)) > 2 * FLUSH_BYTES and len(lines) > 2:  # a large row goes alone
                self.put("R", b"\n".join(lines[:-1]))
                lines = [lines[0], lines[-1]]
            self.put("R", b"\n".join(lines))
        self._flushed = time.monotonic()

    def table(self, name: str, table: Any) -> None:
        """Writes an Arrow table, in parts of a good size."""
        import pyarrow as pa

        self.flush()
        named = name.encode()
        most = max(1, min(TABLE_ROWS, int(table.num_rows * TABLE_BYTES / max(table.nbytes, 1))))
        for start in range(0, table.num_rows, most):
            sink = pa.BufferOutputStream()
            part = table.slice(start, most)
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_table(part)
            self.put("A", struct.pack(">H", len(named)) + named + sink.getvalue().to_pybytes())

    def say(self, kind: str, **content: Any) -> None:
        """Writes a frame of JSON, behind the rows that are held.

        Raises:
            TypeError, ValueError: a value has no form in JSON, as NaN and half a character.
        """
        self.flush()
        self.put(kind, json.dumps(content, allow_nan=False, ensure_ascii=False).encode())

    def put(self, kind: str, content: bytes) -> None:
        """Writes one frame."""
        self._out.write(kind.encode() + struct.pack(">I", len(content)) + content)
        self._out.flush()


class Code:
    """The user's file, run once."""

    def __init__(self, file: str, text: str, config: dict[str, Any]) -> None:
        self.file = file
        self.config = config
        self.module = types.ModuleType("connector")
        self.module.__file__ = file
        sys.modules["connector"] = self.module
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec", dont_inherit=True), self.module.__dict__)  # noqa: S102  # it is what the program is for
        found = [each for each in vars(self.module).values() if isinstance(each, declare.Stream)]
        self.streams = {each.name: each for each in found}
        if not self.streams:
            raise declare.Refused(f"{file} declares no stream; put @source.stream before a function that yields rows")
        if twice := [each.name for each in found if self.streams[each.name] is not each]:
            raise declare.Refused(f"{file} declares two streams {twice[0]!r}; give one of them another `name`")

    def failure(self, error: BaseException, line: int = 0) -> dict[str, Any]:
        """Returns what is told of an error: its words, the place in the user's file, whether a person must act."""
        frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == self.file]
        if isinstance(error, SyntaxError) and error.filename == self.file:
            line = error.lineno or 0
        elif frames and not line:
            line = frames[-1].lineno or 0
        own = isinstance(error, declare.Refused)
        words = str(error) if own else f"{type(error).__name__}: {error}"
        return {
            "words": words.encode("utf-8", "replace").decode(),
            "place": f"{self.file}, line {line}" if line else self.file,
            "person": own or isinstance(error, OF_CODE),
        }


def read(code: Code, asked: dict[str, Any], pipe: Pipe) -> None:
    """Writes the rows of one stream; raises `Broken` when the user's code fails."""
    name, incremental = asked["name"], asked["mode"] == "incremental"
    stream = code.streams.get(name)
    if stream is None:
        words = f"it has no stream {name!r} any more; it has: {', '.join(code.streams)}"
        pipe.say("F", stream=name, words=words, place=code.file, person=True)
        raise Broken
    progress = rows.Progress(stream, asked["state"] if incremental else {}, asked["columns"], incremental)
    given = {"config": code.config, "since": progress.since, "state": progress.state, "columns": progress.names}
    produced, line, sent = None, 0, 0
    try:
        produced = stream.function(**{each: given[each] for each in stream.takes})
        for item in items(produced):
            if isinstance(item, declare.Checkpoint):
                if "state" not in stream.takes:
                    line = at(produced)
                    raise TypeError(f"stream {name} yields a Checkpoint and has no parameter `state` to get it back")
                if incremental:
                    pipe.say("C", stream=name, state=item.state, rows=sent)
                    sent = 0
                continue
            for each in item if isinstance(item, (list, tuple)) else (item,):
                if isinstance(each, dict):
                    try:
                        row = progress.row(each)
                    except (TypeError, ValueError):
                        line = at(produced)
                        raise
                    if row is None:
                        continue
                    flushed, sent = pipe.add(name, row), sent + 1
                elif hasattr(each, "__arrow_c_stream__") or hasattr(each, "__arrow_c_array__"):
                    table = progress.table(each)
                    pipe.table(name, table)
                    flushed, sent = table.num_rows > 0, sent + table.num_rows
                else:
                    line = at(produced)
                    kind = type(each).__name__
                    raise TypeError(
                        f"stream {name} yields a value of type {kind}; yield a dict, a list of dicts or an Arrow table"
                    )
                if flushed and stream.ordered and incremental:
                    pipe.say("C", stream=name, state=progress.kept(), rows=sent)
                    sent = 0
        if incremental and progress.begun:
            pipe.say("C", stream=name, state=progress.kept(), rows=sent)
    except Exception as error:  # whatever the user's code raises is told
        pipe.say("F", stream=name, **code.failure(error, line))
        traceback.print_exc()
        raise Broken from error
    pipe.say("D", stream=name)


def items(produced: Any) -> Iterator[Any]:
    """Yields what a stream gives: a generator, an async one, a coroutine, or a value that it returns."""
    if inspect.isasyncgen(produced) or inspect.iscoroutine(produced):
        loop = asyncio.new_event_loop()
        try:
            if inspect.iscoroutine(produced):
                yield from items(loop.run_until_complete(produced))
                return
            while True:
                try:
                    item = loop.run_until_complete(produced.__anext__())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    elif produced is None:
        return
    elif isinstance(produced, (dict, declare.Checkpoint)) or hasattr(produced, "__arrow_c_stream__"):
        yield produced
    else:
        yield from produced


def at(produced: Any) -> int:
    """Returns the line at which a generator yielded last; 0 if it is none."""
    frame = getattr(produced, "gi_frame", None) or getattr(produced, "ag_frame", None)
    return frame.f_lineno if frame is not None else 0


def answer(request: dict[str, Any], pipe: Pipe) -> None:
    """Answers one request."""
    code = Code.__new__(Code)
    code.file = request["file"]
    try:
        code.__init__(request["file"], request["code"], request["config"])  # type: ignore[misc]  # its `failure` serves also when it fails
        if request["call"] == "check":
            for each in vars(code.module).values():
                if getattr(each, "_penstock_check", False) is True:
                    result = each(*([code.config] if inspect.signature(each).parameters else []))
                    if inspect.iscoroutine(result):
                        asyncio.new_event_loop().run_until_complete(result)
    except Exception as error:  # noqa: BLE001  # whatever the user's code raises is told
        pipe.say("F", stream=None, **code.failure(error))
        traceback.print_exc()
        return
    if request["call"] == "read":
        for asked in request["streams"]:
            try:
                read(code, asked, pipe)
            except Broken:
                continue
    pipe.say("S", spec=getattr(code.module, "SPEC", None), streams=[rows.described(each) for each in code.streams.values()])


def main() -> None:
    """Reads the request, keeps the pipe for frames, and answers."""
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what the user's code prints
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a text file
    package = types.ModuleType("penstock")
    package.source = declare  # type: ignore[attr-defined]
    sys.modules.update({"penstock": package, "penstock.source": declare})
    with open(out.fileno(), "wb", closefd=False) as buffered:
        answer(request, Pipe(buffered))


if __name__ == "__main__":
    main()
