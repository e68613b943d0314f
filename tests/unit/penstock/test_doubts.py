"""What a plan warns of although it is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.project.doubts import doubts, misspelt_types
from shared.project.read import decode_project


def said(*connections: dict[str, Any]) -> list[str]:
    document = {
        "sites": {"shop": {}},
        "destinations": {"wh": {"type": "duckdb"}, "other": {"type": "duckdb"}},
        "connections": {f"c{n}": {"site": "shop", "destination": "wh", **each} for n, each in enumerate(connections)},
    }
    return [str(doubt) for doubt in doubts(decode_project(document))]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"field": "property.total", "gt": 1}, "connections.c0.where.field: events seldom have a key 'property'; did you mean 'properties'?"),
        ([{"any": [{"not": {"field": ["Context", "ip"], "exists": True}}]}], "connections.c0.where[0].any[0].not.field"),
    ],
)  # fmt: skip
def test_a_field_that_looks_misspelt_is_named(where: Any, words: str) -> None:
    (doubt,) = said({"where": where})
    assert words in doubt


@pytest.mark.parametrize("field", ["properties.total", "tenant", "order_id", "context.page.url", "name"])
def test_a_field_of_the_clients_own_is_not_doubted(field: str) -> None:
    assert said({"where": {"field": field, "exists": True}}) == []


def test_two_connections_that_want_other_keys_of_one_table_are_named() -> None:
    (doubt,) = said({"primary_key": ["a"]}, {"primary_key": ["b"]})
    assert doubt.startswith("connections.c1.primary_key: connection 'c0' loads tables of the same names")
    (doubt,) = said({}, {"deduplicate": False})
    assert "deduplicate" in doubt
    assert said({}, {}) == []
    assert said({"primary_key": ["a"]}, {"primary_key": ["b"], "destination": "other"}) == []
    assert said({"primary_key": ["a"]}, {"primary_key": ["b"], "table": "mine"}) == []


def test_an_sql_type_that_looks_misspelt_is_refused() -> None:
    types = {
        "price": "numerik(12,2)", "id": "UUID", "n": "Numeric (12, 2)", "tags": "text[]", "own": "my_domain", "v": "vector(3)",
        "mine": "public.numerik",
    }  # fmt: skip
    (problem,) = misspelt_types(types, "c.column_types")
    assert str(problem).startswith("c.column_types.price: 'numerik(12,2)' is no type that is known here; did you mean 'numeric'?")
    assert list(misspelt_types(None, "c.column_types")) == []


@pytest.mark.parametrize("place", [{}, {"dsn": ""}, {"database": "shop"}, {"dsn": "postgresql://u@h/d"}, {"host": "h"}])
def test_a_postgres_that_names_no_server_is_told_where_the_loader_looks(place: dict[str, Any]) -> None:
    project = decode_project({"destinations": {"pg": {"type": "postgres", **place}}})
    said = [str(doubt) for doubt in doubts(project)]
    assert len(said) == (0 if place.get("dsn") or place.get("host") else 1)
    assert all(text.startswith("destinations.pg: names no server") and "PGHOST" in text for text in said)


def test_a_function_that_no_connection_names_never_runs() -> None:
    functions = {"used": {"code": "1"}, "idle": {"code": "1"}}
    document = {
        "sites": {"shop": {}},
        "destinations": {"wh": {"type": "duckdb", "path": "x"}},
        "functions": functions,
        "connections": {"c": {"site": "shop", "destination": "wh", "functions": ["used"]}},
    }
    assert [str(doubt) for doubt in doubts(decode_project(document))] == [
        "functions.idle: no connection names it, so it never runs"
    ]


def test_a_plan_and_a_lookup_that_nobody_names_do_nothing() -> None:
    use = {"table": "used", "key": "userId", "into": "context.x"}
    document = {
        "sites": {"shop": {"tracking_plan": "used"}},
        "destinations": {"wh": {"type": "duckdb", "path": "x"}},
        "tracking_plans": {"used": {}, "idle": {}},
        "lookups": {name: {"file": "/x.csv", "key": "id"} for name in ("used", "idle")},
        "connections": {"c": {"site": "shop", "destination": "wh", "lookups": [use]}},
    }
    assert [str(doubt) for doubt in doubts(decode_project(document))] == [
        "tracking_plans.idle: no site names it in `tracking_plan`, so it checks nothing",
        "lookups.idle: no connection names it, so it is not read",
    ]
