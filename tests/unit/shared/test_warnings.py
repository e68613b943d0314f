"""Warnings: added up by site, connection and reason in bounded memory, told at a bounded rate, with one sample."""

from __future__ import annotations

import pytest

from shared.errors import NotConnected, PenstockError, Permanent
from shared.events.frame import decode_frame, encode_frame
from shared.project.model import Project
from shared.project.read import load_project
from shared.settings import ServiceSettings
from shared.telemetry.declared import METRICS
from shared.telemetry.metrics import MOST_SAMPLES, Telemetry
from shared.warnings.declared import BY_REASON, WARNED
from shared.warnings.events import frame_of, read_warnings, site_of
from shared.warnings.tally import OTHERS, SAMPLE_CHARACTERS, Counted, Tally, Warning_
from shared.warnings.writer import WarningsWriter

REPAIRED = BY_REASON["json_repaired"]
UNMAPPED = BY_REASON["value_unmapped"]
DUPLICATE = BY_REASON["duplicate"]
SITES = {"connection wh": "shop", "feed bus": "shop"}


@pytest.fixture(scope="module")
def telemetry() -> Telemetry:
    return Telemetry("test", ServiceSettings())


def test_every_warning_is_of_a_counter_that_says_where_to_look() -> None:
    labels = {metric.name: set(metric.labels) for metric in METRICS if metric.kind == "counter"}
    for each in WARNED:
        assert labels[each.counter] & {"site", "connection", "feed"}, each.reason
        assert set(each.labels) <= labels[each.counter], each.reason
        assert each.shown in ("", *labels[each.counter]), each.reason
    assert len(BY_REASON) == len(WARNED)


def test_only_what_was_counted_since_the_last_look_is_told_with_the_time_it_was_seen() -> None:
    tally = Tally()
    for value, now in ((3.0, 10.0), (3.0, 12.0), (5.0, 14.0)):
        tally.look(REPAIRED, [Counted({"site": "shop"}, value, f"at {now:g}")], SITES, now)
    (told,) = tally.take()
    assert (told.key, told.count, told.first_at, told.last_at, told.sample) == (
        ("shop", None, "json_repaired"), 5, 10.0, 14.0, "at 14"
    )  # fmt: skip
    assert not tally
    tally.look(REPAIRED, [Counted({"site": "shop"}, 5.0)], SITES, 16.0)
    assert tally.take() == []
    tally.look(REPAIRED, [Counted({"site": "shop"}, 1.0)], SITES, 18.0)
    assert [each.count for each in tally.take()] == [1], "a counter that was forgotten begins again"


def test_the_site_of_a_connection_comes_from_the_project_and_other_labels_are_other_warnings() -> None:
    tally = Tally()
    counters = [
        Counted({"connection": "wh", "reason": "duplicate"}, 4.0),
        Counted({"connection": "wh", "reason": "filtered"}, 40.0),
        Counted({"connection": "gone", "reason": "duplicate"}, 400.0),
    ]
    tally.look(DUPLICATE, counters, SITES, 1.0)
    assert [(each.key, each.count) for each in tally.take()] == [(("shop", "wh", "duplicate"), 4)]


def test_memory_is_bounded_by_the_number_of_warnings_and_no_count_is_lost() -> None:
    tally = Tally(most=5)
    counters = [Counted({"site": f"s{number}"}, 2.0, "x" * 5000) for number in range(1000)]
    tally.look(REPAIRED, counters, SITES, 1.0)
    tally.look(BY_REASON["keys_disagree"], [Counted({"site": f"s{number}"}, 1.0) for number in range(10)], SITES, 1.0)
    told = tally.take()
    assert len(told) == 7, "five, and one for each reason"
    assert sum(each.count for each in told) == 2010
    assert {each.reason: each.count for each in told if each.site == OTHERS} == {"json_repaired": 1990, "keys_disagree": 10}
    assert all(len(each.sample or "") <= SAMPLE_CHARACTERS for each in told)


def test_samples_of_a_counter_are_few_and_short_and_the_first_stays_until_it_is_read(telemetry: Telemetry) -> None:
    for number in range(MOST_SAMPLES + 50):
        telemetry.count("ingest_skew_ignored_total", site=f"s{number}")
        telemetry.show("ingest_skew_ignored_total", f"first {number}" + "x" * 1000, site=f"s{number}")
        telemetry.show("ingest_skew_ignored_total", "second", site=f"s{number}")
    samples = [sample for _, _, sample in telemetry.read("ingest_skew_ignored_total") if sample]
    assert len(samples) == MOST_SAMPLES
    assert all(each.startswith("first ") and len(each) <= 300 for each in samples)
    assert {sample for _, _, sample in telemetry.read("ingest_skew_ignored_total")} == {None}


def test_a_warning_is_an_event_and_can_be_read_again() -> None:
    given = [
        Warning_(
            site="shop", reason="duplicate", connection="wh", unit="events", count=3, first_at=1.5, last_at=2.5, sample="m1"
        ),
        Warning_(site="_dead", reason="value_unmapped", unit="values", count=1, first_at=1.0, last_at=1.0),
    ]
    frame = frame_of(given, service="router", instance="router-1", number="7", now=3.0)
    payload = encode_frame(frame)
    assert [each for _, each in read_warnings(payload)] == given
    assert [site_of(head) for head in decode_frame(payload).heads] == ["shop", "_dead"]
    assert len({id_ for id_, _ in read_warnings(payload)}) == 2
    assert BY_REASON["duplicate"].advice in decode_frame(payload).bodies()[0].decode()


class FakeBroker:
    """Takes messages, or fails."""

    def __init__(self) -> None:
        self.publisher = self
        self.away: PenstockError | None = NotConnected("away")
        self.tried: list[str | None] = []
        self.taken: dict[str | None, bytes] = {}

    async def publish(self, subject: str, payload: bytes, *, msg_id: str | None = None, headers: object = None) -> None:
        self.tried.append(msg_id)
        if self.away:
            raise self.away
        assert (subject, bool(headers)) == ("warnings.test", True)
        self.taken[msg_id] = payload


async def test_a_message_that_the_broker_may_have_is_sent_again_as_it_was_and_later_counts_come_with_the_next() -> None:
    telemetry, broker = Telemetry("test2", ServiceSettings()), FakeBroker()
    project: Project = load_project("sites: {shop: {}}")
    writer = WarningsWriter(
        broker, telemetry, service="test", instance="t", project=lambda: project, period_seconds=60  # type: ignore[arg-type]
    )  # fmt: skip
    await writer.write()
    assert broker.tried == [], "nothing to tell"
    for amount in (2, 3):
        telemetry.count("ingest_events_repaired_total", amount, site="shop")
        writer.look()
        await writer.write()
    broker.away = None
    await writer.write()
    await writer.write()
    assert len(set(broker.tried[:3])) == 1
    counts = [each.count for payload in broker.taken.values() for _, each in read_warnings(payload)]
    assert counts == [2, 3]


async def test_a_message_that_the_broker_can_never_take_holds_up_no_later_one() -> None:
    telemetry, broker = Telemetry("test3", ServiceSettings()), FakeBroker()
    project: Project = load_project("sites: {shop: {}}")
    writer = WarningsWriter(
        broker, telemetry, service="test", instance="t", project=lambda: project, period_seconds=60  # type: ignore[arg-type]
    )  # fmt: skip
    broker.away = Permanent("too large")
    telemetry.count("ingest_events_repaired_total", 2, site="shop")
    writer.look()
    await writer.write()
    broker.away = None
    telemetry.count("ingest_events_repaired_total", 3, site="shop")
    writer.look()
    await writer.write()
    assert [each.count for payload in broker.taken.values() for _, each in read_warnings(payload)] == [3]


def test_counters_of_removed_connections_take_no_memory_and_begin_again() -> None:
    tally = Tally()
    for number in range(100):
        tally.look(DUPLICATE, [Counted({"connection": f"c{number}", "reason": "duplicate"}, 1.0)], {}, 10.0)
    assert len(tally._seen[DUPLICATE.reason]) == 1  # what it keeps
    tally.look(DUPLICATE, [Counted({"connection": "wh", "reason": "duplicate"}, 1.0)], SITES, 12.0)
    tally.look(DUPLICATE, [], SITES, 14.0)
    tally.look(DUPLICATE, [Counted({"connection": "wh", "reason": "duplicate"}, 2.0)], SITES, 16.0)
    assert [each.count for each in tally.take()] == [3]
