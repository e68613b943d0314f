"""Services and proxies that answer oddly: every event is delivered once it can be, none is lost to an odd answer, and no secret is told."""

from __future__ import annotations

import gzip
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from loader.cloud import amplitude
from loader.delivery.sending import later, pace
from loader.links import http
from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.support.nats import NatsServer, nats_server
from tests.support.receiver import Behaviour, Receiver
from tests.support.sending import Sending
from tests.support.services import SECRET, SERVICES, Service, event

NAMES = itertools.count(1)
PAGE = b"<html><title>Sign in to the network</title></html>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One broker for all services; each connection has a queue of its own."""
    with nats_server(Path(tmp_path_factory.mktemp("odd")) / "nats", sync="2m") as running:
        yield running


def odd_answers(elsewhere: str) -> list[Behaviour]:
    """Returns answers that say nothing of an event, though some look like success."""
    bomb = gzip.compress(b"<" * 50_000_000)
    echo = f"no access for {SECRET}".encode()
    return [
        Behaviour(200, {"Content-Type": "text/html"}, PAGE),
        Behaviour(200, {}, b'{"error":"backend is away","success":false}'),
        Behaviour(200, {"Content-Type": "application/json"}, b'{"errors":[{"index":0,"mess'),
        Behaviour(200, {"Content-Encoding": "gzip"}, bomb),
        Behaviour(401, {}, echo),
        Behaviour(302, {"Location": f"{elsewhere}?token={SECRET}"}, b""),
        Behaviour(307, {"Location": elsewhere}, PAGE),
        Behaviour(405, {}, PAGE),
        Behaviour(408, {}, b""),
        Behaviour(429, {"Retry-After": "-5"}, echo),
        Behaviour(429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, b""),
        Behaviour(503, {"Retry-After": "soon"}, b"{"),
        Behaviour(504, {}, PAGE),
        Behaviour(500, what="huge"),
        Behaviour(what="cut"),
    ]


@pytest.mark.parametrize("type_name", sorted(SERVICES))
async def test_no_odd_answer_loses_an_event_or_tells_a_secret(
    server: NatsServer, type_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pace, "PAUSE_SECONDS", (0.01, 0.03))
    monkeypatch.setattr(later, "FACTOR", 1.0)
    monkeypatch.setattr(amplitude, "THROTTLED_SECONDS", 0.03)
    caplog.set_level(logging.DEBUG, "loader")
    rules = SERVICES[type_name]
    async with Receiver() as elsewhere, connect(server.url, "test", patience_seconds=60) as broker:
        service = Service(rules, odd_answers(elsewhere.url))
        async with Receiver(service.behave) as receiver:
            await topology.ensure(broker, topology.TopologySettings())
            own = {"type": type_name, **rules.document, "endpoint": receiver.url.removesuffix("/in"), "retry_delay": 0.03}
            sending = Sending(broker, f"o{next(NAMES)}", own)
            await sending.put(1, [event(number, rules) for number in range(6)])
            await sending.live()
        assert service.script == [], "not every odd answer was given"
        assert set(service.taken) == {f"mid-{number}" for number in range(6)}
        assert await sending.letters() == []
        counts = (await sending.account()).counts
        assert (counts.live, counts.delivered, counts.dead) == (6, 6, {})
        assert elsewhere.requests == [], "a redirect was followed"
    said = " ".join(str(vars(record)) for record in caplog.records)
    assert SECRET not in said, "a secret stands in the log"


def test_an_answer_that_came_compressed_is_read_within_the_bound() -> None:
    packed = gzip.compress(b"{}" + b" " * 50_000_000)
    assert http._plain(packed, "gzip", 1_000) == (b"{}" + b" " * 998)
    assert http._plain(b"plain", "gzip", 1_000) == http._plain(b"plain", "br", 1_000) == b"plain"
