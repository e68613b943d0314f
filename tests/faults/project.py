"""The project of the fault tests: one site, and connections as each test wants them; and the environment of the services."""

from __future__ import annotations

import os
from typing import Any

from tests.support.sender import KEY

SITE = "shop"

ROUNDS = int(os.environ.get("PENSTOCK_FAULT_ROUNDS", "1"))
"""How many times longer the random schedules are."""

QUICK = {"PENSTOCK_INGEST_DEADLINE": "4s"}
"""Environment of stacks whose broker dies often: clients wait for less."""


def project(connections: dict[str, dict[str, Any]], destinations: dict[str, dict[str, Any]], **site: Any) -> dict[str, Any]:
    """Returns the document of a project with the site `shop`.

    Args:
        connections: their options on top of `batch()` or `stream()`.
        site: options of the site.
    """
    return {
        "sites": {SITE: {"keys": [{"id": KEY, "kind": "server"}], **site}},
        "destinations": destinations,
        "connections": {name: {"site": SITE, **options} for name, options in connections.items()},
    }


def batch(destination: str, **options: Any) -> dict[str, Any]:
    """Returns a connection that appends every second: no primary key hides a repeat."""
    return {
        "destination": destination,
        "mode": "batch",
        "batch": {"period": "1s"},
        "layout": "single_table",
        "deduplicate": False,
        **options,
    }


def stream(destination: str, **options: Any) -> dict[str, Any]:
    """Returns a connection that appends at once."""
    return {"destination": destination, "mode": "stream", "layout": "single_table", "deduplicate": False, **options}


def merging(connection: dict[str, Any]) -> dict[str, Any]:
    """Returns the same connection with a merge on its key."""
    return {**connection, "deduplicate": True}
