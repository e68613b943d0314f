"""What the fields of connections cannot tell one by one: names that nothing has, and bounds that mean nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared.errors import Problem
from shared.project.functions import check_rules_of_events
from shared.project.identity import check_identity
from shared.project.lookups import check_uses
from shared.project.problems import MISSING, check_source
from shared.reading.decode import meant

if TYPE_CHECKING:
    from shared.project.model import Project

LONGEST_TIMEOUT_SECONDS = 60


def check_references(path: str, entry: Any, document: Mapping[str, Any]) -> list[Problem]:
    """Returns the references of a connection that lead nowhere, where it has other faults."""
    problems: list[Problem] = []
    for what in ("site", "destination"):
        name, known = entry.get(what) if isinstance(entry, dict) else None, document.get(f"{what}s") or {}
        if isinstance(name, str) and isinstance(known, dict) and name not in known:
            problems.append(Problem(f"{path}.{what}", _unknown(what, name, known)))
    if isinstance(entry, dict) and not entry.keys() & {"site", "from"}:
        problems.append(Problem(f"{path}.site", MISSING))
    return problems


def check_connections(project: Project) -> list[Problem]:
    """Returns everything that is wrong, each with its path and what to write instead."""
    problems: list[Problem] = []
    for name, connection in project.connections.items():
        path = f"connections.{name}"
        problems.extend(check_source(path, connection))
        if connection.site and connection.from_ is None and connection.site not in project.sites:
            problems.append(Problem(f"{path}.site", _unknown("site", connection.site, project.sites)))
        if connection.destination not in project.destinations:
            problems.append(Problem(f"{path}.destination", _unknown("destination", connection.destination, project.destinations)))
        for index, function in enumerate(connection.functions):
            if function not in project.functions:
                problems.append(Problem(f"{path}.functions[{index}]", _unknown("function", function, project.functions)))
        if not 1 <= connection.batch.period <= 86_400:
            problems.append(Problem(f"{path}.batch.period", f"expected 1s to 24h, got {connection.batch.period:g}s"))
        limit = connection.dead_limit
        if limit != "off" and not 1 <= limit.period <= 86_400:
            problems.append(Problem(f"{path}.dead_limit.period", f"expected 1s to 24h, got {limit.period:g}s"))
        if not 0.01 <= connection.function_timeout <= LONGEST_TIMEOUT_SECONDS:
            text = f"expected 10ms to {LONGEST_TIMEOUT_SECONDS}s, got {connection.function_timeout:g}s"
            problems.append(Problem(f"{path}.function_timeout", text))
        if connection.deduplicate and connection.primary_key == []:
            problems.append(Problem(f"{path}.primary_key", "deduplicate needs at least one column; or set deduplicate: false"))
        problems.extend(check_rules_of_events(path, connection.privacy))
        problems.extend(check_uses(path, connection, project.lookups))
        problems.extend(check_identity(path, connection))
    for name, destination in project.destinations.items():
        if not isinstance(destination.get("type"), str):
            problems.append(
                Problem(f"destinations.{name}.type", "expected the name of a destination type, such as duckdb or postgres")
            )
    for name, connector in project.connectors.items():
        if not isinstance(connector.get("type"), str):
            problems.append(Problem(f"connectors.{name}.type", "expected the name of a connector type, such as airbyte"))
    for name, feed in project.feeds.items():
        if not isinstance(feed.get("type"), str):
            problems.append(Problem(f"feeds.{name}.type", "expected the name of a feed type, such as kafka"))
        if not isinstance(feed.get("site"), str):
            problems.append(Problem(f"feeds.{name}.site", "expected the name of the site whose events the records become"))
        elif feed["site"] not in project.sites:
            problems.append(Problem(f"feeds.{name}.site", _unknown("site", feed["site"], project.sites)))
    return problems


def _unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    return f"no {what} is named {name!r};{meant(name, known)} known: {', '.join(sorted(known)) or 'none'}"
