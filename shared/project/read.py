"""From the text of a project file to a checked `Project`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from shared.devices.connections import DeviceConnection, check_devices, goes_to_device, read_device_connection
from shared.errors import ConfigError, Problem
from shared.project.archive import ArchiveOptions
from shared.project.checks.alerts import check_alerts
from shared.project.checks.connections import check_connections, check_references
from shared.project.checks.sites import check_sites
from shared.project.functions import Function, check_functions
from shared.project.lookups import Lookup, check_lookups
from shared.project.model import NAME, NAME_RULE, Connection, Project, Site
from shared.project.problems import settle
from shared.project.shards import check_shards
from shared.project.syncs import Sync, check_sync_references, check_syncs
from shared.project.tracking import TrackingPlan, check_plans
from shared.project.variables import interpolate
from shared.project.webhooks import Webhook, check_webhooks
from shared.reading.decode import decode, kind_of, meant

_REMOVED = (("connections", "*", "batch", "threads"),)
"""Options that earlier versions took although they did nothing."""

_CONNECTION_FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(Connection))


def decode_project(document: Mapping[str, Any], *, stored: bool = False) -> Project:
    """Returns the checked project of an interpolated document.

    Args:
        stored: it was applied already, perhaps by an earlier version: options that no longer exist are left out, and a site that
            `check_sites` would refuse today goes on.

    Raises:
        ConfigError: with every problem found; each names its path.
    """
    if stored:
        document = without_removed(document)
    problems: list[Problem] = []
    devices: dict[str, DeviceConnection] = {}
    shapes: dict[str, type] = {
        "sites": Site,
        "destinations": dict[str, Any],
        "functions": Function,
        "connections": Connection,
        "connectors": dict[str, Any],
        "syncs": Sync,
        "feeds": dict[str, Any],
        "lookups": Lookup,
        "tracking_plans": TrackingPlan,
        "webhooks": Webhook,
        "alerts": dict[str, Any],
    }
    parts: dict[str, Any] = {key: value for key, value in document.items() if key not in (*shapes, "archive")}
    if document.get("archive") is not None:
        wanted: Any = ArchiveOptions | Literal["off"]
        try:
            parts["archive"] = decode(document["archive"], wanted, "archive")
        except ConfigError as exc:
            problems.extend(exc.problems)
    for kind, type_ in shapes.items():
        entries = document.get(kind) or {}
        if not isinstance(entries, dict):
            problems.append(Problem(kind, f"expected a mapping of names to {kind}, got {kind_of(entries)}"))
            continue
        parts[kind] = {}
        for name, entry in entries.items():
            try:
                if kind == "connections" and goes_to_device(entry, document):
                    devices[str(name)] = read_device_connection(str(name), entry, _CONNECTION_FIELDS)
                else:
                    parts[kind][str(name)] = decode(entry, type_, f"{kind}.{name}")
            except ConfigError as exc:
                problems.extend(exc.problems)
                if kind == "connections":
                    problems.extend(check_references(f"{kind}.{name}", entry, document))
                if kind == "syncs" and isinstance(entry, dict):
                    problems.extend(_sync_references(f"{kind}.{name}", entry, document))
    problems.extend(
        Problem(str(key), f"unknown key;{meant(str(key), shapes)} known: {', '.join(shapes)}, archive")
        for key in parts
        if key not in shapes and key != "archive"
    )
    if problems:
        raise ConfigError(problems)
    parts["connections"] = {name: settle(each) for name, each in parts.get("connections", {}).items()}
    project = Project(**parts, devices=devices)
    problems = [
        *_check_names(project),
        *([] if stored else check_sites(project.sites)),
        *check_functions(project.functions),
        *check_connections(project),
        *([] if stored else _check_shards(project)),
        *check_devices(project.devices, project.destinations, project.sites, stored=stored),
        *check_lookups(project),
        *check_syncs(project),
        *check_webhooks(project),
        *check_alerts(project),
        *check_plans(project),
    ]
    if problems:
        raise ConfigError(problems)
    return project


def without_removed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a document of an earlier version without the options that no longer exist."""
    left: dict[str, Any] = dict(document)
    for path in _REMOVED:
        left = _without(left, path)
    return left


def _without(value: Any, path: Sequence[str]) -> Any:
    if not isinstance(value, dict):
        return value
    name, rest = path[0], path[1:]
    if not rest:
        return {key: item for key, item in value.items() if key != name}
    return {key: _without(item, rest) if name in ("*", key) else item for key, item in value.items()}


def load_project(text: str, environment: Mapping[str, str] | None = None) -> Project:
    """Reads, interpolates, decodes and checks a project file.

    Raises:
        ConfigError: with every problem found; each names its path.
    """
    from shared.reading.document import parse_document  # services read no YAML

    return decode_project(interpolate(parse_document(text), environment))


def _sync_references(path: str, entry: Mapping[str, Any], document: Mapping[str, Any]) -> list[Problem]:
    connectors, destinations = (
        found if isinstance(found := document.get(kind), dict) else {} for kind in ("connectors", "destinations")
    )
    return list(
        check_sync_references(
            path,
            connector=entry.get("connector"),
            destination=entry.get("destination"),
            connectors=connectors,
            destinations=destinations,
        )
    )


def _check_shards(project: Project) -> list[Problem]:
    return [
        problem
        for name, connection in project.connections.items()
        for problem in check_shards(f"connections.{name}", connection, project.destinations)
    ]


def _check_names(project: Project) -> list[Problem]:
    return [
        Problem(f"{kind}.{name}", NAME_RULE)
        for kind in (
            "sites",
            "destinations",
            "functions",
            "connections",
            "connectors",
            "syncs",
            "feeds",
            "lookups",
            "tracking_plans",
            "webhooks",
            "alerts",
        )
        for name in (*getattr(project, kind), *(project.devices if kind == "connections" else ()))
        if not NAME.fullmatch(name)
    ]
