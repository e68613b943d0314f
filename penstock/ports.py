"""Ports of the local stack: the well-known one where it is free, else the next free one."""

from __future__ import annotations

import socket

from shared.errors import SetupError

INGEST_PORT = 8080
BROKER_PORT = 4222
MONITOR_PORT = 8222
ADMIN_PORT = 9464
SPAN = 200
"""How many ports are tried from the first one on."""


class PortPicker:
    """Hands out free ports, each one once."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def pick(self, first: int) -> int:
        """Returns the first free port from `first` on.

        Raises:
            SetupError: none of them is free.
        """
        for port in range(first, min(first + SPAN, 65_536)):
            if port not in self._given and is_free(port):
                self._given.add(port)
                return port
        raise SetupError(f"no free port from {first} to {first + SPAN - 1}; choose another range with --port-base")


def is_free(port: int) -> bool:
    """True if nobody listens on the port, on any interface or on the local one."""
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
