"""Finds connectors: every module of `sources/` is one type, named as its file. Listing them imports none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

import connector_runner.sources
from connector_runner.contract import Environment, Source
from connector_runner.programs.texts import read_text
from shared.errors import ConfigError, Problem
from shared.plugins import Plugins, secret_options
from shared.reading.mask import Mask
from shared.secrets.reading import seen

NEW_LINE = "\n"


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


def with_files(name: str, document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the entry of a connector with the text of each file that it names, so that it works on another machine too.

    An option is the path of a file if its `Meta` has `extra={"text_goes_to": option}`.

    Args:
        folder: where the project file is; paths begin there.

    Raises:
        ConfigError: a file cannot be read; the path starts with `connectors.<name>`.
    """
    carried = dict(document)
    if not isinstance(document.get("type"), str) or document["type"] not in SOURCES.names():
        return carried
    for option, goes_to in _files_of(SOURCES.get(document["type"]).OPTIONS):
        written = carried.get(option)
        if not isinstance(written, str) or NEW_LINE in written:
            continue
        try:
            text = read_text(folder / written)
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise ConfigError([Problem(f"connectors.{name}.{option}", f"{folder / written} cannot be read: {reason}")]) from exc
        del carried[option]
        carried[goes_to] = text if NEW_LINE in text else text + NEW_LINE
    return carried


def _files_of(options: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """Returns the options that are paths of files, each with the option that takes the text."""
    info = msgspec.inspect.type_info(options)
    fields = info.fields if isinstance(info, msgspec.inspect.StructType) else ()
    marked = [(each.encode_name, each.type.extra or {}) for each in fields if isinstance(each.type, msgspec.inspect.Metadata)]
    return [(name, str(extra["text_goes_to"])) for name, extra in marked if "text_goes_to" in extra]


def mask_of(document: Mapping[str, Any]) -> Mask:
    """Returns what hides the secrets of a connector in what its driver says; `document`: its entry in the project file, resolved."""
    type_name = document.get("type")
    secrets = secret_options(SOURCES.get(str(type_name)).OPTIONS) if type_name in SOURCES.names() else frozenset[str]()
    shown = (value for name, value in document.items() if name not in secrets)
    return Mask([*(value for name, value in document.items() if name in secrets), *seen(document)], shown)
