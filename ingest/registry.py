"""Finds the wire protocols: every module of `ingest/protocols/` is one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import cast

from ingest import protocols
from ingest.contract import HttpProtocol


def http_protocols() -> Sequence[HttpProtocol]:
    """Returns every HTTP protocol, ordered by name.

    Raises:
        TypeError: a module lacks what the contract asks for, or calls itself otherwise than its file.
    """
    found: list[HttpProtocol] = []
    for info in sorted(pkgutil.iter_modules(protocols.__path__), key=lambda each: each.name):
        module = importlib.import_module(f"{protocols.__name__}.{info.name}")
        missing = [part for part in ("NAME", "ROUTES", "credentials", "parse", "reply") if not hasattr(module, part)]
        if missing:
            raise TypeError(f"protocol {info.name} lacks {', '.join(missing)}; see ingest/contract.py")
        if info.name != module.NAME:
            raise TypeError(f"protocol {info.name} calls itself {module.NAME!r}; NAME equals the file name")
        found.append(cast("HttpProtocol", module))
    return found
