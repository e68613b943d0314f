"""The last change of a connection's rules or target, from the revisions of the project that the broker keeps. Pure.

Events that were accepted before that were routed by other rules or loaded into another place, so the present project does not
tell whether they must be there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from penstock.control.moments import epoch_of
from shared.jetstream.topology import KEPT_REVISIONS
from shared.project.shards import connection_of_shard
from shared.project.snapshot import ConfigSnapshot, StoredProject

SETTLE_SECONDS = 30.0
"""How long after a revision a service may still have worked by the one before."""
WITHOUT_EFFECT = ("batch", "mode", "backfill", "shards")
"""Options of a connection that change neither its events nor its target."""


class Change(NamedTuple):
    """The newest change of a connection: the part, the revision, and the time (epoch seconds)."""

    what: str
    revision: int
    at_seconds: float

    def covers(self, accepted_at: float) -> bool:
        """Whether an event that was accepted then may have been routed or loaded as before the change."""
        return accepted_at < self.at_seconds + SETTLE_SECONDS


def changes(snapshot: ConfigSnapshot, history: Sequence[tuple[int, StoredProject]]) -> dict[str, Change]:
    """Returns the connections of a snapshot that were changed since they were added.

    Args:
        history: the revisions that are kept, the newest last.
    """
    kept = [(revision, stored) for revision, stored in history if revision <= snapshot.revision]
    found: dict[str, Change] = {}
    for name in snapshot.project.connections:
        change = _newest(name, snapshot.incarnations.get(name, ""), kept)
        if change is not None:
            found[name] = change
    return found


def _newest(shard: str, incarnation: str, kept: Sequence[tuple[int, StoredProject]]) -> Change | None:
    name = connection_of_shard(shard)
    for (_, before), (revision, after) in zip(reversed(kept[:-1]), reversed(kept[1:]), strict=True):
        if name not in _section(before, "connections") or before.incarnations.get(name, "") != incarnation:
            return None  # it was added here
        told = _parts(before, name)
        for what, part in _parts(after, name).items():
            if told[what] != part:
                return Change(what, revision, _time_of(after))
    if len(kept) >= KEPT_REVISIONS:  # the revision that added it, or changed it, may be forgotten
        return Change("something", kept[0][0], _time_of(kept[0][1]))
    return None


def _time_of(stored: StoredProject) -> float:
    at = epoch_of(stored.applied_at)
    return math.inf if at is None else at


def _parts(stored: StoredProject, name: str) -> dict[str, Any]:
    """Returns the parts that decide about a connection's events, by name."""
    connection = _section(stored, "connections").get(name) or {}
    site = _section(stored, "sites").get(connection.get("site")) or {}
    functions = _section(stored, "functions")
    return {
        "its destination": (connection.get("destination"), _section(stored, "destinations").get(connection.get("destination"))),
        "the connection": {key: value for key, value in connection.items() if key not in WITHOUT_EFFECT},
        "its functions": [(functions.get(name) or {}).get("code") for name in connection.get("functions") or []],
        "its lookups": [_section(stored, "lookups").get(use.get("table")) for use in connection.get("lookups") or []],
        "its webhooks' hydration": {
            hook: each["hydrate"]
            for hook, each in _section(stored, "webhooks").items()
            if each.get("site") == connection.get("site") and each.get("hydrate") is not None
        },
        "its site's dedupe_window": site.get("dedupe_window"),
        "its site's `where`": site.get("where"),
        "its site's tracking plan": _section(stored, "tracking_plans").get(site.get("tracking_plan")),
    }


def _section(stored: StoredProject, kind: str) -> Mapping[Any, Any]:
    section: Mapping[Any, Any] = stored.resolved.get(kind) or {}
    return section
