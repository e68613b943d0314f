"""Imports a module at its first use instead of at its `import`, or imports a module without an optional one.

The broker's client imports aiohttp and uses it for WebSocket addresses only; that import costs more than the rest of most
commands. `importlib.util.LazyLoader` does not help: the second `import` of a module looks at its `__spec__`, which loads it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """Takes the module's place; its first attribute access imports the module."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def postpone(name: str) -> None:
    """Makes `import name`, in any module, do nothing until an attribute is asked for; nothing if it is imported already."""
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        return
    stand_in = _Postponed(name)
    stand_in.__spec__ = spec
    stand_in.__path__ = list(spec.submodule_search_locations or ())  # its submodules can be imported meanwhile
    sys.modules[name] = stand_in


def import_without(name: str, spared: str) -> None:
    """Imports a module as if another one, which it uses where there is one, were not installed."""
    if name in sys.modules or spared in sys.modules:
        return
    sys.modules[spared] = None  # type: ignore[assignment]  # `import` then says that there is none
    try:
        importlib.import_module(name)
    finally:
        del sys.modules[spared]
