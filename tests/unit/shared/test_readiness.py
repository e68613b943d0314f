"""When a service is ready although one of its keys fails: while another works."""

from __future__ import annotations

from shared.telemetry.health import Health
from shared.workers import bearable

WORKS = "meanwhile the others load"


def health_of(*running: str) -> Health:
    health = Health()
    health.good("service")
    health.bear(lambda part: bearable(health, {"connection": running}, part, meanwhile=WORKS))
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
