"""What the log says of dead letters."""

from __future__ import annotations

import logging

import pytest

from shared.dead_log import LOG_EVERY_SECONDS, DeadLog


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
