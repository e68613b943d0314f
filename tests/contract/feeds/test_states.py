"""What a feed says of itself, in `/ready`, in its metrics, and so in `penstock status`, while our own broker fails it or its records die."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nats.js.api import StreamConfig

from penstock.control.metrics import Scrape, _samples
from penstock.control.status.feeds import Facts, FeedStatus, status_of
from penstock.control.status.services import words_on
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds import of_nats
from tests.contract.feeds.conftest import ensure, until
from tests.support.feeds import Journal, Lives, record
from tests.support.nats import NatsServer, nats_server


def status(lives: Lives) -> FeedStatus:
    report = lives.health.report()
    samples = _samples(lives.telemetry.exposition().decode())
    scrape = Scrape("http://runner", samples, ready=report.ready, problems=report.problems, warnings=report.warnings)
    said = words_on([scrape], f"feed {lives.name}")
    facts = Facts(name=lives.name, document=lives.document, site_enabled=True, runner="here", said=said, scrapes=[scrape])
    return status_of(facts)


async def limit(server: NatsServer, most: int) -> None:
    async with connect(server.url, "test", patience_seconds=60) as ours:
        config: StreamConfig = (await ours.js.stream_info(topology.EVENTS)).config
        config.max_msgs = most
        await ours.js.update_stream(config)


async def test_a_feed_is_held_while_our_broker_has_no_room_or_is_away(telemetry: Telemetry, tmp_path: Path) -> None:
    with nats_server(tmp_path / "ours", sync="1m") as ours, of_nats.server(tmp_path / "theirs") as theirs:
        await ensure(ours.url)
        async with of_nats.open_source(theirs) as source:
            lives = Lives(ours.url, source.document, telemetry)
            journal = Journal(lives)
            async with lives.life() as ending:
                await until(lambda: status(lives).state == "idle" or status(lives).received is None)
                await source.put([record(n) for n in range(10)])
                await journal.until(10)
                await limit(ours, 1)
                await source.put([record(n) for n in range(10, 20)])
                await until(lambda: status(lives).state == "held" and "no room" in status(lives).why)
                assert telemetry.value("feeds_failing", feed=lives.name) == 1
                await limit(ours, -1)
                await journal.until(20)
                await until(lambda: status(lives).state == "ok")
                assert telemetry.value("feeds_failing", feed=lives.name) == 0
                await asyncio.to_thread(ours.kill)
                await source.put([record(n) for n in range(20, 30)])
                await until(lambda: status(lives).state in ("held", "failing"))
                assert "broker" in status(lives).why or "answer" in status(lives).why, status(lives).why
                await asyncio.to_thread(ours.start)
                await journal.until(30)
                await until(lambda: status(lives).state == "ok")
                ending.set()
            assert sorted(journal.values()) == list(range(30))


async def test_a_feed_whose_records_die_says_so_until_they_live(broker: NatsServer, telemetry: Telemetry, tmp_path: Path) -> None:
    with of_nats.server(tmp_path) as theirs:
        async with of_nats.open_source(theirs) as source:
            lives = Lives(broker.url, source.document, telemetry)
            journal = Journal(lives)
            async with lives.life() as ending:
                await source.put([b"no JSON"] * 30)
                await journal.until(0, dead=30)
                await until(lambda: status(lives).state == "records dying")
                found = status(lives)
                assert (found.received, found.dead) == (30, 30)
                assert "penstock dead list --stage feeds" in found.why
                assert lives.problem == ""  # it is a warning: the feed does its work
                await source.put([record(n) for n in range(100)])
                await journal.until(100, dead=30)
                await until(lambda: status(lives).state == "ok")
                ending.set()
