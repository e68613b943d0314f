"""`penstock replay`: which connections double rows, and how an interrupted one goes on."""

from __future__ import annotations

from datetime import UTC, datetime

from click.testing import CliRunner

from penstock.command.verbs.replay import appending, range_options, replay
from penstock.control.moments import Moment
from shared.project.read import decode_project


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


def test_the_options_of_a_range_give_the_same_range_again() -> None:
    at = datetime.fromtimestamp(Moment().convert("2h", None, None), UTC)
    assert range_options(3, None) == "--from-seq 3"
    name, text = range_options(at, None).split()
    assert (name, datetime.fromtimestamp(Moment().convert(text, None, None), UTC)) == ("--from", at)
    assert range_options(at, 9) == f"--from {text} --to-seq 9"


def test_what_was_lost_has_no_range() -> None:
    for option in (["--from", "2h"], ["--to-seq", "9"], ["--id", "r"], ["--where", "{field: type, eq: track}"]):
        found = CliRunner().invoke(replay, ["--site", "shop", "--lost", "--url", "nats://127.0.0.1:1", *option])
        assert (found.exit_code, "--lost finds its range itself" in found.output) == (2, True), found.output
