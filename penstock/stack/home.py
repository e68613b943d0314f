"""The home of a local stack: one folder with everything it keeps, and the file that says what runs in it.

    home/stack.json   what runs: ports, process ids, urls; replaced whole
    home/stack.lock   held by the supervisor as long as it lives, so that a home has one stack
    home/store/       JetStream's files; of a cluster home/store-1/ and so on
    home/logs/        one log a process, rotated by size
    home/cache/       the last good project of each service
    home/scratch/     what does not fit into the loader's memory; gone with its process
    home/archive/     accepted events, unless the project says where they are archived
    home/spool/       ingest's journal for the time the broker is away; of the second edge of a cluster home/spool-2/
    home/secrets/     of a cluster: passwords, certificates, and the brokers' address for commands

The kernel gives the lock back however the supervisor ends, so it is the lock that tells a running stack from a stale file, and a
process id counts only together with the time its process started.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

import penstock
from shared.errors import Problem, SetupError

DEFAULT_HOME = ".penstock"

SERVICES = ("ingest", "router", "functions_runtime", "loader", "connector_runner")
"""What runs in a home beside the broker, in the order of the path; the runner of connectors behind it."""

DRAIN_SECONDS = 20
"""How long each of them may take to hand on what it holds."""

Phase = Literal["starting", "ready", "stopping"]


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the stack. `started` is the kernel's start time of `pid`, which makes a reused id recognisable."""

    name: str
    pid: int
    started: int
    restarts: int = 0
    died_at: float = 0.0
    """Epoch seconds of the last time; 0: it never did."""
    state: str = "running"
    admin_url: str | None = None


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """What `stack.json` holds."""

    version: int = 1
    home: str
    phase: Phase = "starting"
    supervisor: ProcessState
    broker_url: str
    ingest_url: str
    more_ingest_urls: list[str] = []
    monitor_url: str
    started_at: str
    processes: list[ProcessState] = []
    problem: str = ""
    """Why the stack is not ready, for people."""


class Home:
    """Paths of a home, and its state file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.state_file = self.folder / "stack.json"
        self.lock_file = self.folder / "stack.lock"
        self.store = self.folder / "store"
        self.logs = self.folder / "logs"
        self.cache = self.folder / "cache"
        self.scratch = self.folder / "scratch"
        self.spool = self.folder / "spool"
        self.archive = self.folder / "archive"
        self.secrets = self.folder / "secrets"
        self.passwords = self.secrets / "passwords.json"
        self.address_file = self.secrets / "address"

    def prepare(self) -> None:
        """Creates the folders.

        Raises:
            SetupError: the folder cannot be created or written.
        """
        try:
            for folder in (self.folder, self.store, self.logs, self.cache, self.scratch, self.spool):
                folder.mkdir(parents=True, exist_ok=True)
            # projects in the cache hold passwords of destinations
            self.folder.chmod(0o700)
        except OSError as exc:
            raise SetupError(str(Problem(str(self.folder), f"cannot be used as home: {exc.strerror}"))) from exc

    def read(self) -> StackState | None:
        """Returns what the state file says, None where there is none or it cannot be read."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self.state_file.read_bytes(), type=StackState)
        return None

    def write(self, state: StackState) -> None:
        """Replaces the state file; a reader sees the old or the new one, whole."""
        fresh = self.state_file.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        fresh.replace(self.state_file)

    def forget(self) -> None:
        """Removes the state file."""
        self.state_file.unlink(missing_ok=True)

    def address(self, state: StackState) -> str:
        """Returns the brokers' address for commands; of a cluster with user and password, which `stack.json` has not."""
        with contextlib.suppress(OSError):
            return self.address_file.read_text(encoding="utf-8")
        return state.broker_url

    def is_running(self) -> bool:
        """True while a supervisor holds the lock."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home's lock.

        Raises:
            SetupError: a stack runs in this home already; says where and how to stop it.
        """
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _try_lock(descriptor):
                state = self.read()
                where = f" (events go to {state.ingest_url}, supervisor is process {state.supervisor.pid})" if state else ""
                raise SetupError(
                    f"a stack runs in {self.folder} already{where}; change its project with `penstock apply FILE`, "
                    f"stop it with `penstock down --home {self.folder}`, or start another one with another --home"
                )
            yield
        finally:
            os.close(descriptor)


def stack_environment(home: Home) -> dict[str, str]:
    """Returns the variables that say where the stack lives, for its processes and for `${PENSTOCK_HOME}` in project files."""
    # the folder that holds the packages: the checkout, or site-packages
    packages = str(Path(penstock.__file__).resolve().parents[1])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != packages]
    return {
        "PENSTOCK_HOME": str(home.folder),
        "PENSTOCK_CONNECTOR_CACHE_DIR": os.environ.get("PENSTOCK_CONNECTOR_CACHE_DIR") or str(home.folder / "connectors"),
        "PYTHONPATH": os.pathsep.join([packages, *others]),
    }


def start_time(pid: int) -> int:
    """Returns the kernel's start time of a process in clock ticks; 0 if there is none, or it is only waiting to be reaped.

    Where there is no /proc the process id alone has to do, and the answer is 1.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return 0
        return 1 if _answers(pid) else 0
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def is_alive(process: ProcessState) -> bool:
    """True if this very process still runs."""
    return process.pid > 0 and start_time(process.pid) == process.started != 0


def _try_lock(descriptor: int) -> bool:
    for attempt in range(5):  # a process that only looks (`is_running`) holds it for an instant
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.02 * attempt)
    return False


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
