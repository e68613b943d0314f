"""Imports a module when it is first used instead of when it is named, or leaves out one that another can do without.

The broker's client names aiohttp at its import and uses it for WebSocket addresses only; that import costs more than most
commands take otherwise. `importlib.util.LazyLoader` does not help: the second `import` of a module looks at its `__spec__`, which
loads it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """Stands where the module will be; the first attribute that is asked for brings it."""

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
