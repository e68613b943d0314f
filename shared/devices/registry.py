"""Finds device destinations: every module of `kinds/` is one type, named as its file. Listing them imports none.

It stands in the kernel, not in a service: the edge serves the scripts, the router must not forward to them, and `penstock apply`
checks their options.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

import shared.devices.kinds
from shared.devices.contract import Device
from shared.errors import ConfigError, Problem
from shared.plugins import Plugins
from shared.secrets.references import references_in

DEVICES: Plugins[Device] = Plugins(
    "device destination", [shared.devices.kinds], ("OPTIONS", "HOSTS", "check"), "shared/devices/contract.py"
)

MOST_BYTES = 64 * 1024
"""The most that the options of one device may take: every visitor loads them."""

_NAMES = frozenset(DEVICES.names())


def is_device(document: object) -> bool:
    """Whether an entry of `destinations` is of a type that runs in the browser."""
    return isinstance(document, Mapping) and document.get("type") in _NAMES


def parse_device(name: str, document: Mapping[str, Any]) -> msgspec.Struct:
    """Returns the checked options of a device destination.

    Args:
        name: of the destination, for the errors.
        document: its entry in the project file.

    Raises:
        ConfigError: unknown key, wrong value, or a secret; the path starts with `destinations.<name>`.
    """
    path = f"destinations.{name}"
    secrets = sorted(map(str, references_in(dict(document))))
    if secrets:
        text = f"{secrets[0]} is a secret, and every visitor's browser reads the options of this type; write a public value"
        raise ConfigError([Problem(path, text)])
    device, options = DEVICES.parse(path, document)
    problems = device.check(path, options)
    size = len(msgspec.json.encode(options))
    if size > MOST_BYTES:
        problems.append(Problem(path, f"its options take {size} bytes, the limit is {MOST_BYTES}: every visitor loads them"))
    if problems:
        raise ConfigError(problems)
    return options


def public_options(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a device destination as its script gets them; raises as `parse_device`."""
    options = msgspec.to_builtins(parse_device(name, document))
    return {key: value for key, value in options.items() if value is not None}


@cache
def script_of(type_name: str) -> str:
    """Returns the text of a device's script.

    Raises:
        OSError: the device has none.
    """
    folder = Path(next(iter(shared.devices.kinds.__path__)))
    return (folder / f"{type_name}.js").read_text(encoding="utf-8")
