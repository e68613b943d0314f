"""One sandbox process: Deno without any permission, spoken to over its pipes.

Deno is given no right to files, network, environment, other programs or imports, and the guest takes every global away that could
reach further (`functions_runtime/js/lockdown.js`). The host ends the process when it takes too much; nothing is asked of the guest then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psutil

from functions_runtime.sandbox import wire
from shared import tether
from shared.errors import Problem, SetupError, Transient
from shared.tasks import timeout

JS = Path(__file__).parents[1] / "js"
START_SECONDS = 20.0
"""To load a chain, on a machine that is busy; a usual start takes a tenth of a second."""
LAST_WORDS_CHARACTERS = 300
LOAD_CPU_SECONDS = 1.0
"""What starting the engine and compiling may take, besides what one event may."""
KILLED_SECONDS = 5.0
INSTALL = "pip install 'deno>=2.9'"
LATE_CPU_SECONDS, LATE_NICE = 0.2, 19
"""From so much CPU without an answer on, a process gives way to all others: it burns a core until it is ended."""
ERROR_BYTES = 4096
"""Bytes kept of the last words of a process."""
NOWHERE = "/proc/nowhere"
"""For the folders in which the engine would keep something."""
LOADING = "the code that runs while a function is loaded"


class Limits(NamedTuple):
    """Bounds of a sandbox. `cpu_seconds`, `wall_seconds`: of one event. `heap_bytes`: of V8. `process_bytes`: of all memory."""

    cpu_seconds: float = 1.0
    wall_seconds: float = 5.0
    heap_bytes: int = 128 * 1024 * 1024
    process_bytes: int = 512 * 1024 * 1024
    outputs: int = 1000
    """Events that one event may become."""
    output_characters: int = 4 * 1024 * 1024
    """Of all events that one becomes."""


class Code(NamedTuple):
    """One function: its name in the project, and its text in JavaScript or TypeScript."""

    name: str
    text: str


class Spec(NamedTuple):
    """What a sandbox runs. `shared`: what every event's `ctx` says of the connection."""

    functions: tuple[Code, ...]
    shared: Mapping[str, Any]
    on_error: str = "pass"
    limits: Limits = Limits()
    gives_way: bool = False
    """Whether the process starts behind all others: an earlier one with these functions burned a core."""


class BrokenError(Exception):
    """The functions cannot be loaded: by function, what is wrong, line and column (0 where not known)."""

    def __init__(self, problems: Sequence[tuple[str, str, int, int]]) -> None:
        super().__init__(
            "; ".join(
                f"{name}: {what}" + (f" (line {line}, column {column})" if line else "") for name, what, line, column in problems
            )
        )
        self.problems = tuple(problems)


class EndedError(Exception):
    """The process is gone. `limit`: it took more than it may, of memory where `memory` says so."""

    def __init__(self, why: str, *, memory: bool = False, limit: bool = False) -> None:
        super().__init__(why)
        self.memory = memory
        self.limit = limit or memory


def find_deno() -> str:
    """Returns the path of the engine: from its wheel in this environment, else from PATH.

    Raises:
        SetupError: there is none; says how to get it.
    """
    beside = Path(sysconfig.get_path("scripts")) / "deno"
    found = str(beside) if beside.exists() else shutil.which("deno")
    if found is None:
        raise SetupError(str(Problem("deno", f"not found; it runs functions; install it with: {INSTALL}")))
    if not os.access(found, os.X_OK):
        raise SetupError(
            str(Problem("deno", f"{found} may not be run by this user; chmod a+x it, or install it again with: {INSTALL}"))
        )
    return found


def _file() -> BinaryIO:
    """Opens a file for the engine's last words: no task has to read a pipe, and a file without a name stays in no folder."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("penstock-sandbox"), "w+b")
    return tempfile.TemporaryFile()


class Guest:
    """A running sandbox; made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, nonce: str, errors: BinaryIO) -> None:
        self._process = process
        self._nonce = nonce
        self._errors = errors
        self._watched = psutil.Process(process.pid)
        self._why: EndedError | None = None
        self._began = False
        self.gave_way = False
        """Whether all other processes run before it."""
        self.policies: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @classmethod
    async def start(cls, spec: Spec) -> Guest:
        """Starts a process and loads the chain.

        Raises:
            SetupError: there is no Deno, or it does not start.
            BrokenError: a function cannot be loaded.
            Transient: it did not come up in time, for a reason outside of the functions.
        """
        flags = ",".join(("--disallow-code-generation-from-strings", f"--max-old-space-size={spec.limits.heap_bytes >> 20}"))
        deno = find_deno()
        errors = _file()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", tether.__file__, str(os.getpid()),  # when this process dies, it does
                deno, "run", "--quiet", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--no-prompt", "--no-code-cache",
                "--cached-only", f"--import-map={JS / 'imports.json'}", f"--v8-flags={flags}", str(JS / "guest.js"),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, cwd="/",
                env={"DENO_DIR": NOWHERE, "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1", "HOME": NOWHERE},
                limit=1 << 20, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            errors.close()
            raise SetupError(str(Problem("deno", f"does not start: {exc}"))) from exc
        guest = cls(process, secrets.token_hex(8), errors)
        if spec.gives_way:
            guest._give_way()
        try:
            await guest._load(spec)
        except BaseException:
            await guest.close()
            raise
        return guest

    async def _load(self, spec: Spec) -> None:
        limits = spec.limits
        settings = {
            "wallMs": limits.wall_seconds * 1000,
            "onError": spec.on_error,
            "mostOutputs": limits.outputs,
            "mostBytes": limits.output_characters,
        }
        functions = [{"name": each.name, "code": each.text} for each in spec.functions]
        header = {"nonce": self._nonce, "settings": settings, "shared": dict(spec.shared), "functions": functions}
        try:
            async with timeout(START_SECONDS):
                await self.send(wire.LOAD, header)
                loading = asyncio.ensure_future(self.receive())
                try:
                    while not loading.done():
                        await asyncio.wait([loading], timeout=0.05)
                        self.check(0.0, limits._replace(cpu_seconds=limits.cpu_seconds + LOAD_CPU_SECONDS))
                        if loading.done() and not self._began and isinstance(loading.result()[0], wire.Alive):
                            self._began = True
                            loading = asyncio.ensure_future(self.receive())
                    said, _ = await loading
                finally:
                    loading.cancel()
        except TimeoutError as exc:
            raise Transient(f"a sandbox did not load its functions within {START_SECONDS:g} s") from exc
        except EndedError as exc:
            if not self._began:  # no code of users has run yet
                words = " ".join(self._last_words().split())[-LAST_WORDS_CHARACTERS:]
                why = f"{find_deno()} does not run a sandbox: {exc}: {words}; if it is old or damaged, install it again with: {INSTALL}"
                raise SetupError(str(Problem("deno", why))) from exc
            names = " or ".join(each.name for each in spec.functions)
            raise BrokenError([(names, f"{LOADING} ended its sandbox: {exc}", 0, 0)]) from exc
        if not isinstance(said, wire.Loaded):
            raise BrokenError([(spec.functions[0].name, f"{LOADING} wrote to the host", 0, 0)])
        if said.problems:
            raise BrokenError(
                [(name, str(found["message"]), int(found["line"]), int(found["column"])) for name, found in said.problems]
            )
        self.policies = said.policies

    async def send(self, kind: int, header: object, bodies: Sequence[bytes] = ()) -> None:
        """Writes a frame; returns when the pipe has taken most of it.

        Raises:
            EndedError: the process is gone.
        """
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        try:
            self._process.stdin.write(wire.frame(kind, header, bodies))
            await self._process.stdin.drain()
        except (OSError, RuntimeError) as exc:
            raise await self.ended() from exc

    async def receive(self) -> tuple[wire.Said, bytes]:
        """Returns the next frame of the guest.

        Raises:
            EndedError: the process is gone, or wrote what no guest writes and is ended for it.
        """
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        try:
            length = wire.length_of(await self._process.stdout.readexactly(wire.LENGTH_BYTES))
            said, rest = wire.read(await self._process.stdout.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as exc:
            raise await self.ended() from exc
        except wire.Malformed as exc:
            self.kill(EndedError(f"it wrote to the host: {exc}"))
            raise await self.ended() from exc
        if said.nonce != self._nonce:
            self.kill(EndedError("it wrote to the host under another name"))
            raise await self.ended()
        return said, rest

    def cpu_seconds(self) -> float:
        """Returns the CPU that the process has used; 0 when it is gone."""
        try:
            times = self._watched.cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def is_starved(self) -> bool:
        """Says whether the process would run now, and others that it gave way to take its turn."""
        try:
            return self.gave_way and self._watched.status() == psutil.STATUS_RUNNING
        except psutil.Error:
            return False

    def check(self, since: float | None, limits: Limits) -> None:
        """Ends the process if it has used too much CPU or holds too much memory.

        Args:
            since: `cpu_seconds` at the moment from which CPU counts; None: it is not looked at.
        """
        used = 0.0 if since is None else self.cpu_seconds() - since
        if used > LATE_CPU_SECONDS:
            self._give_way()
        if used > limits.cpu_seconds:
            self.kill(EndedError(f"it ran for {used:.1f} s of CPU, at most {limits.cpu_seconds:g} s are allowed", limit=True))
            return
        with contextlib.suppress(psutil.Error):
            if self._watched.memory_info().rss > limits.process_bytes:
                self.kill(EndedError(f"it held more than {limits.process_bytes >> 20} MiB of memory", memory=True))

    def _give_way(self) -> None:
        if not self.gave_way:
            self.gave_way = True  # for good: only root may take it back
            with contextlib.suppress(psutil.Error):
                self._watched.nice(max(LATE_NICE, self._watched.nice()))

    def kill(self, why: EndedError) -> None:
        """Ends the process at once, with what it may have started."""
        if self._why is None and self._process.returncode is None:
            self._why = why
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def ended(self) -> EndedError:
        """Waits for the end of the process, and says why it came."""
        if self._process.returncode is None and self._why is None:
            try:
                async with timeout(KILLED_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self.kill(EndedError("it closed its pipes"))
        await self._process.wait()
        if self._why is not None:
            return self._why
        words = self._last_words()
        memory = "out of memory" in words.lower() or "heap limit" in words.lower()
        how = "it used up its heap" if memory else f"it ended with code {self._process.returncode}"
        return EndedError(how, memory=memory)

    def _last_words(self) -> str:
        if self._errors.closed:
            return ""
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - ERROR_BYTES))
        return self._errors.read().decode("utf-8", "replace").strip()

    async def close(self) -> None:
        """Ends the process."""
        self.kill(EndedError("it was closed"))
        await self._process.wait()
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()
        self._errors.close()
