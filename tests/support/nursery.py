"""Forks services: `python -m tests.support.nursery router <socket>` imports `router` once, and each request makes a process of it.

Most of the CPU time of a start are imports, and the tests start services more than a thousand times. See `forked` for the asking side.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import time

MODULES = {
    "ingest": "processes",
    "router": "service",
    "functions_runtime": "service",
    "loader": "service",
    "connector_runner": "service",
}
"""The module of each service that its `__main__` imports."""
REQUEST_BYTES = 1 << 20
NUMBER = struct.Struct("!i")


def serve(asking: socket.socket) -> bool:
    """Forks a process for each request; returns True in such a process, False when nobody can ask any more."""
    heard, wakes = socket.socketpair()
    for end in (heard, wakes):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([asking, heard], [], [])
        if heard in ready:
            heard.recv(4096)
            _tell_ends(lines)
        if asking not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(asking, REQUEST_BYTES, 2)
        if not message:
            return False
        output, line = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for each in (asking, heard, wakes):
                each.close()
            for number in (line, *lines.values()):
                os.close(number)
            _become(message, output)
            return True
        lines[pid] = line
        os.close(output)
        os.write(line, NUMBER.pack(pid))


def _become(message: bytes, output: int) -> None:
    """Gives this process the environment and output that were asked for."""
    environment: dict[str, str] = json.loads(message)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _tell_ends(lines: dict[int, int]) -> None:
    """Says of each process that has ended with which code."""
    while lines:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        line = lines.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it
            os.write(line, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(line)


if __name__ == "__main__":
    service, descriptor = sys.argv[1:]
    importlib.import_module(f"{service}.{MODULES[service]}")
    if serve(socket.socket(fileno=int(descriptor))):
        sys.argv = [service]
        runpy.run_module(service, run_name="__main__", alter_sys=True)
