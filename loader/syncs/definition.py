"""The syncs of a project as the loader sees them, and the names under which a sync is known outside of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from shared.project.snapshot import ConfigSnapshot

LEASES = "loader-sync"
"""How names of leases begin."""


class Definition(NamedTuple):
    """All that decides how a sync is loaded; a new value means a new start."""

    destination: str
    document: dict[str, Any]
    """The entry of the destination in the project file."""


def definitions(snapshot: ConfigSnapshot) -> dict[str, Definition]:
    """Returns the definitions of all enabled syncs."""
    project = snapshot.project
    return {
        name: Definition(sync.destination, project.destinations[sync.destination])
        for name, sync in project.syncs.items()
        if sync.enabled
    }


def lane_of(run: int) -> str:
    """Returns the lane of a run in the ledger; its sequences are the numbers of batches."""
    return f"sync-{run}"
