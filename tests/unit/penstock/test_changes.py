"""Since when a connection's events are routed and loaded as the project of now says."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.project.changes import SETTLE_SECONDS, Change, changes
from shared.jetstream.topology import KEPT_REVISIONS
from shared.project.snapshot import StoredProject
from tests.support.router import project

AT = "2026-03-01T00:00:00+00:00"
EPOCH = 1_772_323_200.0


def stored(schema: str = "shop", incarnation: str = "0-a", at: str = AT, **connection: Any) -> StoredProject:
    document = project({"c": connection})
    document["destinations"]["wh"]["schema"] = schema
    return StoredProject(document, document, at, incarnations={"c": incarnation})


def found(*history: StoredProject) -> dict[str, Change]:
    return changes(history[-1].snapshot(len(history)), list(enumerate(history, 1)))


@pytest.mark.parametrize(
    ("before", "what"),
    [
        (stored("shop0"), "its destination"),
        (stored(where=[{"field": "event", "in": ["x"]}]), "the connection"),
        (stored(enabled=False), "the connection"),
    ],
)
def test_what_changed_last_is_told_with_its_time(before: StoredProject, what: str) -> None:
    change = found(before, stored(), stored(at="2026-03-02T00:00:00+00:00", batch={"period": "1m"}))["c"]
    assert change == Change(what, 2, EPOCH)
    assert change.covers(EPOCH + SETTLE_SECONDS - 1)
    assert not change.covers(EPOCH + SETTLE_SECONDS)


def test_a_connection_that_is_as_it_was_added_did_not_change() -> None:
    assert not found(stored())
    assert not found(stored("shop0", incarnation="0-former"), stored())


def test_what_is_forgotten_may_have_changed() -> None:
    change = found(*[stored()] * KEPT_REVISIONS)["c"]
    assert change.revision == 1
    assert not change.covers(EPOCH + SETTLE_SECONDS)
    assert found(stored("shop0"), stored(at=""))["c"].covers(EPOCH * 2)
