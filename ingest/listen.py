"""The sockets the edge listens on: the port on every address of a host, and a Unix socket.

A single process binds and listens. Several processes share the port by SO_REUSEPORT, so that the kernel spreads connections
evenly over them. With that option alone a second installation could take half of the requests unnoticed. So the parent first
binds the port alone (`hold`), which fails if another process has it. Then it makes sockets beside its own for each life of a
child (`listen_beside`), and hands them down. The parent's sockets never listen: a child that dies takes its queue with it, and
the others get all requests.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from typing import Any

from shared.errors import ConfigError, Problem

BACKLOG = 2048


def open_listeners(host: str, port: int, unix_path: str | None, prefix: str) -> list[socket.socket]:
    """Binds and listens.

    Args:
        host: a name or an address; `::` and an empty one stand for every interface, IPv4 and IPv6.
        prefix: of the settings, to name them in errors.

    Raises:
        ConfigError: an address cannot be bound; says which and why.
    """
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(each) for each in hold(host, port, prefix)]
        try:
            for listener in listeners:
                listener.listen(BACKLOG)
        except OSError as exc:  # another bound socket began to listen
            raise _taken(host, port, prefix, exc) from exc
        if unix_path:
            listeners.append(opened.enter_context(open_unix_listener(unix_path, prefix)))
        opened.pop_all()
    return listeners


def hold(host: str, port: int, prefix: str) -> list[socket.socket]:
    """Binds the port on every address of the host, exclusively.

    Raises:
        ConfigError: as `open_listeners`.
    """
    with contextlib.ExitStack() as opened:
        held: list[socket.socket] = []
        for family, address in _addresses(host, port, prefix):
            # port 0: the same free port on every address
            chosen = (address[0], held[0].getsockname()[1], *address[2:]) if port == 0 and held else address
            try:
                held.append(opened.enter_context(_bound(family, chosen)))
            except OSError as exc:
                raise _taken(host, port, prefix, exc) from exc
        opened.pop_all()
    return held


def share(held: Sequence[socket.socket]) -> None:
    """Lets this user's sockets with SO_REUSEPORT stand beside the held ones; a bind of another user still fails."""
    for each in held:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # SO_REUSEADDR allowed to bind beside closed connections; left on, it would let others bind beside this socket, which
        # never listens
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def listen_beside(held: Sequence[socket.socket]) -> list[socket.socket]:
    """Returns listening sockets on the held and shared addresses."""
    listeners: list[socket.socket] = []
    for each in held:
        listener = _bound(each.family, each.getsockname(), share=True)
        listener.listen(BACKLOG)
        listeners.append(listener)
    return listeners


def open_unix_listener(path: str, prefix: str) -> socket.socket:
    """Listens on a path; replaces a socket that a dead process left there.

    Raises:
        ConfigError: the path cannot be bound.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_behind(path):
            os.unlink(path)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        text = f"cannot listen on {path}: {exc.strerror or exc}"
        raise ConfigError([Problem(f"{prefix}UNIX_SOCKET", text)]) from exc
    return listener


def inherited(numbers: Iterable[int]) -> list[socket.socket]:
    """Returns the sockets a parent handed down."""
    return [socket.socket(fileno=number) for number in numbers]


def described(listeners: Sequence[socket.socket]) -> str:
    """Names the addresses for people."""
    names = [each.getsockname() for each in listeners]
    return ", ".join(name if isinstance(name, str) else f"{name[0]}:{name[1]}" for name in names)


def _addresses(host: str, port: int, prefix: str) -> list[tuple[int, Any]]:
    try:
        found = socket.getaddrinfo(host or "::", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise ConfigError([Problem(f"{prefix}HOST", f"{host!r} is no address of this machine: {exc.strerror}")]) from exc
    return list({(int(family), address): None for family, _, _, _, address in found})


def _bound(family: int, address: Any, *, share: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _taken(host: str, port: int, prefix: str, exc: OSError) -> ConfigError:
    text = f"cannot listen on {host}:{port}: {os.strerror(exc.errno or 0).lower()}; stop the program that holds it, or choose another port"
    return ConfigError([Problem(f"{prefix}PORT", text)])


def _is_left_behind(path: str) -> bool:
    """Whether the path has a socket on which no process listens."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False
