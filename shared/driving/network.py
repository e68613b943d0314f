"""The sockets under a driver: translates their errors, and lets the kernel give up a silent peer."""

from __future__ import annotations

import socket
import ssl

from shared.errors import NotConnected, PenstockError, SetupError


def translate_socket(error: BaseException, what: str) -> PenstockError | None:
    """Returns our error for a socket's error, None for any other error.

    `what`: what failed, for the message: `loading into postgres destination "wh"`.
    """
    if isinstance(error, TimeoutError):
        return NotConnected(f"{what}: the server did not answer in time")
    if not isinstance(error, OSError):
        return None
    words = f"{what}: {error or type(error).__name__}"
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return SetupError(f"{what}: the host name is unknown; check `host` (or the dsn): {error.strerror}")
    if isinstance(error, ssl.SSLError):
        return SetupError(f"{words}; check `ssl` and the certificates")
    if isinstance(error, ConnectionRefusedError):
        return NotConnected(f"{what}: the connection is refused; check `host` and `port`, and that a server listens there")
    if isinstance(error, FileNotFoundError):
        return NotConnected(f"{what}: there is no such socket; check where it is, and that the server runs")
    return NotConnected(words)


def tls_context(what: str, root_certificate: str | None, *, proven: bool, named: bool) -> ssl.SSLContext:
    """Returns TLS for a client.

    Args:
        what: fails, for the message.
        root_certificate: file of the authority that is trusted; None: the system's.
        proven: whether the server must have a certificate of that authority.
        named: whether it must be that of the host's name.

    Raises:
        SetupError: the file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=root_certificate)
    except OSError as error:
        raise SetupError(f"{what}: ssl_root_certificate cannot be read: {error}") from error
    context.check_hostname = named
    if not proven:
        context.verify_mode = ssl.CERT_NONE
    return context


def keep_alive(plug: socket.socket | None, seconds: float) -> None:
    """Lets the kernel find out within so many seconds that the peer's machine is gone, while nothing is sent."""
    if plug is None or plug.family not in (socket.AF_INET, socket.AF_INET6):
        return
    quarter = max(1, int(seconds / 4))
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", quarter), ("TCP_KEEPINTVL", quarter), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # Linux has them all, macOS some
            plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
