"""Finds the wire protocols: every module of `ingest/protocols/` is one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import cast

from ingest import protocols
from ingest.contract import HttpProtocol, SocketProtocol

HTTP_PARTS = ("NAME", "ROUTES", "credentials", "parse", "reply", "judge_again", "as_event")
SOCKET_PARTS = (
    "NAME", "PATH", "SUBPROTOCOLS", "credentials", "read", "write_hello", "write_ack", "write_problem", "write_pong",
    "judge_again", "as_event",
)  # fmt: skip


def http_protocols() -> Sequence[HttpProtocol]:
    """Returns every HTTP protocol, ordered by name.

    Raises:
        TypeError: a module lacks what the contract asks for, or calls itself otherwise than its file.
    """
    return [cast("HttpProtocol", module) for module in _modules() if _is_complete(module, HTTP_PARTS, "ROUTES")]


def socket_protocols() -> Sequence[SocketProtocol]:
    """Returns every protocol of open connections, ordered by name; raises as `http_protocols` does."""
    return [cast("SocketProtocol", module) for module in _modules() if _is_complete(module, SOCKET_PARTS, "PATH")]


def protocol_of(name: str | None) -> HttpProtocol | SocketProtocol:
    """Returns a protocol by its name; Segment's where there is none of that name, whose rules its events meet as well."""
    every: list[HttpProtocol | SocketProtocol] = [*http_protocols(), *socket_protocols()]
    found = {each.NAME: each for each in every}
    return found.get(name or "", found["segment"])


def _modules() -> list[ModuleType]:
    names = sorted(info.name for info in pkgutil.iter_modules(protocols.__path__))
    return [importlib.import_module(f"{protocols.__name__}.{name}") for name in names]


def _is_complete(module: ModuleType, parts: Sequence[str], mark: str) -> bool:
    name = module.__name__.rsplit(".", 1)[1]
    if not hasattr(module, "ROUTES") and not hasattr(module, "PATH"):
        raise TypeError(f"protocol {name} has neither ROUTES nor PATH; see ingest/contract.py")
    if not hasattr(module, mark):
        return False
    missing = [part for part in parts if not hasattr(module, part)]
    if missing:
        raise TypeError(f"protocol {name} lacks {', '.join(missing)}; see ingest/contract.py")
    if name != module.NAME:
        raise TypeError(f"protocol {name} calls itself {module.NAME!r}; NAME equals the file name")
    return True
