"""The facts that alerts judge, read from a real broker: what waits, queues near their limit, new dead letters once, silent sites, certificates."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.alerts.certificates import Certificates, Server, end_of, servers_of
from router.alerts.dead import QUIET_SECONDS, DeadMark, read_new
from router.alerts.read import disks_in, problems_of, read_connections, read_disks, read_lines, read_streams, words_of
from router.alerts.sites import Histories, read_sites
from router.forwarding.state import Mark, SiteState, state_key
from shared.events.dead import DeadLetter, bury
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot
from shared.streams.disks import Disk, DiskWatch, disks_of
from shared.streams.reports import Told
from shared.telemetry.health import Report
from tests.support.certificate import make_certificate
from tests.support.router import frame, limit_queues

SNAPSHOT = ConfigSnapshot(
    1,
    decode_project(
        {
            "sites": {"shop": {}, "quiet": {}},
            "destinations": {"wh": {"type": "duckdb", "path": "/tmp/never.duckdb"}},
            "connections": {"c": {"site": "shop", "destination": "wh", "batch": {"period": "1m"}}},
            "feeds": {"f": {"site": "shop", "type": "nats", "servers": "nats://127.0.0.1:1", "stream": "S"}},
        }
    ),
)


def letter(number: int, **more: Any) -> DeadLetter:
    return DeadLetter(
        stage="loader",
        site="shop",
        connection="c",
        reason="too_deep",
        detail="d",
        body=b"{}",
        at=1.0,
        origin=f"l:1:{number}",
        **more,
    )


async def test_what_waits_in_a_queue_is_told_with_its_age_and_how_full_the_queue_is(broker: Broker) -> None:
    await limit_queues(broker, 4)
    await Bucket(broker, topology.LEASE_BUCKET).put("loader.c", b"l")
    for seq in (1, 2, 3):
        payload = frame([{"messageId": f"m{seq}", "type": "track", "event": "x"}])
        headers = write_place(Place("live-1-shop", seq, 1))
        await broker.publisher.publish(topology.deliver_subject("c"), payload, msg_id=f"q{seq}", headers=headers)
    now = time.time()
    found = (await read_connections(broker, SNAPSHOT, {}, {}, [], now))["c"]
    assert found.queues == {"DELIVER": 0.75, "FUNCTIONS": 0.0}
    assert found.oldest_seconds is not None
    assert (found.state, found.period_seconds) == ("late", 60.0), "the frame's events were received long ago"
    said = Told(service="loader", instance="l", at=now, report=Report(False, {"connection c": "refused"}))
    assert (await read_connections(broker, SNAPSHOT, {}, {}, [said], now))["c"].state == "failing"


async def test_a_connection_without_a_loader_and_a_feed_without_a_runner_are_told(broker: Broker) -> None:
    assert (await read_connections(broker, SNAPSHOT, {}, {}, [], time.time()))["c"].state == "unknown"
    _, feeds = await read_lines(broker, SNAPSHOT, [], time.time())
    assert (feeds["f"].good, feeds["f"].state) == (False, "no runner")
    await Bucket(broker, topology.LEASE_BUCKET).put("feed.f", b"r")
    assert (await read_lines(broker, SNAPSHOT, [], time.time()))[1]["f"].good


async def test_letters_are_told_once_from_the_first_look_on_and_those_stored_again_are_none(broker: Broker) -> None:
    await bury(broker.publisher, "loader", "c", [letter(number) for number in range(5)], msg_id="before")
    mark = await read_new(broker, DeadMark(), 100.0)
    assert mark.runs == {}, "of before the alerts"
    await bury(broker.publisher, "loader", "c", [letter(number) for number in range(450)], msg_id="one")
    await bury(broker.publisher, "ingest", "shop", [letter(1)], msg_id="two")
    mark = await read_new(broker, mark, 110.0)
    assert {name: run.letters for name, run in mark.runs.items()} == {"loader c": 450, "ingest shop": 1}
    assert await read_new(broker, mark, 120.0) is mark
    await bury(broker.publisher, "loader", "c", [letter(7, id="12-0")], msg_id="again")
    stored_again = await read_new(broker, mark, 130.0)
    assert stored_again.runs == mark.runs
    assert (await read_new(broker, stored_again, 110.0 + QUIET_SECONDS)).runs == {}


async def test_a_flood_of_letters_is_read_in_part_and_said_to_be_more(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.alerts.dead.MOST_MESSAGES", 3)
    mark = await read_new(broker, DeadMark(), 100.0)
    for number in range(6):
        await bury(broker.publisher, "loader", "c", [letter(number)], msg_id=f"m{number}")
    mark = await read_new(broker, mark, 110.0)
    run = mark.runs["loader c"]
    assert (run.letters, run.at_least) == (3, True)
    assert await read_new(broker, mark, 120.0) is mark


async def test_the_last_event_of_a_site_is_known_and_a_site_that_never_sent_one_has_none(broker: Broker) -> None:
    before, histories = time.time(), Histories(broker)
    await broker.publisher.publish("events.shop.0", frame([{"messageId": "m", "type": "track", "event": "x"}]), msg_id="e")
    sites, states = await read_sites(broker, SNAPSHOT, histories, time.time())
    assert sites["shop"].last_at >= before - 60
    assert sites["quiet"].last_at == 0.0
    assert set(states) == {"shop", "quiet"}
    another, _ = await read_sites(broker, SNAPSHOT, Histories(broker), time.time() + 5)
    assert another["shop"].history == sites["shop"].history, "another router goes on with the counts"


async def test_events_that_no_router_takes_are_told_although_no_queue_holds_them(broker: Broker) -> None:
    await Bucket(broker, topology.LEASE_BUCKET).put("loader.c", b"l")
    payload = frame([{"messageId": "m", "type": "track", "event": "x"}])
    await broker.publisher.publish("events.shop.0", payload, msg_id="e")
    now = time.time() + 7200
    sites, states = await read_sites(broker, SNAPSHOT, Histories(broker), now)
    assert sites["shop"].unrouted_seconds is not None
    assert sites["shop"].unrouted_seconds > 7000
    found = (await read_connections(broker, SNAPSHOT, states, sites, [], now))["c"]
    assert (found.state, found.oldest_seconds) == ("not routed", sites["shop"].unrouted_seconds)
    last = (await broker.js.stream_info(topology.EVENTS)).state.last_seq
    await Bucket(broker, topology.STATE_BUCKET).put(state_key("shop"), msgspec.json.encode(SiteState(position=last)))
    sites, states = await read_sites(broker, SNAPSHOT, Histories(broker), now)
    assert sites["shop"].unrouted_seconds is None
    assert (await read_connections(broker, SNAPSHOT, states, sites, [], now))["c"].state == "ok"


async def test_a_connection_of_problems_is_judged_by_the_state_of_its_own_site(broker: Broker) -> None:
    document = {
        "sites": {"shop": {}},
        "destinations": {"wh": {"type": "duckdb", "path": "/tmp/never.duckdb"}},
        "connections": {"letters": {"from": "dead", "destination": "wh"}},
    }
    snapshot = ConfigSnapshot(1, decode_project(document))
    await Bucket(broker, topology.LEASE_BUCKET).put("loader.letters", b"l")
    state = SiteState(position=5, behind={"letters": Mark(seq=3, at_seconds=1.0, owed=12)})
    await Bucket(broker, topology.STATE_BUCKET).put(state_key("_dead"), msgspec.json.encode(state))
    sites, states = await read_sites(broker, snapshot, Histories(broker), time.time())
    assert set(sites) == {"shop", "_dead"}
    found = (await read_connections(broker, snapshot, states, sites, [], time.time()))["letters"]
    assert (found.state, "12 events are left" in found.why) == ("catching up", True)


async def test_streams_have_a_part_that_is_taken_and_a_broker_without_a_limit_has_none(broker: Broker) -> None:
    assert {name: ratio for name, (ratio, _) in (await read_streams(broker)).items()} == {"EVENTS": 0.0, "DEAD": 0.0}
    assert await read_disks(broker, []) == {}


def test_disks_of_all_processes_are_told_once_for_each_disk_of_a_machine() -> None:
    def told(service: str, host: str, ratio: float, *used_for: str, at: float = 1.0) -> Told:
        disk = Disk(ratio=ratio, free_bytes=2**30, used_for=list(used_for))
        return Told(service=service, instance=service, at=at, report=Report(True), host=host, disks={"/data": disk})

    found = disks_in(
        [
            told("ingest", "one", 0.5, "the journal"),
            told("loader", "one", 0.9, "destination wh", at=2.0),
            told("loader", "two", 0.1, "scratch"),
        ]
    )
    assert found == {
        "the disk /data on one": (0.9, "1.0 GiB are free; it holds destination wh of loader, the journal of ingest"),
        "the disk /data on two": (0.1, "1.0 GiB are free; it holds scratch of loader"),
    }


def test_a_disk_is_found_by_its_mount_point_also_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    found = disks_of({"the journal": str(tmp_path), "scratch": str(tmp_path / "a" / "b")})
    ((mount, disk),) = found.items()
    assert os.path.ismount(mount)
    assert 0 < disk.ratio < 1
    assert disk.used_for == ["scratch", "the journal"]


async def test_a_disk_that_hangs_holds_up_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    known, hangs = {"/": Disk(ratio=0.5, free_bytes=1)}, threading.Event()
    monkeypatch.setattr("shared.streams.disks.PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr("shared.streams.disks.disks_of", lambda _: known)
    watch = DiskWatch()
    assert await watch.look({"x": "/"}) == known
    monkeypatch.setattr("shared.streams.disks.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("shared.streams.disks.disks_of", lambda _: hangs.wait(60) and {})
    try:
        for _ in range(3):
            assert await watch.look({"x": "/"}) == known
    finally:
        hangs.set()


def test_words_of_services_are_found_by_part_and_parts_with_a_line_of_their_own_are_no_problem_of_a_service() -> None:
    report = Report(
        False,
        {"process 2: journal": "full", "connection c": "refused", "alerts ops": "404"},
        {"clients": "refused", "stream EVENTS": "x", "connection c: waiting": "w"},
    )
    reports = [Told(service="ingest", instance="i", at=1.0, report=report)]
    assert problems_of(reports) == {"ingest: journal": "full"}
    assert words_of(reports, "connection c") == ["refused"]


async def test_the_end_of_a_certificate_is_asked_from_the_server_once_an_hour(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    asked = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.release()
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    server = Server("127.0.0.1", listening.sockets[0].getsockname()[1])
    watch = Certificates()
    async with listening:
        found = await watch.ends({server})
        ends = found[str(server)]
        assert ends is not None
        assert 0 < ends - time.time() <= 86_400
        assert await watch.ends({server}) == found
        assert await Certificates().ends({server}) == found
        async with asyncio.timeout(60):  # the client is done with TLS before the server
            await asked.acquire()
            await asked.acquire()
        assert asked.locked(), "the first one asked once"
    assert await Certificates(look_seconds=0.0).ends({server}) == {str(server): None}
    again = Certificates(look_seconds=0.0)
    again._known[server] = (0.0, ends)
    assert await again.ends({server}) == found, "a server that is away keeps its certificate"


async def test_the_brokers_certificate_begins_in_the_clear(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"tls_required":true}\r\n')
        await writer.drain()
        await writer.start_tls(context)
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        found = await end_of(Server("127.0.0.1", listening.sockets[0].getsockname()[1], nats=True))
    assert found is not None


def test_servers_with_tls_are_found_in_destinations_settings_and_lists() -> None:
    destinations: dict[str, dict[str, Any]] = {
        "crm": {"type": "webhook", "url": "https://crm.example.com/in", "headers": {"X": "https://other.example.com:8443"}},
        "wh": {"type": "clickhouse", "url": "http://127.0.0.1:8123"},
    }
    found = servers_of(destinations.values(), ["edge.example.com:443"], "nats://plain:4222,tls://n1:4222,tls://n2")
    assert {str(server) for server in found} == {
        "crm.example.com:443", "other.example.com:8443", "edge.example.com:443", "n1:4222", "n2:4222",
    }  # fmt: skip
    assert msgspec.json.encode([server.nats for server in sorted(found)]).count(b"true") == 2
