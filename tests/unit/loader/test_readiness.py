"""When a loader is ready although a destination fails: while another connection of it loads."""

from __future__ import annotations

from functools import partial

from loader.service import _bearable
from shared.telemetry.health import Health

WORKS = "meanwhile the others load"


def health_of(*running: str) -> Health:
    health = Health()
    health.good("service")
    health.bear(partial(_bearable, health, running))
    return health


def test_one_failing_connection_of_two_is_a_warning_and_both_are_a_problem() -> None:
    health = health_of("one", "two")
    health.bad("connection one", "no such host")
    report = health.report()
    assert (report.ready, report.problems, report.warnings) == (True, {}, {"connection one": f"no such host ({WORKS})"})
    health.bad("connection two: table orders", "the disk is full")
    report = health.report()
    assert (report.ready, report.warnings) == (False, {})
    assert set(report.problems) == {"connection one", "connection two: table orders"}
    health.good("connection one")
    assert health.report().ready


def test_the_only_connection_and_the_broker_make_a_loader_unready() -> None:
    health = health_of("one")
    health.bad("connection one", "no such host")
    assert not health.report().ready
    health = health_of("one", "two")
    health.bad("broker", "no connection")
    assert not health.report().ready
