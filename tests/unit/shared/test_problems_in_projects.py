"""`from: dead` and `from: warnings` instead of a site."""

from __future__ import annotations

import pytest

from shared.errors import ConfigError
from shared.project.read import load_project
from shared.project.snapshot import StoredProject, _incarnations

START = """
sites: {shop: {}}
destinations: {wh: {type: duckdb, path: wh.duckdb}}
connections:
  c: {destination: wh, """


def test_a_source_of_problems_stands_for_a_reserved_site_a_table_and_a_key() -> None:
    project = load_project(START + "from: dead}")
    connection = project.connections["c"]
    assert (connection.site, connection.table, connection.primary_key) == ("_dead", "dead_letters", ["store", "letter"])
    assert list(project.sites) == ["shop"], "the edge must not know the reserved site"
    assert list(project.every_site) == ["shop", "_dead"]
    warnings = load_project(START + "from: warnings}").connections["c"]
    assert (warnings.site, warnings.table, warnings.primary_key) == ("_warnings", "ingestion_warnings", None)


def test_options_of_the_connection_come_first() -> None:
    own = load_project(START + "from: dead, table: mine, primary_key: [id]}").connections["c"]
    assert (own.table, own.primary_key) == ("mine", ["id"])
    passed = load_project(START + "from: dead, layout: passthrough}").connections["c"]
    assert passed.primary_key is None, "that layout has no such columns"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "mode: stream}",
            "connections.c.site: expected the name of a site; or `from: dead`, `from: warnings` or `from: violations` instead",
        ),
        ("site: shop, from: dead}", "connections.c.from: a connection has either a site or `from`; take one of them out"),
        ("from: deed}", "connections.c.from: expected one of dead, warnings, violations, got 'deed'; did you mean `dead`?"),
        ("site: _dead}", "connections.c.site: no site is named '_dead'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(START + text)
    assert expected in str(caught.value)


def test_a_connection_with_another_source_is_another_connection() -> None:
    def stored(**connection: str) -> StoredProject:
        return StoredProject({}, {"connections": {"c": {"destination": "wh", **connection}}}, incarnations={"c": "1-a"})

    sources = ({"site": "shop"}, {"from": "dead"}, {"from": "warnings"}, {"from": "violations"})
    for before in sources:
        for after in sources:
            kept = _incarnations(stored(**before), stored(**after), 2)["c"] == "1-a"
            assert kept == (before == after)
