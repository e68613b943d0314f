"""Finds destinations: every module of the plug-in folders is one type, named as its file.

Listing the types imports nothing; asking for one imports its module, which imports no driver. Adding a destination is adding a
file (`loader/contract/warehouse.py` says what it defines).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

import msgspec

import loader.files
import loader.warehouses
from loader.contract.warehouse import Capabilities, Destination, Environment
from shared.errors import ConfigError, Problem
from shared.reading.decode import decode, meant

_FOLDERS = (loader.warehouses, loader.files)


class Plugin(Protocol):
    """What a plug-in module defines."""

    OPTIONS: type[msgspec.Struct]
    CAPABILITIES: Capabilities

    async def open_destination(self, name: str, options: Any, environment: Environment) -> Destination:
        """Returns the destination, open; raises `SetupError` where a person must act first."""
        ...


def destination_types() -> list[str]:
    """Returns the names of all types, sorted; imports none."""
    return sorted(_modules())


def plugin(type_name: str) -> Plugin:
    """Returns the plug-in of a type; imports no driver.

    Raises:
        KeyError: no type has this name.
    """
    return cast("Plugin", importlib.import_module(_modules()[type_name]))


def parse_options(name: str, document: Mapping[str, Any]) -> tuple[Plugin, msgspec.Struct]:
    """Returns the plug-in and the checked options of a destination.

    Args:
        name: of the destination, for the errors.
        document: its entry in the project file, with `type`.

    Raises:
        ConfigError: unknown type, unknown key or wrong value; the path starts with `destinations.<name>`.
    """
    path = f"destinations.{name}"
    type_name = document.get("type")
    known = _modules()
    if not isinstance(type_name, str) or type_name not in known:
        close = meant(type_name, known) if isinstance(type_name, str) else ""
        message = f"expected one of {', '.join(sorted(known))}, got {type_name!r}" + (f";{close}" if close else "")
        raise ConfigError([Problem(f"{path}.type", message)])
    found = plugin(type_name)
    options = {key: value for key, value in document.items() if key != "type"}
    return found, decode(options, found.OPTIONS, path)


async def open_destination(name: str, document: Mapping[str, Any], environment: Environment) -> Destination:
    """Opens a destination of the project file.

    Raises:
        ConfigError: as `parse_options`.
        SetupError, NotConnected, Transient: as the plug-in says.
    """
    found, options = parse_options(name, document)
    return await found.open_destination(name, options, environment)


def _modules() -> dict[str, str]:
    return {
        module.name: f"{folder.__name__}.{module.name}" for folder in _FOLDERS for module in pkgutil.iter_modules(folder.__path__)
    }
