"""Finds connectors: every module of `sources/` is one type, named as its file. Listing them imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

import connector_runner.sources
from connector_runner.contract import Environment, Source
from shared.errors import ConfigError, Problem
from shared.plugins import Plugins
from shared.reading.decode import decode


class Plugin(Protocol):
    """The parts of a plug-in module."""

    OPTIONS: type[msgspec.Struct]

    async def open_source(self, name: str, options: Any, environment: Environment) -> Source:
        """Returns the open connector; raises `SetupError` if a person must act first."""
        ...


SOURCES: Plugins[Plugin] = Plugins(
    "connector", [connector_runner.sources], ("OPTIONS", "open_source"), "connector_runner/contract.py"
)


def parse_options(name: str, document: Mapping[str, Any]) -> tuple[Plugin, msgspec.Struct]:
    """Returns the plug-in and the checked options of a connector.

    Args:
        name: of the connector, for the errors.
        document: its entry in the project file, with `type`.

    Raises:
        ConfigError: unknown type, unknown key or wrong value; the path starts with `connectors.<name>`.
    """
    path = f"connectors.{name}"
    type_name = document.get("type")
    if not isinstance(type_name, str) or type_name not in SOURCES.names():
        raise ConfigError([Problem(f"{path}.type", SOURCES.unknown(type_name))])
    found = SOURCES.get(type_name)
    options = {key: value for key, value in document.items() if key != "type"}
    return found, decode(options, found.OPTIONS, path)
