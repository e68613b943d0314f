"""`python -m penstock.probe`: asks this machine's service at its admin port, for the health check of a container.

Ends with 0 if `/ready` answers 200, else with 1; what the service says goes to stdout, where `docker inspect` shows it. Another path
is an argument: `python -m penstock.probe /live`. Imports as little as it can, because it starts every few seconds.
"""

from __future__ import annotations

import os
import socket
import sys

SECONDS = 4.0
"""Below the time that the health check of compose.yaml has."""
_OK = b" 200 "


def probe(port: int, path: str) -> tuple[bool, str]:
    """Returns whether a service answers a path with 200, and what it says.

    Raises:
        OSError: it does not answer.
    """
    with socket.create_connection(("127.0.0.1", port), SECONDS) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := link.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return _OK in head.partition(b"\r\n")[0], body.decode(errors="replace")


def main(arguments: list[str]) -> int:
    """Asks, prints and returns the exit code."""
    port = os.environ.get("PENSTOCK_ADMIN_PORT", "0")
    if not port.isdigit() or port == "0":
        sys.stdout.write("PENSTOCK_ADMIN_PORT names no port\n")
        return 1
    try:
        well, said = probe(int(port), arguments[0] if arguments else "/ready")
    except OSError as exc:
        well, said = False, f"no answer at port {port}: {exc}"
    sys.stdout.write(said + "\n")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
