"""A program of others, run within limits.

It runs in a process group of its own, with an environment of a few harmless names, in a private folder. A task watches what the
group uses: memory, CPU, time, and silence. Beyond a limit, or when the caller leaves, the whole group ends: SIGTERM first, SIGKILL
soon after. SIGINT and a closed pipe are never used: connectors of the Airbyte kit hang on both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from connector_runner.contract import Listener, Said
from connector_runner.programs.lines import Lines
from shared import tether
from shared.errors import PenstockError, Permanent, SetupError, Transient
from shared.reading.mask import Mask
from shared.tasks import timeout

KEPT_ENVIRONMENT = (
    "PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""A program sees these names of ours, and no other: the rest holds secrets of ours."""
CHUNK_BYTES = 256 * 1024
LOOK_SECONDS = 0.25
TERM_SECONDS = 10.0
KEPT_LINES = 50
"""Lines of its error output that are kept for a message."""
HEARD_LINES = 200
"""Lines of its error output a second that are passed on; the others are counted."""
LINE_CHARACTERS = 2000


class Limits(NamedTuple):
    """Bounds of one run: seconds of time, of CPU of all its processes, of silence; bytes of memory, and of its longest line."""

    seconds: float = 24 * 3600.0
    cpu_seconds: float = 24 * 3600.0
    stall_seconds: float = 3600.0
    memory_bytes: int = 2 << 30
    line_bytes: int = 32 << 20


class Program:
    """A running program; made by `start`, ended by `close`."""

    def __init__(self, process: asyncio.subprocess.Process, limits: Limits, mask: Mask, heard: Listener) -> None:
        self._process = process
        self._limits = limits
        self._mask = mask
        self._heard = heard
        self._why: PenstockError | None = None
        self._spoke = time.monotonic()
        self._reads = False
        """Whether we wait for its output; while we do not, its silence is ours."""
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._tasks = [asyncio.ensure_future(self._listen()), asyncio.ensure_future(self._watch())]

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        limits: Limits,
        mask: Mask,
        heard: Listener,
    ) -> Program:
        """Starts a program.

        Args:
            command: the path of the program, and its arguments.
            folder: its working directory, and its home.
            environment: names beside `KEPT_ENVIRONMENT`.
            mask: hides secrets in its error output.
            heard: takes the lines of its error output.

        Raises:
            SetupError: it cannot be started.
        """
        if not os.access(command[0], os.X_OK):
            raise SetupError(f"{command[0]} is not there, or may not be run; remove its environment, and it is installed again")
        kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", tether.__file__, str(os.getpid()),  # when this process dies, it does
                *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=folder,
                env={**kept, "HOME": str(folder), "TMPDIR": str(folder), "TZ": "UTC", **environment},
                limit=CHUNK_BYTES * 2, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            raise SetupError(f"{command[0]} does not start in {folder}: {exc.strerror}") from exc
        return cls(process, limits, mask, heard)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yields the lines of its output until it ends.

        Raises:
            Transient: it took more than a limit allows, or was killed.
            Permanent: a line is too long.
        """
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        lines = Lines(self._limits.line_bytes)
        while chunk := await self._read(self._process.stdout):
            for line in lines.add(chunk):
                yield line
        if await self.ended() == 0 and (rest := lines.rest()):  # else it was cut off
            yield rest

    async def _read(self, output: asyncio.StreamReader) -> bytes:
        self._spoke, self._reads = time.monotonic(), True
        try:
            return await output.read(CHUNK_BYTES)
        finally:
            self._reads = False

    async def ended(self) -> int:
        """Waits for its end; returns its exit code, negative for a signal.

        Raises:
            Transient, Permanent: it was ended for a limit.
        """
        code = await self._process.wait()
        await asyncio.wait(self._tasks[:1], timeout=1.0)
        if self._why is not None:
            raise self._why
        return code

    @property
    def last_words(self) -> str:
        """The end of its error output, masked, on one line."""
        return " ".join(" ".join(self._last).split())[-LINE_CHARACTERS:]

    async def close(self) -> None:
        """Ends the program with all that it started: asks first, and kills soon after."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        group = self._group()
        self._signal(signal.SIGTERM)
        if self._process.returncode is None:
            assert self._process.stdout is not None  # noqa: S101  # it is a pipe
            with contextlib.suppress(TimeoutError):
                async with timeout(TERM_SECONDS):
                    while await self._process.stdout.read(CHUNK_BYTES):  # it may hang on a full pipe
                        pass
                    await self._process.wait()
        self._signal(signal.SIGKILL)
        for each in group:  # one that left the group
            with contextlib.suppress(psutil.Error):
                each.kill()
        await self._process.wait()
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()

    async def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101  # it is a pipe
        lines, left_out, second, passed = Lines(LINE_CHARACTERS * 64), 0, 0, 0
        while chunk := await self._process.stderr.read(CHUNK_BYTES):
            self._spoke = time.monotonic()
            try:
                found = lines.add(chunk)
            except Permanent:  # a line without an end
                found = [lines.rest()]
            now = int(time.monotonic())
            if now != second:
                if left_out:
                    self._heard(Said("warn", f"{left_out} lines of its error output left out"))
                second, passed, left_out = now, 0, 0
            for line in found:
                text = self._mask.text(line.decode("utf-8", "replace"))[:LINE_CHARACTERS]
                self._last.append(text)
                passed += 1
                if passed <= HEARD_LINES:
                    self._heard(Said("info", text))
                else:
                    left_out += 1
        if rest := lines.rest():
            self._last.append(self._mask.text(rest.decode("utf-8", "replace"))[:LINE_CHARACTERS])

    async def _watch(self) -> None:
        """Ends the group when it takes more than it may."""
        began, limits = time.monotonic(), self._limits
        while self._process.returncode is None:
            await asyncio.sleep(LOOK_SECONDS)
            now, memory, cpu = time.monotonic(), 0, 0.0
            for each in self._group():
                with contextlib.suppress(psutil.Error):
                    memory += each.memory_info().rss
                    times = each.cpu_times()
                    cpu += times.user + times.system
            why = None
            if memory > limits.memory_bytes:
                why = (
                    f"it held more than {limits.memory_bytes >> 20} MiB of memory; raise `memory`, or read fewer streams at once"
                )
            elif cpu > limits.cpu_seconds:
                why = f"it used more than {limits.cpu_seconds:g} s of CPU; raise `cpu_time`"
            elif now - began > limits.seconds:
                why = f"it ran for more than {limits.seconds:g} s; raise `max_time`"
            elif self._reads and now - self._spoke > limits.stall_seconds:
                why = f"it was silent for {limits.stall_seconds:g} s; raise `stall_timeout` if the system behind it is so slow"
            if why is not None and self._process.returncode is None:
                self._why = Transient(f"the connector was ended: {why}")
                self._signal(signal.SIGKILL)
                return

    def _group(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
