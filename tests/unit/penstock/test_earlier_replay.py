"""A replay that finishes an earlier one asks what that one would ask, wherever itself sends letters."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.letters.judged import Refusal
from penstock.control.letters.letters import Stored
from penstock.control.letters.redeliver import Into, Note, Redelivery
from shared.events.dead import DeadLetter
from shared.events.outcome import DeadReason
from shared.project.read import load_project
from shared.project.snapshot import ConfigSnapshot

PROJECT = """
sites: {shop: {}}
destinations: {wh: {type: duckdb}}
connections: {shop-wh: {site: shop, destination: wh}}
"""


@pytest.mark.parametrize(
    ("own", "noted", "stays"), [("start", "stage", True), ("stage", "stage", True), ("stage", "start", False)]
)
def test_a_letter_that_its_plan_refuses_now_is_not_taken_out_of_dead(
    own: Into, noted: Into, *, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broker:
        def __getattr__(self, _: str) -> Any:
            return None

    monkeypatch.setattr(Redelivery, "_judged", lambda *_: Refusal(DeadReason.TRACKING_PLAN, "the plan changed"))
    broker: Any = Broker()
    replay = Redelivery(broker, ConfigSnapshot(1, load_project(PROJECT)), own, lambda: 0.0)
    letter = DeadLetter(
        stage="router", site="shop", connection="shop-wh", reason=DeadReason.TRACKING_PLAN, detail="", body=b"{}", at=0.0, origin="x"
    )  # fmt: skip
    note = Note(lane="l", into=noted, subject="dead.router.shop-wh", messages=[7], frames={"7.0": 1})
    allowed = replay._allowed(note, Stored(7, note.subject, [letter], [0], 2))
    assert (allowed is None) == stays
