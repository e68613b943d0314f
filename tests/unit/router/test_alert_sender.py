"""The sender of alerts: what it remembers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from router.alerts import send
from router.alerts.contract import TAKEN, Outcome
from router.alerts.send import Sender


async def test_a_message_is_taken_though_its_memory_was_pushed_out_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gate:
        async def run(self, _: Any, alert: Any) -> Any:
            return alert

    none: Any = None
    gate: Any = Gate()
    sender = Sender(none, gate)
    monkeypatch.setattr(send, "MOST_MESSAGES", 1)

    def alert(*calls: str) -> Any:
        return SimpleNamespace(options=None, channel=SimpleNamespace(requests=lambda *_: list(calls)))

    async def call(of: Any, request: Any, taken: Any) -> Outcome:
        if request == "slow":
            await sender.send(alert(), message("b"))
        return TAKEN

    def message(identifier: str) -> Any:
        return SimpleNamespace(id=identifier)

    monkeypatch.setattr(sender, "_call", call)
    assert await sender.send(alert("slow"), message("a")) == TAKEN
