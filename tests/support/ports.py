"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

PORTS_PER_WORKER = 4_000
PORTS_PER_STACK = 9
_offsets = itertools.count(os.getpid() * PORTS_PER_STACK, PORTS_PER_STACK)


def free_port() -> int:
    """Returns a free port, with as many free ports behind it as a local stack takes.

    Below what the kernel gives to outgoing connections, and in a range of this test process's own, so that a server that is killed
    finds its port free when it starts again.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 12_000 + worker % 4 * PORTS_PER_WORKER + next(_offsets) % PORTS_PER_WORKER
        if all(_is_free(each) for each in range(port, port + PORTS_PER_STACK)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("0.0.0.0", port))
        return True
    return False


def free_ports(count: int) -> int:
    """Returns the first of so many free ports in a row, in the range of `free_port`."""
    while True:
        parts = [free_port() for _ in range(-(-count // PORTS_PER_STACK))]
        if parts == list(range(parts[0], parts[0] + PORTS_PER_STACK * len(parts), PORTS_PER_STACK)):
            return parts[0]
