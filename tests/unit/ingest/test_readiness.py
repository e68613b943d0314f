"""The edge is ready while it accepts events, and says what stands between it and the next one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ingest import readiness
from ingest.contract import Refusal
from ingest.intake.outlet import Outlet
from ingest.journal.spool import Spool, open_spool
from ingest.limits.refusals import Refusals
from ingest.readiness import Readiness
from shared.errors import NotConnected, QueueFull, Transient
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.streams.dead_log import LOST_PART, LostLetters
from shared.streams.fill import Fill
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

MIB = 1024 * 1024


class Edge:
    """Parts of an edge around a publisher that fails as it is told."""

    def __init__(self, spool: Spool | None) -> None:
        self.failure: Exception | None = None
        self.health = Health()
        self.health.good("service")
        telemetry = Telemetry("test", ServiceSettings())
        telemetry.shutdown()
        self.outlet = Outlet(self, spool, telemetry, deadline_seconds=8.0, spool_after_seconds=1.0)
        self.connected = asyncio.Event()
        self.connected.set()
        self.settings = SimpleNamespace(events_when_short="shed")
        context = SimpleNamespace(
            health=self.health, telemetry=telemetry, settings=self.settings, broker=SimpleNamespace(connected=self.connected)
        )
        self.lost = LostLetters(telemetry, self.health)
        self.refusals = Refusals(telemetry)
        self.readiness = Readiness(cast("ServiceContext", context), self.outlet, spool, self.lost, self.refusals)
        self.telemetry = telemetry

    async def publish(self, *_: Any, **__: Any) -> None:
        if self.failure is not None:
            raise self.failure

    async def send(self, size: int = 10) -> None:
        with contextlib.suppress(Transient):
            await self.outlet.send_frame("events.shop.0", b"x" * size, "id", 1)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    async with open_spool(tmp_path, MIB) as opened:
        yield opened


async def test_an_absent_broker_is_a_warning_while_the_journal_takes_events_and_a_problem_without(spool: Spool) -> None:
    for edge, ready in ((Edge(spool), True), (Edge(None), False)):
        edge.health.bad("broker", "no connection to 127.0.0.1:4222")
        assert edge.health.report().ready is ready
    with_journal = Edge(spool)
    with_journal.health.bad("broker", "no connection")
    assert (
        with_journal.health.report().warnings["broker"]
        == "no connection (events go to the local journal, 0.0 of 1.0 MiB are used)"
    )
    with_journal.health.bad("ingest", "draining")
    assert not with_journal.health.report().ready


async def test_a_journal_in_use_is_a_warning_with_the_brokers_words_until_it_is_empty(spool: Spool) -> None:
    edge = Edge(spool)
    edge.failure = Transient("broker refused a message on events.shop.0: insufficient resources")
    await edge.send()
    assert edge.health.report().ready
    assert "insufficient resources" in edge.health.report().warnings["journal"]
    edge.failure = None
    await spool.empty(edge.outlet.publish_stored, once=True)
    assert edge.health.report().warnings == {}


async def test_a_journal_that_fills_is_a_warning_and_a_full_one_a_problem_with_the_next_step(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    edge = Edge(spool)
    edge.failure = NotConnected("away")
    edge.health.bad("broker", "no connection")
    await edge.send(int(0.82 * MIB))
    edge.readiness.refresh()
    assert edge.health.report().ready
    assert "nearly full" in edge.health.report().warnings["journal"]
    assert caplog.text.count("the journal is nearly full") == 1
    assert edge.telemetry.value("ingest_spool_fill_ratio") == pytest.approx(0.82, abs=0.01)
    assert edge.telemetry.value("ingest_spool_bytes") == spool.stored_bytes > 0.8 * MIB
    await edge.send(MIB // 2)
    edge.readiness.refresh()
    report = edge.health.report()
    assert not report.ready
    assert "PENSTOCK_INGEST_SPOOL_MAX_BYTES" in report.problems["journal"]
    assert report.problems["broker"] == "no connection"
    edge.failure = None
    edge.health.good("broker")
    await spool.empty(edge.outlet.publish_stored, once=True)
    edge.readiness.refresh()
    assert edge.health.report().ready
    assert not edge.health.warnings


async def test_a_journal_whose_disk_fails_does_not_help_and_says_so(spool: Spool) -> None:
    edge = Edge(spool)
    spool.failure = "the local journal in /spool cannot be written: No space left on device"
    edge.readiness.refresh()
    assert edge.health.report().ready, "the broker takes events"
    assert "check the disk" in edge.health.report().warnings["journal"]
    edge.health.bad("broker", "no connection")
    assert not edge.health.report().ready


async def test_a_journal_that_failed_is_well_again_when_its_disk_is(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    edge = Edge(spool)
    edge.connected.clear()
    edge.health.bad("broker", "no connection")
    spool.failure = "the local journal in /spool cannot be written: No space left on device"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        await edge.readiness.look()
    assert not edge.health.report().ready
    await edge.readiness.look()
    assert edge.health.report().ready, "no event has to come first"


async def test_a_full_stream_makes_the_edge_unready_until_it_has_room(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    edge, held = Edge(spool), 10 * MIB

    async def read_fill(_: object, stream: str) -> Fill:
        return Fill(stream, held, 10 * MIB, "bytes")

    monkeypatch.setattr(readiness, "read_fill", read_fill)
    edge.failure = QueueFull("events.shop.0 takes no more messages: maximum bytes exceeded")
    await edge.send()
    await edge.readiness.look()
    problem = edge.health.report().problems["stream EVENTS"]
    assert "maximum bytes exceeded" in problem
    assert "PENSTOCK_EVENTS_MAX_BYTES" in problem
    held = 5 * MIB
    await edge.readiness.look()
    assert edge.health.report().ready


async def test_a_process_that_has_sent_nothing_yet_knows_that_events_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    edge, held = Edge(None), 10 * MIB - 1000

    async def read_fill(_: object, stream: str) -> Fill:
        return Fill(stream, held, 10 * MIB, "bytes")

    monkeypatch.setattr(readiness, "read_fill", read_fill)
    await edge.readiness.look()
    problem = edge.health.report().problems["stream EVENTS"]
    assert "is full, requests are answered with 503: the stream EVENTS is 100% full" in problem
    assert "a reader holds it back" in problem

    edge.settings.events_when_short = "refuse"
    await edge.readiness.look()
    problem = edge.health.report().problems["stream EVENTS"]
    assert "the room is too small for the age" in problem
    assert "reader" not in problem
    held = 9 * MIB
    await edge.readiness.look()
    assert edge.health.report().ready


async def test_letters_that_were_not_kept_are_told_after_dead_has_room_again(spool: Spool) -> None:
    edge = Edge(spool)
    edge.outlet.full["DEAD"] = "maximum bytes exceeded"
    edge.lost.note("refused", "ingest", "shop", 3)
    edge.readiness.refresh()
    assert "PENSTOCK_DEAD_MAX_BYTES" in edge.health.report().warnings["stream DEAD"]
    edge.outlet.full.clear()
    edge.readiness.refresh()
    assert "3 of ingest shop not kept" in edge.health.report().warnings[LOST_PART]
    assert edge.telemetry.value("dead_letters_refused_total", stage="ingest", source="shop") == 3


async def test_who_is_refused_is_told_for_a_while_and_the_edge_stays_ready(spool: Spool) -> None:
    edge = Edge(spool)
    edge.refusals.note(Refusal(401, "unknown_key", "no"), None, b"id")
    warning = edge.health.report().warnings["clients"]
    assert "requests are refused: 1 unknown_key in the last two minutes; lines `refused` of the log" in warning
    assert edge.health.report().ready
