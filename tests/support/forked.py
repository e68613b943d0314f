"""Services as processes of their own that start quickly: forked from a process that has imported the service (`nursery`).

Each is a process like one that `python -m` starts, with its own pid, memory, environment and log: it can be killed, frozen and
waited for. `penstock up` in its tests, and benchmarks, start services as users do.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

from tests.support.nursery import NUMBER

ROOT = Path(__file__).parents[2]
CHECKOUT = "PENSTOCK_TEST_CHECKOUT"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""numpy starts threads at its import otherwise, and only a process of one thread can be forked safely."""


class Process(Protocol):
    """The part of `subprocess.Popen` that tests use."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start_forked(service: str, environment: Mapping[str, str], output: IO[bytes]) -> Process:
    """Starts a service and returns at once.

    Args:
        service: `ingest`, `router`, `functions_runtime`, `loader` or `connector_runner`.
        environment: all its variables.
        output: where its output and its errors go.
    """
    return _nursery(service).start(environment, output)


def start_service(service: str, environment: Mapping[str, str], output: IO[bytes]) -> Process:
    """Starts a service as users do; see `start_forked`. The variable `CHECKOUT` names the folder whose code it runs; else this one."""
    folder = environment.get(CHECKOUT, ROOT)
    return subprocess.Popen([sys.executable, "-m", service], stdout=output, stderr=output, env=environment, cwd=folder)


class Forked:
    """A process of a nursery, which waits for it and tells its end."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.pid: int = self._next("started no process")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while the process lives."""
        if self.returncode is None and self._told(0):
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits until the process has ended; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end in so many seconds.
        """
        if self.returncode is None:
            if not self._told(timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Sends a signal, if the process has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # the nursery waited for it and is about to tell
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _told(self, timeout: float | None) -> bool:
        return bool(select.select([self._line], [], [], timeout)[0])

    def _end(self) -> None:
        self.returncode = self._next("ended and tells of no process any more")
        self._line.close()

    def _next(self, trouble: str) -> int:
        said = self._line.recv(NUMBER.size)
        if not said:
            self._line.close()
            raise RuntimeError(f"the process that forks services {trouble}")
        number: int = NUMBER.unpack(said)[0]
        return number


class _Nursery:
    def __init__(self, service: str) -> None:
        self._asking, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nursery", service, str(theirs.fileno())],
                cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        atexit.register(self.close)

    def start(self, environment: Mapping[str, str], output: IO[bytes]) -> Forked:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._asking, [json.dumps(dict(environment)).encode()], [output.fileno(), theirs.fileno()])
        return Forked(ours)

    def close(self) -> None:
        self._asking.close()
        self._process.wait()


_nursery = functools.cache(_Nursery)
