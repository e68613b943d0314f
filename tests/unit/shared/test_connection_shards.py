"""Shards of connections: each is a connection to services, and none that cannot be is applied."""

from __future__ import annotations

from typing import Any

import pytest

from loader.watch.balance import shared_connections
from shared.errors import ConfigError
from shared.project.read import decode_project
from shared.project.shards import connection_of_shard, most_shards, number_of_shard, shard_names
from shared.project.snapshot import StoredProject

PG = {"type": "postgres", "dsn": "postgres://x"}


def document(**connection: Any) -> dict[str, Any]:
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"pg": PG, "duck": {"type": "duckdb", "path": "x"}, "hook": {"type": "webhook", "url": "https://x"}},
        "connections": {"wh": {"site": "shop", "destination": "pg", **connection}},
    }


def test_each_shard_is_a_connection_with_a_queue_of_its_own() -> None:
    stored = StoredProject(
        {}, document(shards=2, functions=[]), incarnations={"wh": "7-ab"}, functions_queues=["wh.7-ab"], shards={"wh": 3}
    )
    snapshot = stored.snapshot(9)
    names = list(snapshot.project.connections)
    assert names == ["wh", "wh=2", "wh=3"]
    assert [snapshot.queue_of(name) for name in names] == ["wh.7-ab", "wh=2.7-ab", "wh=3.7-ab"]
    assert all(snapshot.takes_functions_way(name) for name in names)
    assert [(connection_of_shard(name), number_of_shard(name)) for name in names] == [("wh", 0), ("wh", 1), ("wh", 2)]
    assert shard_names(names, "wh") == names
    assert shard_names(names, "wh=2") == ["wh=2"]
    # two of them get events, and loaders share these out; the third loads what it has
    assert shared_connections(snapshot) == {"wh": ["wh", "wh=2"]}


def test_a_connection_without_shards_is_as_it_was() -> None:
    snapshot = StoredProject({}, document(), incarnations={"wh": "7-ab"}).snapshot(9)
    assert list(snapshot.project.connections) == ["wh"]
    assert snapshot.queue_of("wh") == "wh.7-ab"
    assert shared_connections(snapshot) == {}


def test_former_shards_stay_until_the_connection_is_removed() -> None:
    known = {"wh": "7-ab"}
    assert most_shards({}, {"wh": {"shards": 3}}, known, known) == {"wh": 3}
    assert most_shards({"wh": 3}, {"wh": {"shards": 2}}, known, known) == {"wh": 3}
    assert most_shards({"wh": 3}, {"wh": {}}, known, known) == {"wh": 3}
    assert most_shards({"wh": 3}, {"wh": {}}, {"wh": "9-cd"}, known) == {}
    assert most_shards({"wh": 3}, {}, {}, known) == {}


@pytest.mark.parametrize(
    ("connection", "told"),
    [
        ({"destination": "duck"}, "type duckdb takes one loader for each connection; take `shards` out"),
        ({"destination": "hook"}, "type webhook takes one loader for each connection; take `shards` out"),
        ({"identity": {}}, "`identity` needs all events of a visitor in one loader"),
    ],
)
def test_shards_that_cannot_be_are_refused_with_their_place(connection: dict[str, Any], told: str) -> None:
    wanted = document(**{"shards": 2, **connection})
    with pytest.raises(ConfigError) as caught:
        decode_project(wanted)
    (problem,) = caught.value.problems
    assert problem.path == "connections.wh.shards"
    assert told in str(problem)
    decode_project({**wanted, "connections": {"wh": {**wanted["connections"]["wh"], "shards": 1}}})


@pytest.mark.parametrize("shards", [0, 17, "2"])
def test_the_number_is_bounded(shards: Any) -> None:
    with pytest.raises(ConfigError, match=r"connections\.wh\.shards"):
        decode_project(document(shards=shards))
