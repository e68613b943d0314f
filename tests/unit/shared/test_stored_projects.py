"""A service goes on with a project that an earlier version applied, and with the last good one where a later version did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from shared.errors import ConfigError
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Entry
from shared.project import snapshot as config_snapshot
from shared.project.read import decode_project, without_removed
from shared.project.snapshot import PART, StoredProject, watch_config
from shared.telemetry.health import Health

LET_THROUGH: dict[str, Any] = {
    "sites": {
        "shop": {"keys": [{"id": "s3cret-id", "kind": "server"}, {"id": "s3cret-id", "kind": "server"}], "origins": ["null"]},
        "a": {"domains": ["x.example", "X.example"]},
        "b": {"domains": ["x.example"]},
    }
}
GOOD: dict[str, Any] = {"sites": {"shop": {"keys": [{"id": "web"}]}}}
LATER: dict[str, Any] = {"sites": {"shop": {"keys": [{"id": "web"}], "of_a_later_version": 1}}}


async def follow(monkeypatch: pytest.MonkeyPatch, health: Health, *resolved: dict[str, Any] | bytes) -> list[str]:
    """Returns the sites after these revisions."""
    done = asyncio.Event()

    class Bucket:
        def __init__(self, *_: object) -> None:
            """There is one bucket."""

        async def watch(self, _: str) -> AsyncIterator[Entry]:
            for revision, each in enumerate(resolved, 1):
                yield Entry(
                    "project", each if isinstance(each, bytes) else msgspec.json.encode(StoredProject({}, each)), revision
                )
            done.set()

    monkeypatch.setattr(config_snapshot, "Bucket", Bucket)
    async with watch_config(cast("Broker", None), None, health) as watcher:
        await done.wait()
        return list(watcher.current.project.sites)


async def test_what_was_accepted_once_goes_on_and_is_warned_of_without_naming_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError):
        decode_project(LET_THROUGH)
    health = Health()
    health.good("service")
    assert await follow(monkeypatch, health, LET_THROUGH) == ["shop", "a", "b"]
    report = health.report()
    assert report.ready
    assert "would refuse revision 1 today: sites.shop.keys[1].id, sites.shop.origins[0]" in report.warnings[PART]
    assert "s3cret-id" not in str(report)
    await follow(monkeypatch, health, LET_THROUGH, GOOD)
    assert not health.report().warnings


def test_options_that_are_gone_are_left_out_of_what_was_stored_and_refused_in_a_file() -> None:
    batch = {"period": "1m", "threads": 1}
    document = {**GOOD, "destinations": {"wh": {"type": "duckdb", "threads": 2}},
                "connections": {"c": {"site": "shop", "destination": "wh", "batch": batch}, "d": None}}  # fmt: skip
    assert without_removed(document)["connections"] == {
        "c": {**document["connections"]["c"], "batch": {"period": "1m"}},
        "d": None,
    }
    del document["connections"]["d"]
    project = decode_project(document, stored=True)
    assert float(project.connections["c"].batch.period) == 60
    assert project.destinations["wh"]["threads"] == 2
    with pytest.raises(ConfigError, match="unknown key `threads`"):
        decode_project(document)


async def test_a_revision_of_a_later_version_leaves_the_last_good_one_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    health.good("service")
    # bytes that are no UTF-8, and brackets without end, are no errors of msgspec's own
    for unreadable in (LATER, b'{"source":"\xff"}', b'{"source":' + b"[" * 100_000):
        assert await follow(monkeypatch, health, GOOD, unreadable) == ["shop"]
    assert health.report().ready
    assert "revision 2 cannot be read" in health.report().warnings[PART]


async def test_a_service_that_knows_no_good_revision_is_not_ready_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    health.good("service")
    assert await follow(monkeypatch, health, LATER) == []
    assert "revision 1 cannot be read" in health.report().problems[PART]
