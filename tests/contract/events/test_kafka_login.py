"""Kafka behind TLS and a login: who is let in, what people are told when nobody is, and that no password stands in it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from loader.queues.kafka import session
from penstock.control.project.check import check_destinations
from tests.support.certificate import make_certificate
from tests.support.kafka_broker import Tansu, front_of
from tests.support.kafka_login import Login
from tests.support.kafka_mock import mock_cluster

PASSWORD = "password-of-the-tests"
USERS = {"shop": PASSWORD}
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@pytest.fixture(scope="module")
def tansu() -> Iterator[Tansu]:
    with Tansu() as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def tls_of(certificate: Path, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
    return context


async def check(servers: str, topic: str = "t", **options: Any) -> list[tuple[str, bool, str]]:
    """Returns the steps of `penstock check`."""
    document = {"type": "kafka", "bootstrap_servers": servers, "topic": topic, "timeout": 5, **options}
    (found,) = await check_destinations({"bus": document}, None, lambda *_, **__: None)
    return [(step.step, step.ok, step.message) for step in found.steps]


def both_ok(steps: list[tuple[str, bool, str]]) -> None:
    assert [(step, ok) for step, ok, _ in steps] == [("reach", True), ("topic", True)], steps


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_a_user_logs_in_and_a_wrong_password_is_named_but_not_shown(tansu: Tansu, mechanism: str) -> None:
    async with front_of(tansu, Login(USERS)) as front:
        both_ok(await check(front.servers, sasl=mechanism, user="shop", password=PASSWORD))
        for user, password in (("shop", "wrong-" + PASSWORD), ("nobody", PASSWORD)):
            ((step, ok, message),) = await check(front.servers, sasl=mechanism, user=user, password=password)
            assert (step, ok) == ("reach", False)
            assert f"refuses the login of '{user}'; check user, password" in message
            assert PASSWORD not in message


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_the_login_of_the_tests_is_the_one_that_another_client_knows(tansu: Tansu, mechanism: str) -> None:
    """librdkafka logs in as we do, so the broker's side of the tests is not of our own invention."""
    import asyncio

    def topics(password: str) -> Any:
        given: dict[str, Any] = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism, "log_level": 0}
        given |= {"bootstrap.servers": servers, "sasl.username": "shop", "sasl.password": password}
        return AdminClient(given).list_topics(timeout=1)

    async with front_of(tansu, Login(USERS)) as front:
        servers = front.servers
        assert (await asyncio.to_thread(topics, PASSWORD)).brokers
        with pytest.raises(KafkaException):
            await asyncio.to_thread(topics, "wrong")


async def test_what_is_missing_of_a_login_is_said(tansu: Tansu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "OPEN_SECONDS", 3.0)
    async with front_of(tansu, Login(USERS, ("SCRAM-SHA-512",))) as front:
        ((_, ok, message),) = await check(front.servers, sasl="PLAIN", user="shop", password=PASSWORD)
        assert not ok
        assert "takes no login by PLAIN" in message
        ((_, ok, message),) = await check(front.servers)
        assert not ok
        assert "check `ssl`, `sasl` and the port" in message


async def test_an_encrypted_connection_proves_the_broker(tansu: Tansu, certificate: Path) -> None:
    trusted = {"ssl": "verify-full", "ssl_root_certificate": str(certificate)}
    async with front_of(tansu, Login(USERS), tls_of(certificate)) as front:
        login = {"sasl": "SCRAM-SHA-512", "user": "shop", "password": PASSWORD}
        both_ok(await check(front.servers, **trusted, **login))
        both_ok(await check(front.servers, ssl="require", **login))
        ((_, ok, message),) = await check(front.servers, ssl="verify-full", **login)
        assert not ok
        assert "check `ssl`, the certificates" in message
        ((_, ok, message),) = await check(front.servers.replace("127.0.0.1", "localhost"), **trusted, **login)
        assert not ok
        assert "TLS fails" in message


async def test_a_broker_that_asks_for_a_certificate_gets_one(tansu: Tansu, certificate: Path) -> None:
    own = {"ssl_certificate": str(certificate), "ssl_key": str(certificate.with_name("key.pem"))}
    trusted = {"ssl": "verify-full", "ssl_root_certificate": str(certificate)}
    async with front_of(tansu, tls=tls_of(certificate, asks=True)) as front:
        both_ok(await check(front.servers, **trusted, **own))
        ((_, ok, _),) = await check(front.servers, **trusted)
        assert not ok
    ((_, ok, message),) = await check(front.servers, **trusted, ssl_certificate="/none", ssl_key="/none")
    assert not ok
    assert "ssl_certificate and ssl_key cannot be read" in message


async def test_where_nobody_listens_that_is_said_with_the_address(tansu: Tansu) -> None:
    ((step, ok, message),) = await check(f"127.0.0.1:{tansu.advertised}")
    assert (step, ok) == ("reach", False)
    assert f"127.0.0.1:{tansu.advertised}: cannot connect" in message
    assert "check bootstrap_servers" in message
    ((_, ok, message),) = await check("no-such-host.invalid:9092")
    assert not ok
    assert "no-such-host.invalid:9092" in message


async def test_a_topic_is_looked_for_unless_events_choose_it() -> None:
    with mock_cluster(1) as cluster:
        cluster.create("there", 2)
        cluster.topic_error("missing", 3)
        assert (await check(cluster.servers, "there"))[1] == ("topic", True, "2 partitions")
        _, (step, ok, message) = await check(cluster.servers, "missing")
        assert (step, ok) == ("topic", False)
        assert 'topic "missing": the topic does not exist' in message
        _, (_, ok, message) = await check(cluster.servers, "{{ event.type }}")
        assert ok
        assert "an event chooses its topic" in message
