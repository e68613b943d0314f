"""`syncs` of a project file: what is right is taken, each mistake is named with its place."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.project.projects import check_document
from shared.errors import ConfigError
from shared.project.read import decode_project

BASE: dict[str, Any] = {
    "destinations": {
        "wh": {"type": "duckdb", "path": "x.duckdb"},
        "hook": {"type": "webhook", "url": "https://example.com/in"},
        "lake": {"type": "local", "path": "lake"},
        "ch": {"type": "clickhouse", "url": "http://127.0.0.1:8123"},
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
        ({"streams": {"a.b": {"mode": "fast"}, "c": {"write": "put"}}}, "syncs.crm-wh.streams.a.b.mode", "incremental"),
        ({"streams": {"a.b": {"mode": "fast"}, "c": {"write": "put"}}}, "syncs.crm-wh.streams.c.write", "got 'put'"),
        ({"streams": {"*": {"table": "t"}}}, "syncs.crm-wh.streams.*.table", "one stream"),
        ({"streams": {"a": {"cursr": "t"}}}, "syncs.crm-wh.streams.a: ", "cursor"),
        ({"streams": {"a": {"write": "upsert"}, "b": None}}, "syncs.crm-wh.streams.a.write", "expected one of replace"),
        ({"streams": {"a": {"where": {"field": "x", "equals": 1}}}}, "syncs.crm-wh.streams.a.where.equals", "unknown operator"),
        (
            {"destination": "ch", "streams": {"a": {"write": "merge", "where": {"field": "x", "eq": 1}}}},
            "syncs.crm-wh.streams.a.where",
            "cannot take away rows that no longer meet `where`; write unmatched: keep",
        ),
        ({"streams": {"a": {"unmatched": "keep"}}}, "syncs.crm-wh.streams.a.unmatched", "`where`"),
        (
            {"streams": {"a": {"privacy": [{"field": "x", "do": "hash"}]}}},
            "syncs.crm-wh.streams.a.privacy[0].secret",
            "needs one",
        ),
        (
            {"streams": {"a": {"primary_key": ["x.id"], "privacy": [{"field": "**.id", "do": "drop"}]}}},
            "syncs.crm-wh.streams.a.privacy[0].field",
            "x.id is the key of the rows, so it stays as it is; it may only be hashed",
        ),
        (
            {"streams": {"a": {"cursor": "at", "privacy": [{"field": "at", "do": "hash", "secret": "s"}]}}},
            "syncs.crm-wh.streams.a.privacy[0].field",
            "at is the cursor of the rows",
        ),
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
