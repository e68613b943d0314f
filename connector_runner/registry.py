"""Finds connectors: every module of `sources/` is one type, named as its file. Listing them imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

import connector_runner.sources
from connector_runner.contract import Environment, Source
from shared.plugins import Plugins


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
    return SOURCES.parse(f"connectors.{name}", document)
