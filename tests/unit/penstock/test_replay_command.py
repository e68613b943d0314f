"""`penstock replay`: which connections double rows."""

from __future__ import annotations

from penstock.commands.replay import appending
from shared.project import decode_project


def test_connections_that_append_are_named_whatever_makes_them_append() -> None:
    project = decode_project(
        {
            "sites": {"shop": {}, "blog": {}},
            "destinations": {"wh": {"type": "duckdb", "path": "a"}, "lake": {"type": "local", "path": "b"}},
            "connections": {
                "merges": {"site": "shop", "destination": "wh"},
                "appends": {"site": "shop", "destination": "wh", "deduplicate": False},
                "files": {"site": "shop", "destination": "lake"},
                "off": {"site": "shop", "destination": "lake", "enabled": False},
                "elsewhere": {"site": "blog", "destination": "lake"},
            },
        }
    )
    assert appending(project, "shop", None) == ["appends", "files"]
    assert appending(project, "shop", "merges") == []
    assert appending(project, "blog", None) == ["elsewhere"]
