"""What is said of dead letters in the log and in `/ready`."""

from __future__ import annotations

import logging

import pytest

from shared.settings import ServiceSettings
from shared.streams.dead_log import LOG_EVERY_SECONDS, LOST_PART, WARN_SECONDS, DeadLog, LostLetters
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry


def test_each_reason_of_each_source_has_a_line_in_a_while_with_all_events_since(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    dead = DeadLog(logging.ERROR, lambda: now)
    for _ in range(3):
        dead.note(["type_conflict", "type_conflict", "too_large"], connection="a")
    dead.note(["type_conflict"], connection="b")
    now = LOG_EVERY_SECONDS
    dead.note(["type_conflict"], connection="a")
    lines = [(vars(record)["connection"], vars(record)["reason"], vars(record)["events"]) for record in caplog.records]
    assert lines == [("a", "type_conflict", 2), ("a", "too_large", 1), ("b", "type_conflict", 1), ("a", "type_conflict", 5)]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_letters_that_dead_has_no_room_for_are_counted_told_by_whose_they_were_and_forgotten_after_an_hour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, health, telemetry = 0.0, Health(), Telemetry("test", ServiceSettings())
    try:
        lost = LostLetters(telemetry, health, lambda: now)
        lost.note("evicted", "loader", "wh", 2)
        lost.note("refused", "ingest", "shop", 5)
        lost.note("evicted", "loader", "wh", 2)
        warning = health.warnings[LOST_PART]
        assert "lost for want of room: 5 of ingest shop not kept, 4 of loader wh evicted; " in warning
        assert "`penstock dead list`" in warning
        assert telemetry.value("dead_letters_evicted_total", stage="loader", source="wh") == 4
        assert telemetry.value("dead_letters_refused_total", stage="ingest", source="shop") == 5
    finally:
        telemetry.shutdown()
    assert [record.getMessage() for record in caplog.records] == ["dead letters are lost for want of room"] * 2
    now = WARN_SECONDS
    lost.refresh()
    assert LOST_PART not in health.warnings
