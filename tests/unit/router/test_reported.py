"""Violations of a plan while EVENTS is full: they hold up the reading once, not at each frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from router.problems import reported
from router.problems.reported import Patience, report
from router.rules.compiled import SiteRules
from shared.errors import QueueFull
from tests.unit.router.test_match import arrive, frame_of, rules_of


async def test_violations_wait_for_room_once_and_again_after_there_was_room(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = SiteRules("shop", 0.0, {}, gate=rules_of({"tracking_plan": "p"}, {"p": {}}).gate, reports=True)
    full, tries, lost = True, 0, 0

    class Publisher:
        async def publish(self, *_: Any, **__: Any) -> None:
            nonlocal tries
            tries += 1
            if full:
                raise QueueFull("EVENTS is full")

    def count(name: str, *_: Any, **__: Any) -> None:
        nonlocal lost
        lost += name == "router_plan_violations_lost_total"

    sender: Any = SimpleNamespace(ids="x", publisher=Publisher())
    telemetry: Any = SimpleNamespace(count=count)
    patience = Patience()

    async def tries_of_a_frame() -> int:
        nonlocal tries
        tries = 0
        await report(sender, telemetry, rules, arrive(frame_of([{"event": "Unplanned"}])), patience)
        return tries

    monkeypatch.setattr(reported, "FULL_SECONDS", 0.05)
    monkeypatch.setattr(reported, "FAULT_SECONDS", (0.01, 0.01))
    assert await tries_of_a_frame() > 1
    assert [await tries_of_a_frame() for _ in range(3)] == [1, 1, 1]
    assert lost == 4
    full = False
    assert await tries_of_a_frame() == 1
    full = True
    assert await tries_of_a_frame() > 1
