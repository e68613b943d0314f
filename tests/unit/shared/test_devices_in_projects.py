"""Device destinations in a project file: they stand apart, and options that mean nothing are errors."""

from __future__ import annotations

from typing import Any

import pytest

from router.rules.compiled import compile_project
from shared.errors import ConfigError
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot, StoredProject, resolve


def document(connection: dict[str, Any] | None = None, destination: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "sites": {"shop": {"keys": [{"id": "web"}]}},
        "destinations": {
            "tag": {"type": "tag", "script": "1", **(destination or {})},
            "wh": {"type": "duckdb", "path": "x.duckdb"},
        },
        "connections": {
            "shop-tag": {"site": "shop", "destination": "tag", **(connection or {})},
            "shop-wh": {"site": "shop", "destination": "wh"},
        },
        **more,
    }


def problems(value: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        decode_project(value)
    return {problem.path: problem.message for problem in refused.value.problems}


def test_a_connection_to_a_device_is_none_of_the_services() -> None:
    project = decode_project(document({"consent": ["ads"]}))
    assert list(project.connections) == ["shop-wh"]
    assert project.devices["shop-tag"].consent == ["ads"]
    assert project.devices["shop-tag"].integrations is True
    assert list(compile_project(ConfigSnapshot(1, project))["shop"].connections) == ["shop-wh"]


@pytest.mark.parametrize(
    ("connection", "path", "words"),
    [
        ({"mode": "stream"}, "connections.shop-tag.mode", "means nothing here: the destination runs in the browser"),
        ({"functions": ["f"]}, "connections.shop-tag.functions", "means nothing here"),
        ({"sample": 0.5}, "connections.shop-tag.sample", "means nothing here"),
        ({"form": "dead"}, "connections.shop-tag.form", "unknown key"),
        ({"where": {"any": [{"field": "event", "regex": "x"}]}}, "connections.shop-tag.where.any[0].regex", "use `matches`"),
        ({"site": "shp"}, "connections.shop-tag.site", "did you mean"),
        ({"consent": "ads"}, "connections.shop-tag.consent", "expected a list"),
    ],
)
def test_what_means_nothing_in_the_page_is_an_error_with_its_place(connection: dict[str, Any], path: str, words: str) -> None:
    found = problems(document(connection))
    assert words in found[path], found


def test_wrong_options_are_found_beside_wrong_connections() -> None:
    found = problems(document(destination={"scrpt": "x"}))
    assert "did you mean `script`?" in found["destinations.tag"]
    assert "every visitor's browser reads" in problems(document(destination={"script": "${file:/run/x}"}))["destinations.tag"]
    assert "expected `html` or `script`" in problems(document(destination={"script": None}))["destinations.tag"]


def test_a_sync_needs_a_destination_that_takes_rows() -> None:
    value = document(
        connectors={"crm": {"type": "postgres", "dsn": "postgres://x/y"}},
        syncs={"crm-tag": {"connector": "crm", "destination": "tag", "schedule": "1h", "streams": {"a": {}}}},
    )
    assert "takes no rows" in problems(value)["syncs.crm-tag.destination"]


def test_names_of_these_connections_follow_the_rule_of_names() -> None:
    value = document()
    value["connections"]["Shop Tag"] = value["connections"].pop("shop-tag")
    assert "a name is" in problems(value)["connections.Shop Tag"]
    assert "unknown key" in problems({**document(), "devices": {}})["devices"]


def test_a_project_that_an_earlier_version_applied_goes_on_without_the_device_that_is_refused_today() -> None:
    stored = StoredProject({}, document(destination={"script": None}))
    assert list(stored.snapshot(3).project.connections) == ["shop-wh"]


def test_a_connection_that_comes_back_from_the_browser_is_a_new_one() -> None:
    from shared.project.snapshot import _incarnations  # what `apply_project` stores

    server = document()
    server["connections"]["shop-tag"]["destination"] = "wh"
    before, page, after = (StoredProject({}, resolve(each)) for each in (server, document(), server))
    first = _incarnations(before, before, 0)
    assert set(_incarnations(before, page, 1)) == {"shop-wh"}
    second = _incarnations(StoredProject({}, page.resolved, incarnations=_incarnations(before, page, 1)), after, 2)
    assert second["shop-tag"] not in ("", first["shop-tag"])


@pytest.mark.parametrize(
    ("browser", "words"),
    [
        ({"path": "assets"}, "expected a path without the name's end"),
        ({"path": "/assets/x.js"}, "expected a path"),
        ({"path": "/a/../b"}, "expected a path"),
        ({"path": "/v1/shop"}, "belongs to a protocol"),
        ({"path": "/p"}, "belongs to a protocol"),
        ({"cookie_domain": "com"}, "expected the domain"),
        ({"cookie_domain": "10.0.0.1"}, "expected the domain"),
        ({"cookie_domain": "example.com"}, "list your pages in `origins`"),
        ({"cookie_days": 500}, "at most 400"),
    ],
)
def test_options_of_the_script_that_cannot_work_are_errors(browser: dict[str, Any], words: str) -> None:
    found = problems({"sites": {"shop": {"keys": [{"id": "web"}], "browser": browser}}})
    assert any(words in message for message in found.values()), found


def test_a_path_belongs_to_one_site() -> None:
    sites = {name: {"keys": [{"id": name}], "browser": {"path": "/assets/k"}} for name in ("one", "two")}
    assert "is the path of site 'one' already" in problems({"sites": sites})["sites.two.browser.path"]
