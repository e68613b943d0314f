"""A server process of our own: started on a free port in a folder of its own, stopped, killed, and started again on the same data.

A subclass says which command runs it and when it answers. `NatsServer`, `PostgresServer`, `MySQLServer` and `ClickHouseServer` are these.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from tests.support import logs
from tests.support.ports import free_port

START_SECONDS = 60.0
END_SECONDS = 60.0
PAUSE_SECONDS = 0.02


class OwnServer:
    """One server; `start` may follow `stop` or `kill` and finds the same data on the same port.

    Args:
        folder: where it keeps everything; one of its own unless given, which goes with it.
        owner: the system user it runs as; None: the user of the tests.
    """

    name: ClassVar[str]
    """What messages call it."""
    how_to_stop: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path | None = None, owner: str | None = None) -> None:
        self.directory = folder or Path(tempfile.mkdtemp(prefix=f"penstock-{self.name}-"))
        self.port = free_port()
        self._lent = folder is not None
        self._owner = owner
        self._process: subprocess.Popen[bytes] | None = None
        self.give(self.directory)

    @property
    def log_path(self) -> Path:
        """Where everything it says goes."""
        return self.directory / "log"

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            RuntimeError: it does not run.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Says whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> Sequence[str | Path]:
        """Returns the command that runs it; called at every start."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Says whether it takes clients; may raise OSError or ValueError while it does not."""
        raise NotImplementedError

    def start(self) -> None:
        """Starts it and waits until it answers; recovery after a kill is part of the wait.

        Raises:
            RuntimeError: it did not start; with the end of its log.
        """
        command = self.command()
        logs.note(self.name, self.log_path)
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, user=self._owner, group=self._group(),
                cwd=self.directory, env=self.environment(),
            )  # fmt: skip
        ends_at = time.monotonic() + START_SECONDS
        while time.monotonic() < ends_at and self._process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                if self.answers():
                    return
            time.sleep(PAUSE_SECONDS)
        self._process.kill()
        self._process.wait()
        self._process = None
        raise RuntimeError(f"{self.name} did not start on port {self.port}:\n{logs.end_of(self.log_path)}")

    def environment(self) -> dict[str, str]:
        """Returns the environment of the process."""
        return dict(os.environ)

    def stop(self) -> None:
        """Stops it as an operator does; kills it when it does not end."""
        self._end(self.how_to_stop)

    def kill(self) -> None:
        """`kill -9`, its children too, as when the machine loses power and the kernel lives on."""
        if self.running:
            children = self.processes()[1:]
            self._end(signal.SIGKILL)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            for child in children:
                _wait_until_dead(child)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal: SIGSTOP freezes it, SIGCONT wakes it."""
        os.kill(self.pid, number)

    def processes(self) -> list[psutil.Process]:
        """Returns its process and the children of that, for CPU accounting."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()  # nothing of it is needed any more
        if not self._lent:
            shutil.rmtree(self.directory, ignore_errors=True)

    def give(self, path: Path) -> None:
        """Gives a file or folder to the user whom the server runs as."""
        if self._owner is not None:
            entry = pwd.getpwnam(self._owner)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def run(self, command: Sequence[str | Path], stdin: Path | None = None) -> None:
        """Runs a command as the server's user, to its end.

        Raises:
            RuntimeError: it failed; with the end of what it said.
        """
        with (stdin or Path(os.devnull)).open("rb") as source:
            done = subprocess.run(
                command, stdin=source, capture_output=True, check=False, cwd=self.directory, user=self._owner, group=self._group()
            )
        if done.returncode:
            raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace')[-2000:]}")

    def greeting(self, said: bytes = b"", size: int = 5) -> bytes:
        """Connects, says something, and returns the first bytes of the answer; may raise OSError."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
            link.sendall(said)
            return link.recv(size)

    def _group(self) -> int | None:
        return None if self._owner is None else pwd.getpwnam(self._owner).pw_gid

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        if how is not signal.SIGKILL:
            process.send_signal(signal.SIGCONT)  # a frozen one ends too
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_dead(process: psutil.Process) -> None:
    """Waits until a process of another parent runs no more; that parent may take its time to look at it."""
    ends_at = time.monotonic() + END_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < ends_at:
            time.sleep(PAUSE_SECONDS)
