"""Ports of the local stack: a port that was asked for must be free; a default that is taken gives way to the next free one."""

from __future__ import annotations

import socket
import sys

from shared.errors import SetupError

INGEST_PORT = 8080
BROKER_PORT = 4222
MONITOR_PORT = 8222
ROUTE_PORT = 6222
ADMIN_PORT = 9464
PROMETHEUS_PORT = 9090
SPAN = 200
"""How many ports are tried from the first one on."""


_reserved: dict[int, int] = {}
"""File descriptors by port; they are closed with the process."""


class PortPicker:
    """Hands out free ports, each one once."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def demand(self, port: int, whose: str, option: str) -> int:
        """Returns `port`.

        Args:
            whose: what listens there, for the message.
            option: where the user asked for it.

        Raises:
            SetupError: another program listens there, or it was handed out already.
        """
        if port > 65_535:
            raise SetupError(f"{option}: port {port} for {whose} is beyond 65535")
        if port in self._given or not is_free(port) or not reserve(port):
            raise SetupError(
                f"{option}: port {port} for {whose} is taken by another program; choose another, or stop that program"
            )
        self._given.add(port)
        return port

    def pick(self, first: int) -> int:
        """Returns the first free port from `first` on.

        Raises:
            SetupError: none of them is free.
        """
        for port in range(first, min(first + SPAN, 65_536)):
            if port not in self._given and is_free(port) and reserve(port):
                self._given.add(port)
                return port
        raise SetupError(f"no free port from {first} to {first + SPAN - 1}; choose another range with --port-base")


def is_free(port: int) -> bool:
    """True if no process listens on the port, on any interface or on the local one."""
    for host in ("0.0.0.0", "127.0.0.1"):
        with socket.socket() as probe:
            # as servers do: connections that are closing do not count, listeners do
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
    return True


def reserve(port: int) -> bool:
    """Keeps other stacks that start now from choosing the same port, until this process ends.

    Returns:
        False if another process reserved it. A name in Linux' abstract namespace stands for the port: it is gone with the process. On other systems
        there is no such namespace, and nothing is reserved.
    """
    if port in _reserved or sys.platform != "linux":
        return True
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0penstock-port-{port}")
    except OSError:
        mark.close()
        return False
    _reserved[port] = mark.detach()
    return True
