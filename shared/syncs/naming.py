"""The name that a sync has beside connections: in ledgers, and in dead letters. Pure."""

from __future__ import annotations

_PREFIX = "sync:"


def known_as(sync: str) -> str:
    """Returns the name of a sync in ledgers and dead letters; no connection of a project has a colon in its name."""
    return f"{_PREFIX}{sync}"


def is_of_sync(name: str | None) -> bool:
    """Whether a name in ledgers and dead letters is that of a sync."""
    return bool(name and name.startswith(_PREFIX))


def sync_of(name: str) -> str:
    """Returns the sync that is known by this name."""
    return name.removeprefix(_PREFIX)
