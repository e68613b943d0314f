"""Checking a project file: everything wrong is found at once, and named by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.control.project.projects import check_document, keepable, read_document
from shared.errors import ConfigError, SetupError
from shared.project.read import decode_project

SHOP = Path(__file__).parents[3] / "examples/shop/penstock.yaml"


def paths(document: dict[str, Any], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_document(document, environment or {})
    return [problem.path for problem in caught.value.problems]


def test_the_sample_project_is_good_and_lives_in_its_home() -> None:
    resolved = check_document(read_document(SHOP), {"PENSTOCK_HOME": "/somewhere"})
    assert decode_project(resolved).destinations["warehouse"]["path"] == "/somewhere/warehouse.duckdb"


def test_the_secret_of_the_sample_is_not_kept() -> None:
    resolved = check_document(read_document(SHOP), {"SHOP_SECRET": "hunter2"})
    assert "hunter2" not in str(resolved)


def test_every_problem_is_found_at_once() -> None:
    document = read_document(SHOP)
    document["destinations"]["warehouse"]["type"] = "dukdb"
    document["destinations"]["live"]["pfad"] = "x"
    document["connections"]["shop-live"]["where"] = [{"field": "type", "gtt": 1}]
    document["connections"]["shop-live"]["table"] = "{{ event.type"
    document["connections"]["shop-live"]["column_types"] = {"total": "numerik(12,2)"}
    document["connections"]["shop-warehouse"]["mod"] = "batch"
    document["sites"]["shop"]["keys"][1]["secret"] = "${NOT_SET}"
    found = paths(document)
    assert found[0] == "sites.shop.keys[1].secret"
    assert {
        "destinations.warehouse.type",
        "destinations.live",
        "connections.shop-live.where[0].gtt",
        "connections.shop-live.table",
        "connections.shop-live.column_types.total",
        "connections.shop-warehouse",
    } <= set(found)


def test_a_place_is_blamed_once_when_its_variable_is_not_set() -> None:
    document = read_document(SHOP)
    document["connections"]["shop-live"]["site"] = "${NOT_SET}"
    assert paths(document) == ["connections.shop-live.site"]


def test_a_variable_with_a_default_is_not_blamed_beside_one_that_is_not_set() -> None:
    document = read_document(SHOP)
    document["connections"]["shop-live"]["site"] = "${NOT_SET}"
    document["connections"]["shop-warehouse"]["batch"]["period"] = "${PERIOD:-5m}"
    assert paths(document) == ["connections.shop-live.site"]


def test_a_missing_file_says_which_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"nothing\.yaml.*No such file.*penstock\.yaml"):
        read_document(tmp_path / "nothing.yaml")


def test_a_file_that_is_not_yaml_says_where(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("sites:\n  shop: [\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml line 3"):
        read_document(file)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SetupError, match="UTF-8"):
        read_document(file)


def test_a_secret_written_into_the_file_is_stored_as_its_hash_only() -> None:
    document = {"sites": {"shop": {"keys": [{"id": "a", "secret": "hunter2"}, {"id": "b", "secret": "${SECRET}"}]}}}
    kept = keepable(document)
    assert "hunter2" not in str(kept)
    assert kept["sites"]["shop"]["keys"][0]["secret"].startswith("sha256:")
    assert kept["sites"]["shop"]["keys"][1]["secret"] == "${SECRET}"
    # and what is given back can be applied again
    assert check_document(kept, {"SECRET": "x"}) == check_document(document, {"SECRET": "x"})


def test_a_stream_into_files_is_refused_with_what_to_write() -> None:
    document: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"lake": {"type": "local", "path": "/tmp/lake"}},
        "connections": {"c": {"site": "shop", "destination": "lake", "mode": "stream"}},
    }
    with pytest.raises(ConfigError, match="takes batches only; write mode: batch"):
        check_document(document, {})


@pytest.mark.parametrize(
    "destination", [{"type": "local", "path": "/tmp/lake"}, {"type": "webhook", "url": "https://example.com/in"}]
)
def test_a_destination_that_cannot_replace_a_row_takes_no_stitched_events(destination: dict[str, Any]) -> None:
    document: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"lake": destination},
        "connections": {"c": {"site": "shop", "destination": "lake", "identity": {}}},
    }
    with pytest.raises(ConfigError, match=r"connections\.c\.identity: .*clickhouse, duckdb, mysql, postgres.*, or take it out"):
        check_document(document, {})


@pytest.mark.parametrize("dsn", ["localhost:5432/db", "mysql://u:hunter2@h/d", "host=h password=hunter2"])
def test_an_address_that_can_never_work_is_refused_without_showing_it(dsn: str) -> None:
    with pytest.raises(ConfigError, match=r"^destinations\.wh\.dsn: expected an address such as postgresql://") as caught:
        check_document({"destinations": {"wh": {"type": "postgres", "dsn": dsn}}}, {})
    assert "hunter2" not in str(caught.value)
    assert paths({"destinations": {"wh": {"type": "postgres", "dsn": "${NOT_SET}"}}}) == ["destinations.wh.dsn"]
