"""Finds destinations: every module of the plug-in folders is one type, named as its file.

Listing the types imports nothing; asking for one imports its module, which imports no driver. A new destination is a new file;
`loader/contract/warehouse.py` (tables) and `loader/contract/events.py` (events one by one) say what it must define.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

import loader.cloud
import loader.files
import loader.queues
import loader.warehouses
from loader.contract.events import EventCapabilities, EventDestination
from loader.contract.warehouse import Capabilities, Destination, Environment
from shared.plugins import Plugins, secret_options
from shared.reading.mask import Mask
from shared.secrets.reading import reveal, seen


class Plugin(Protocol):
    """The parts of a plug-in module."""

    OPTIONS: type[msgspec.Struct]
    CAPABILITIES: Capabilities | EventCapabilities

    async def open_destination(self, name: str, options: Any, environment: Environment) -> Destination | EventDestination:
        """Returns the open destination; raises `SetupError` if a person must act first."""
        ...


DESTINATIONS: Plugins[Plugin] = Plugins(
    "destination",
    [loader.warehouses, loader.files, loader.cloud, loader.queues],
    ("OPTIONS", "CAPABILITIES", "open_destination"),
    "loader/contract/warehouse.py and loader/contract/events.py",
)


def destination_types() -> list[str]:
    """Returns the names of all types, sorted; imports none."""
    return DESTINATIONS.names()


def plugin(type_name: str) -> Plugin:
    """Returns the plug-in of a type; imports no driver.

    Raises:
        KeyError: no type has this name.
    """
    return DESTINATIONS.get(type_name)


def takes_tables(type_name: str) -> Capabilities | None:
    """Returns the capabilities of a type that takes tables; None: it takes events one by one, or does not exist."""
    if type_name not in DESTINATIONS.names():
        return None
    capabilities = plugin(type_name).CAPABILITIES
    return capabilities if isinstance(capabilities, Capabilities) else None


def secrets_of(type_name: object) -> frozenset[str]:
    """Returns the options of a destination type that hold secrets; none for an unknown type."""
    known = isinstance(type_name, str) and type_name in DESTINATIONS.names()
    return secret_options(plugin(str(type_name)).OPTIONS) if known else frozenset()


def mask_of(document: Mapping[str, Any]) -> Mask:
    """Returns what hides the secrets of a destination; `document`: its entry in the project file, resolved."""
    # a staging store is written as a destination of its type, with the same secrets
    parts = [document, *(each for each in document.values() if isinstance(each, Mapping) and "type" in each)]
    options = [(value, name in secrets_of(part.get("type"))) for part in parts for name, value in part.items()]
    hidden = [value for value, secret in options if secret]
    # the value of a reference is a secret, in any option
    return Mask([*hidden, *seen(document)], (value for value, secret in options if not secret))


def parse_options(name: str, document: Mapping[str, Any]) -> tuple[Plugin, msgspec.Struct]:
    """Returns the plug-in and the checked options of a destination, with the secrets that it refers to; reading these blocks.

    Args:
        name: of the destination, for the errors.
        document: its entry in the project file, with `type`.

    Raises:
        ConfigError: unknown type, unknown key or wrong value; the path starts with `destinations.<name>`.
        SetupError, NotConnected: a secret cannot be read.
    """
    return DESTINATIONS.parse(f"destinations.{name}", reveal(document))


async def open_destination(name: str, document: Mapping[str, Any], environment: Environment) -> Destination:
    """Opens a destination of the project file that takes tables.

    Raises:
        ConfigError: as `parse_options`.
        SetupError, NotConnected, Transient: from the plug-in.
        TypeError: it takes events one by one.
    """
    found, options = parse_options(name, document)
    opened = await found.open_destination(name, options, environment)
    if isinstance(opened, EventDestination):
        raise TypeError(f'destination "{name}" takes events one by one')
    return opened
