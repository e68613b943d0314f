"""Connections to device destinations, which run in the visitor's browser: no service forwards, loads or counts their events.

The project file has them among its connections. `decode_project` puts them apart, so that code about connections meets none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.devices.registry import is_device, parse_device
from shared.errors import ConfigError, Problem
from shared.reading.decode import decode, meant

IN_THE_BROWSER = "runs in the browser"
"""What status, plan and explain say of such a connection."""


class DeviceConnection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The link from a site to a device destination; its rules are judged in the page."""

    site: Annotated[str, Meta(description="name of the site")]
    destination: Annotated[str, Meta(description="name of the destination")]
    enabled: Annotated[bool, Meta(description="false: pages do not load it")] = True
    where: Annotated[Any, Meta(description="conditions an event must meet in the page")] = None
    integrations: Annotated[bool, Meta(description="false: an event's `integrations` object cannot exclude it")] = True
    consent: Annotated[list[str], Meta(description="categories that the visitor must have granted")] = []


def goes_to_device(entry: object, document: Mapping[str, Any]) -> bool:
    """Whether an entry of `connections` names a device destination of the project file."""
    destinations = document.get("destinations")
    if not isinstance(entry, Mapping) or not isinstance(destinations, Mapping):
        return False
    name = entry.get("destination")
    return isinstance(name, str) and is_device(destinations.get(name))


def of_services(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the connections of a document without those to device destinations."""
    entries = document.get("connections") or {}
    return {name: entry for name, entry in entries.items() if not goes_to_device(entry, document)}


def read_device_connection(name: str, entry: Mapping[str, Any], others: Collection[str]) -> DeviceConnection:
    """Returns the connection.

    Args:
        others: the fields of connections to other destinations, to tell what means nothing here from what is unknown.

    Raises:
        ConfigError: with every problem, each with its path.
    """
    path = f"connections.{name}"
    known = DeviceConnection.__struct_fields__
    problems: list[Problem] = []
    for key in entry:
        if key in known:
            continue
        if key in others:
            text = f"means nothing here: the destination {IN_THE_BROWSER}, where only {', '.join(known)} count; take it out"
        else:
            text = f"unknown key;{meant(str(key), known)} known: {', '.join(known)}"
        problems.append(Problem(f"{path}.{key}", text))
    problems.extend(_of_services(entry.get("where"), f"{path}.where"))
    found = None
    try:
        found = decode({key: value for key, value in entry.items() if key in known}, DeviceConnection, path)
    except ConfigError as exc:
        problems.extend(exc.problems)
    if problems or found is None:
        raise ConfigError(problems)
    return found


def check_devices(
    devices: Mapping[str, DeviceConnection],
    destinations: Mapping[str, Mapping[str, Any]],
    sites: Mapping[str, object],
    *,
    stored: bool = False,
) -> list[Problem]:
    """Returns the faults of device destinations and of the connections to them.

    Args:
        stored: it was applied already, perhaps by an earlier version: options that are refused today leave out their device only.
    """
    problems: list[Problem] = []
    for name, document in destinations.items():
        if is_device(document) and not stored:
            try:
                parse_device(name, document)
            except ConfigError as exc:
                problems.extend(exc.problems)
    for name, connection in devices.items():
        path = f"connections.{name}"
        if connection.site not in sites:
            close = meant(connection.site, sites)
            known = ", ".join(sorted(sites)) or "none"
            problems.append(Problem(f"{path}.site", f"no site is named {connection.site!r};{close} known: {known}"))
    return problems


def _of_services(where: object, path: str) -> Iterator[Problem]:
    """Yields the conditions that only a service can judge."""
    if isinstance(where, list):
        for index, each in enumerate(where):
            yield from _of_services(each, f"{path}[{index}]")
    elif isinstance(where, Mapping):
        if "regex" in where:
            yield Problem(f"{path}.regex", "browsers do not read RE2; use `matches`, a glob")
        for word in ("all", "any", "not"):
            if word in where:
                yield from _of_services(where[word], f"{path}.{word}")
