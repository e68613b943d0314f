"""Writes the catalogue as sources of dbt: the tables and columns that a connection makes of the events, by the names that its loader gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loader import registry
from loader.contract.warehouse import Capabilities
from loader.types.names import Namer
from penstock.control.catalogue.forms import columns_of
from penstock.control.catalogue.read import SeenEvent
from shared.errors import ConfigError, Problem
from shared.project.model import Project

TABLES = {
    "track": "tracks",
    "identify": "identifies",
    "page": "pages",
    "screen": "screens",
    "group": "groups",
    "alias": "aliases",
}
EVERY = ("id", "anonymous_id", "user_id", "received_at", "sent_at", "original_timestamp", "timestamp")
_TOP = ("properties", "traits")


def sources(project: Project, events: Sequence[SeenEvent], site: str, connection: str | None = None) -> dict[str, Any]:
    """Returns the content of a file of sources.

    Args:
        connection: whose tables; None: the first of the site with the layout `segment` and tables.

    Raises:
        ConfigError: there is no such connection.
    """
    name = connection or next((each for each in project.connections if _makes_tables(project, each, site)), None)
    if name is None or not _makes_tables(project, name, site):
        known = ", ".join(each for each in project.connections if _makes_tables(project, each, site)) or "none"
        text = f"expected a connection of site {site!r} with the layout segment and tables; known: {known}"
        raise ConfigError([Problem("--connection", text)])
    chosen = project.connections[name]
    document = project.destinations[chosen.destination]
    capabilities = registry.takes_tables(str(document.get("type")))
    assert capabilities is not None  # noqa: S101  # `_makes_tables` says so
    namer = Namer(capabilities, chosen.original_names)
    tables: dict[str, dict[str, str]] = {}
    for event in events:
        if event.type == "track" and event.event:
            tables.setdefault("tracks", dict.fromkeys(EVERY, "") | {"event": "", "event_text": ""})
            _add(tables, namer.table(event.event), event, namer)
        elif event.type in TABLES:
            _add(tables, TABLES[event.type], event, namer)
    return {
        "version": 2,
        "sources": [
            {
                "name": site.replace("-", "_"),
                "schema": str(document.get("schema") or document.get("database") or "main"),
                "loaded_at_field": "received_at",
                "tables": [
                    {
                        "name": table,
                        "columns": [
                            {"name": column, **({"description": f"seen as {types}"} if types else {})}
                            for column, types in columns.items()
                        ],
                    }
                    for table, columns in sorted(tables.items())
                ],
            }
        ],
    }


def _makes_tables(project: Project, name: str, site: str) -> bool:
    connection = project.connections.get(name)
    if connection is None or connection.site != site or connection.layout != "segment" or connection.table:
        return False
    kind = str(project.destinations[connection.destination].get("type"))
    return isinstance(registry.takes_tables(kind), Capabilities)


def _add(tables: dict[str, dict[str, str]], table: str, event: SeenEvent, namer: Namer) -> None:
    columns = tables.setdefault(table, dict.fromkeys(EVERY, ""))
    for keys, types in columns_of(event):
        column = namer.column([namer.part(key) for key in (keys[1:] if keys[0] in _TOP else keys)])
        columns.setdefault(column, types)
