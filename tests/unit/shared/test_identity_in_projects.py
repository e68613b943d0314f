"""`identity` in a project file: what is taken, and what is refused with its place and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import ConfigError
from shared.project.identity import Identity
from shared.project.read import decode_project
from shared.project.snapshot import StoredProject, _functions_queues
from shared.reading.units import ByteSize, Duration


def document(**connection: Any) -> dict[str, Any]:
    return {
        "sites": {"shop": {}},
        "destinations": {"wh": {"type": "duckdb"}},
        "connections": {"c": {"site": "shop", "destination": "wh", **connection}},
    }


def test_it_has_defaults_and_takes_the_way_of_functions() -> None:
    connection = decode_project(document(identity={})).connections["c"]
    assert connection.identity == Identity()
    assert connection.through_functions
    assert decode_project(document()).connections["c"].identity is None
    given = {"look_back": "1h", "max_events": 5, "max_bytes": "64KiB", "forward": False}
    found = decode_project(document(identity=given)).connections["c"].identity
    assert found == Identity(look_back=Duration(3600), max_events=5, max_bytes=ByteSize(65_536), forward=False)


def test_frames_go_before_functions_also_with_all_defaults() -> None:
    stored = StoredProject({}, document(identity={}))
    assert _functions_queues(StoredProject({}, {}), stored, {"c": "1"}) == ["c.1"]
    assert _functions_queues(StoredProject({}, {}), StoredProject({}, document()), {"c": "1"}) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"identity": {"look_back": "91d"}}, "connections.c.identity.look_back: expected 1s to 90d"),
        ({"identity": {"look_back": 0}}, "connections.c.identity.look_back: expected 1s to 90d"),
        ({"identity": {"max_bytes": "2MiB"}}, "connections.c.identity.max_bytes: expected 1KiB to 1MiB"),
        ({"identity": {"max_events": 0}}, "connections.c.identity.max_events"),
        ({"identity": {"lookback": "7d"}}, "did you mean `look_back`"),
        ({"deduplicate": False}, "connections.c.deduplicate: .*set deduplicate: true, or take `identity` out"),
        ({"primary_key": ["id", "user_id"]}, "connections.c.primary_key: .*choose other columns"),
        ({"primary_key": ["userId"]}, "connections.c.primary_key"),
        ({"table": "{{ 'known' if event.userId else 'unknown' }}"}, "connections.c.table: .*leave userId out of it"),
        ({"privacy": [{"field": "userId", "do": "drop"}]}, r"connections.c.privacy\[0\]: .*by userId, .*use `do: hash`"),
        (
            {"privacy": [{"field": "traits.a", "do": "drop"}, {"field": "**.anonymousId", "do": "encrypt", "key": "k"}]},
            r"connections.c.privacy\[1\]: .*by anonymousId",
        ),
        ({"privacy": [{"field": "*", "do": "truncate"}]}, r"connections.c.privacy\[0\]"),
    ],
)
def test_what_cannot_be_stitched_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        decode_project(document(**{"identity": {}, **options}))


@pytest.mark.parametrize(
    "options",
    [
        {"privacy": [{"field": "userId", "do": "hash", "secret": "s"}, {"field": "properties.userId", "do": "drop"}]},
        {"primary_key": ["id", "received_at"]},
        {"table": "{{ event.type }}"},
    ],
)
def test_what_leaves_both_ids_alone_is_taken(options: dict[str, Any]) -> None:
    assert decode_project(document(identity={}, **options)).connections["c"].identity
