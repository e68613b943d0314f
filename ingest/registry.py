"""Finds the wire protocols: every module of `ingest/protocols/` is one."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import cast

from ingest import protocols
from ingest.contract import HttpProtocol, SocketProtocol
from shared.plugins import Plugins

HTTP_PARTS = ("ROUTES", "parse", "reply")
SOCKET_PARTS = ("PATH", "SUBPROTOCOLS", "read", "write_hello", "write_ack", "write_problem", "write_pong")

PROTOCOLS: Plugins[ModuleType] = Plugins(
    "protocol", [protocols], ("NAME", "credentials", "judge_again", "as_event"), "ingest/contract.py"
)


def http_protocols() -> Sequence[HttpProtocol]:
    """Returns every HTTP protocol, ordered by name.

    Raises:
        TypeError: a module lacks a part of the contract, or its name differs from its file's.
    """
    return [cast("HttpProtocol", module) for module in PROTOCOLS.all() if _is_complete(module, HTTP_PARTS, "ROUTES")]


def socket_protocols() -> Sequence[SocketProtocol]:
    """Returns every socket protocol, ordered by name; raises as `http_protocols` does."""
    return [cast("SocketProtocol", module) for module in PROTOCOLS.all() if _is_complete(module, SOCKET_PARTS, "PATH")]


def protocol_of(name: str | None) -> HttpProtocol | SocketProtocol:
    """Returns a protocol by its name; Segment's if none has that name."""
    return cast("HttpProtocol | SocketProtocol", PROTOCOLS.get(name if name in PROTOCOLS.names() else "segment"))


def _is_complete(module: ModuleType, parts: Sequence[str], mark: str) -> bool:
    if not hasattr(module, "ROUTES") and not hasattr(module, "PATH"):
        raise TypeError(f"protocol {module.NAME} has neither ROUTES nor PATH; see ingest/contract.py")
    if not hasattr(module, mark):
        return False
    missing = [part for part in parts if not hasattr(module, part)]
    if missing:
        raise TypeError(f"protocol {module.NAME} lacks {', '.join(missing)}; see ingest/contract.py")
    return True
