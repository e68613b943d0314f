"""The shards of a connection: several loaders share one connection, and the key of an event's user decides between them. Pure.

Services know each shard as a connection of its own. So it has its own queue, lease, ledger, dead letters and counts, and every rule about
connections holds for it. The first shard has the connection's name, the second one is `shop-wh=2`; no name in a project file has an `=`. The
project file, `plan` and `export` know the connection alone.

`StoredProject` remembers the most shards that a connection ever had. A shard that is no longer wanted stays: it gets no new events, and
loads what it has. docs/decisions/connection_shards.md says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from shared.errors import Problem
from shared.jetstream import topology

if TYPE_CHECKING:
    from shared.project.model import Connection, Project

DESTINATIONS = ("clickhouse", "mysql", "postgres")
"""Types of destinations into which several loaders may load one connection."""
_MARK = "="


def shard_name(connection: str, number: int) -> str:
    """Returns the name of a shard; `number` counts from 0."""
    return f"{connection}{_MARK}{number + 1}" if number else connection


def connection_of_shard(name: str) -> str:
    """Returns the connection in the project file that a shard belongs to; of any other connection its own name."""
    return name.partition(_MARK)[0]


def number_of_shard(name: str) -> int:
    """Returns the number of a shard, from 0 on; 0 for a connection without shards."""
    number = name.partition(_MARK)[2]
    return int(number) - 1 if number else 0


def shard_names(connections: Iterable[str], name: str) -> list[str]:
    """Returns those of some connections that are a named one, or shards of it."""
    return [each for each in connections if name in (each, connection_of_shard(each))]


def most_shards(
    before: Mapping[str, int], after: Mapping[str, Any], incarnations: Mapping[str, str], known: Mapping[str, str]
) -> dict[str, int]:
    """Returns by connection how many shards it has, or had since it was added; connections with one are left out.

    Args:
        before: the same of the revision before.
        after: the connections of the document.
        incarnations, known: of the connections now, and in the revision before.
    """
    found: dict[str, int] = {}
    for name, entry in after.items():
        former = before.get(name, 1) if name in known and known[name] == incarnations.get(name) else 1
        most = max(former, entry.get("shards") or 1)
        if most > 1:
            found[name] = most
    return found


def spread(
    project: Project, incarnations: Mapping[str, str], functions_queues: Iterable[str], most: Mapping[str, int]
) -> tuple[Project, Mapping[str, str], frozenset[str]]:
    """Returns a project, its incarnations and its queues before functions with each shard as a connection."""
    queues = set(functions_queues)
    if not most:
        return project, incarnations, frozenset(queues)
    connections: dict[str, Connection] = {}
    spread_incarnations = dict(incarnations)
    for name, connection in project.connections.items():
        for number in range(most.get(name, 1)):
            shard = shard_name(name, number)
            connections[shard] = connection
            if number and name in incarnations:
                spread_incarnations[shard] = incarnations[name]
                if topology.queue_of(name, incarnations[name]) in queues:
                    queues.add(topology.queue_of(shard, incarnations[name]))
    return msgspec.structs.replace(project, connections=connections), spread_incarnations, frozenset(queues)


def check_shards(path: str, connection: Connection, destinations: Mapping[str, Mapping[str, Any]]) -> Sequence[Problem]:
    """Returns why a connection cannot have the shards that it asks for."""
    if connection.shards == 1:
        return ()
    problems: list[Problem] = []
    type_ = destinations.get(connection.destination, {}).get("type")
    if isinstance(type_, str) and type_ not in DESTINATIONS:
        text = (
            f"a destination of type {type_} takes one loader for each connection; take `shards` out, or load into one of type "
            f"{', '.join(DESTINATIONS)}"
        )
        problems.append(Problem(f"{path}.shards", text))
    if connection.identity is not None:
        text = "`identity` needs all events of a visitor in one loader, and shards part them by user; take `shards` out"
        problems.append(Problem(f"{path}.shards", text))
    return problems
