"""A program of others, run within limits.

It runs below a keeper (`keeper.py`), with an environment of a few harmless names, in a private folder. A task watches what it and
all its descendants use: memory, CPU, processes, disk, time, and silence. Beyond a limit, or when the caller leaves, all of them end:
SIGTERM first, SIGKILL soon after. SIGINT and a closed pipe are never used: connectors of the Airbyte kit hang on both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

from connector_runner.contract import Listener, Said
from connector_runner.programs import keeper
from connector_runner.programs.lines import Lines
from shared.errors import Permanent, SetupError, Transient
from shared.reading.mask import Mask
from shared.tasks import timeout, to_the_end

KEPT_ENVIRONMENT = (
    "PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""A program sees these names of ours, and no other: the rest holds secrets of ours."""
CHUNK_BYTES = 256 * 1024
LOOK_SECONDS = 0.25
LOOK_DISK_SECONDS = 2.0
TERM_SECONDS = 10.0
STACKS_SECONDS = 2.0
"""For a silent program to say where it is."""
KEPT_LINES = 50
"""Lines of its error output that are kept for a message."""
HEARD_LINES = 200
"""Lines of its error output a second that are passed on; the others are counted."""
LINE_CHARACTERS = 2000
_PLACE = re.compile(r'\s+File "([^"]+)", line (\d+)')
_FAULT = re.compile(r"[A-Za-z_][\w.]*(: |$)")

T = TypeVar("T")


class Limits(NamedTuple):
    """Bounds of one run.

    Seconds of time, of CPU of all its processes, of silence; bytes of memory, of files in its folder, and of its longest line;
    processes at one time.
    """

    seconds: float = 24 * 3600.0
    cpu_seconds: float = 24 * 3600.0
    stall_seconds: float = 3600.0
    memory_bytes: int = 2 << 30
    line_bytes: int = 32 << 20
    disk_bytes: int = 10 << 30
    processes: int = 512


class Program:
    """A running program; made by `start`, ended by `close`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, limits: Limits, mask: Mask, heard: Listener) -> None:
        self._process = process
        self._folder = folder
        self._limits = limits
        self._mask = mask
        self._heard = heard
        self._why = ""
        """The limit that it was ended for."""
        self._spoke = time.monotonic()
        self._waits = False
        """Whether we wait for it; while we do not, its silence is ours."""
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._listening = asyncio.ensure_future(self._listen())
        self._watching = asyncio.ensure_future(self._watch())

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
        secret: Path | None = None,
    ) -> Program:
        """Starts a program.

        Args:
            command: the path of the program, and its arguments.
            folder: its working directory, and its home.
            secret: another folder of the run; it goes with the working directory if we are killed.
            environment: names beside `KEPT_ENVIRONMENT`.
            mask: hides secrets in its error output.
            heard: takes the lines of its error output.

        Raises:
            SetupError: it cannot be started.
        """
        if not os.access(command[0], os.X_OK):
            raise SetupError(f"{command[0]} is not there, or may not be run; remove its environment, and it is installed again")
        kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        most = limits.memory_bytes * 2 + (1 << 30)  # mapped, not held: more than `_watch` allows
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(TERM_SECONDS), str(most), str(secret or folder),
                *command,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=folder,
                env={**kept, "HOME": str(folder), "TMPDIR": str(folder), "TZ": "UTC", **environment},
                limit=CHUNK_BYTES * 2, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            raise SetupError(f"{command[0]} does not start in {folder}: {exc.strerror}") from exc
        return cls(process=process, folder=folder, limits=limits, mask=mask, heard=heard)

    async def lines(self) -> AsyncGenerator[list[bytes], None]:
        """Yields the lines of its output until it ends; lines that came together are one list. `ended` says how it did.

        Raises:
            Permanent: a line is too long.
        """
        lines = Lines(self._limits.line_bytes)
        async with contextlib.aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                if found := lines.add(chunk):
                    yield found
        if await self._patiently(self._process.wait()) == 0 and (rest := lines.rest()):  # else it was cut off
            yield [rest]

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yields its output in pieces, as they come, until it ends. `ended` says how it did."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        while chunk := await self._patiently(self._process.stdout.read(CHUNK_BYTES)):
            yield chunk

    async def ended(self) -> int:
        """Waits for its end; returns its exit code, negative for a signal.

        Raises:
            Transient: it was ended for a limit.
        """
        code = await self._patiently(self._process.wait())
        await asyncio.wait([self._listening], timeout=1.0)
        if self._why:
            raise Transient(f"the connector was ended: {self._why}")
        return code

    async def _patiently(self, step: Coroutine[Any, Any, T]) -> T:
        self._spoke, self._waits = time.monotonic(), True
        try:
            return await step
        finally:
            self._waits = False

    @property
    def last_words(self) -> str:
        """The end of its error output, masked, on one line; of a Python program that failed, the error and its place."""
        return fault_of(list(self._last)) or " ".join(" ".join(self._last).split())[-LINE_CHARACTERS:]

    async def close(self) -> None:
        """Ends the program with all that it started: asks first, and kills soon after. A cancellation waits for that."""
        try:
            await to_the_end(self._end(), TERM_SECONDS + 5.0)
        finally:
            if self._process.returncode is None:
                self._kill()
            transport = getattr(self._process, "_transport", None)
            if transport is not None:
                transport.close()

    async def _end(self) -> None:
        self._watching.cancel()
        if self._process.returncode is None:
            assert self._process.stdout is not None  # noqa: S101  # it is a pipe
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()  # the keeper ends all others
            try:
                async with timeout(TERM_SECONDS + 2.0):
                    while await self._process.stdout.read(CHUNK_BYTES):  # it may hang on a full pipe
                        pass
                    await self._process.wait()
            except TimeoutError:
                self._kill()
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        await self._process.wait()
        self._listening.cancel()
        await asyncio.gather(self._watching, self._listening, return_exceptions=True)

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
            for index, line in enumerate(found):
                passed += 1
                if passed > HEARD_LINES:
                    left_out += 1
                    if index < len(found) - KEPT_LINES:  # to hide secrets takes time
                        continue
                text = self._mask.text(line.decode("utf-8", "replace"))[:LINE_CHARACTERS]
                self._last.append(text)
                if passed <= HEARD_LINES:
                    self._heard(Said("info", text))
        if left_out:
            self._heard(Said("warn", f"{left_out} lines of its error output left out"))
        if rest := lines.rest():
            self._last.append(self._mask.text(rest.decode("utf-8", "replace"))[:LINE_CHARACTERS])

    async def _watch(self) -> None:
        """Ends the program when it takes more than it may."""
        began = time.monotonic()
        looked, disk = began, 0
        while self._process.returncode is None:
            await asyncio.sleep(LOOK_SECONDS)
            if self._why:  # it began a process while it was killed
                self._kill()
                continue
            now = time.monotonic()
            if now - looked > LOOK_DISK_SECONDS:
                looked, disk = now, await asyncio.to_thread(_size, self._folder)
            self._why = self._exceeded(began, disk)
            if self._why and self._waits and now - self._spoke > self._limits.stall_seconds:
                await self._ask_for_stacks()
            if self._why:
                self._kill()

    def _exceeded(self, began: float, disk: int) -> str:
        """Returns what it took too much of, and what to do; empty: nothing."""
        now, limits = time.monotonic(), self._limits
        memory, cpu, group = 0, 0.0, self._descendants()
        for each in group:
            with contextlib.suppress(psutil.Error):
                memory += each.memory_info().rss
                cpu += sum(each.cpu_times()[:4])  # with those of children that ended
        if memory > limits.memory_bytes:
            return f"it held more than {limits.memory_bytes >> 20} MiB of memory; raise `memory`, or read fewer streams at once"
        if len(group) > limits.processes:
            return f"it ran more than {limits.processes} processes at once; read fewer streams at once"
        if disk > limits.disk_bytes:
            return (
                f"it wrote more than {limits.disk_bytes >> 20} MiB into its folder; raise `disk`, or read fewer streams at once"
            )
        if cpu > limits.cpu_seconds:
            return f"it used more than {limits.cpu_seconds:g} s of CPU; raise `cpu_time`"
        if now - began > limits.seconds:
            return f"it ran for more than {limits.seconds:g} s; raise `max_time`"
        if self._waits and now - self._spoke > limits.stall_seconds:
            return f"it was silent for {limits.stall_seconds:g} s; raise `stall_timeout` if the system behind it is so slow"
        return ""

    async def _ask_for_stacks(self) -> None:
        """Lets a silent program say where it is: a Python program writes the stacks of its threads and ends."""
        self._last.clear()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
        await asyncio.wait([self._listening], timeout=STACKS_SECONDS)  # it ends with the program
        if self._last:
            self._why += f"; it was here: {self.last_words}"

    def _descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []

    def _kill(self) -> None:
        """Kills all that run; the keeper looks for more, and ends."""
        for each in self._descendants():
            with contextlib.suppress(psutil.Error):
                each.kill()


def fault_of(lines: Sequence[str]) -> str:
    """Returns the error that a traceback ends with, and its place; empty: the lines end with none."""
    places = [index for index, line in enumerate(lines) if _PLACE.match(line)]
    after = next((index for index in range(places[-1] + 1, len(lines)) if lines[index][:1].strip()), None) if places else None
    if after is None or not _FAULT.match(lines[after]):
        return ""
    found = _PLACE.match(lines[places[-1]])
    place = f" ({'/'.join(found[1].split('/')[-2:])}, line {found[2]})" if found else ""
    said = " ".join(" ".join(lines[after:]).split())
    return said[: LINE_CHARACTERS - len(place)] + place


def _size(folder: Path) -> int:
    """Returns the bytes that the files of a folder take."""
    total, waiting = 0, [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for each in entries:
                with contextlib.suppress(OSError):
                    if each.is_dir(follow_symlinks=False):
                        waiting.append(each.path)
                    else:
                        total += each.stat(follow_symlinks=False).st_blocks * 512
    return total
