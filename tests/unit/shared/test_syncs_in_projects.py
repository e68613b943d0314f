"""`syncs` of a project file: what is right is taken, each mistake is named with its place."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.project.projects import check_document
from shared.errors import ConfigError
from shared.project.model import decode_project

BASE: dict[str, Any] = {
    "destinations": {
        "wh": {"type": "duckdb", "path": "x.duckdb"},
        "hook": {"type": "webhook", "url": "https://example.com/in"},
        "lake": {"type": "local", "path": "lake"},
    },
    "connectors": {"crm": {"type": "airbyte", "package": "airbyte-source-faker", "version": "7.2.1"}},
}


def project(**sync: Any) -> dict[str, Any]:
    return {**BASE, "syncs": {"crm-wh": {"connector": "crm", "destination": "wh", **sync}}}


def problems(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_document(document, {})
    return str(caught.value)


def test_a_sync_is_read() -> None:
    streams = {"users": {"mode": "incremental", "write": "history", "deletes": "hard"}, "*": None}
    document = project(schedule="*/15 * * * *", time_zone="Europe/Berlin", jitter="30s", streams=streams)
    check_document(document, {})
    sync = decode_project(document).syncs["crm-wh"]
    assert sync.streams["users"].write == "history"  # type: ignore[union-attr]
    assert not sync.clock("crm-wh").manual


@pytest.mark.parametrize(
    ("changes", "place", "why"),
    [
        ({"connector": "cmr"}, "syncs.crm-wh.connector", "did you mean"),
        ({"destination": "warehouse"}, "syncs.crm-wh.destination", "known: "),
        ({"destination": "hook"}, "syncs.crm-wh.destination", "no tables"),
        ({"schedule": "every year"}, "syncs.crm-wh.schedule", "duration"),
        ({"time_zone": "Mars/Base"}, "syncs.crm-wh.schedule", "time zone"),
        ({"period": "2h"}, "syncs.crm-wh.period", "1h"),
        ({"max_bytes": "1GiB"}, "syncs.crm-wh.max_bytes", "32MiB"),
        ({"streams": {"a": {"write": "replace", "mode": "incremental"}}}, "syncs.crm-wh.streams.a.write", "full_refresh"),
        ({"streams": {"a": {"write": "append", "deletes": "hard"}}}, "syncs.crm-wh.streams.a.deletes", "merge"),
        ({"streams": {"*": {"table": "t"}}}, "syncs.crm-wh.streams.*.table", "one stream"),
        ({"streams": {"a": {"cursr": "t"}}}, "syncs.crm-wh.streams.", "cursor"),
        ({"destination": "lake", "streams": {"a": {"write": "merge"}}}, "syncs.crm-wh.streams.a.write", "append"),
        ({"destination": "lake", "streams": {"a": {"write": "replace"}}}, "syncs.crm-wh.streams.a.write", "append"),
        ({"streams": {"a": {"column_types": {"x": "numeric; drop"}}}}, "syncs.crm-wh.streams.a.column_types", "numeric"),
    ],
)
def test_each_mistake_is_named(changes: dict[str, Any], place: str, why: str) -> None:
    found = problems(project(**changes))
    assert place in found
    assert why in found


def test_a_wrong_entry_still_tells_of_its_references() -> None:
    found = problems(project(connector="cmr", enabled="perhaps"))
    assert "syncs.crm-wh.enabled" in found
    assert "syncs.crm-wh.connector" in found
