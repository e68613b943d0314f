"""The MQTT feed's own: MQTT 5 with a broker that keeps packet ids, certificates, properties, retained messages, shared subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from connector_runner.feeds.kinds.mqtt.feed import MqttFeed
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds import of_mqtt
from tests.contract.feeds.conftest import until
from tests.support.certificate import make_certificate
from tests.support.feeds import SECONDS, Journal, Lives, Side, Step, record
from tests.support.mosquitto import Mosquitto
from tests.support.nats import NatsServer


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto"), "max_queued_messages 0\n") as started:
        yield started


def document(port: int, *topics: str, **more: Any) -> dict[str, Any]:
    return {"type": "mqtt", "server": f"mqtt://127.0.0.1:{port}", "topics": list(topics), "client_id": topics[0], **more}


@contextlib.asynccontextmanager
async def publisher(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    if tls is not None:
        client.tls_set_context(tls)
    client.max_inflight_messages_set(20)
    welcome = threading.Event()
    client.on_connect = lambda *_: welcome.set()
    await asyncio.to_thread(client.connect, "127.0.0.1", port)
    client.loop_start()
    try:
        assert await asyncio.to_thread(welcome.wait, 10)
        yield client
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def publish(client: Client, topic: str, values: Sequence[bytes | None], **more: Any) -> None:
    sent = [client.publish(topic, value, qos=1, **more) for value in values]
    for each in sent:
        await asyncio.to_thread(each.wait_for_publish, 20)


async def subscribed(lives: Lives) -> None:
    """Lets the feed live until the broker has its session."""
    async with lives.life() as ending:
        await until(lambda: bool(_lines(lives)))
        ending.set()


async def test_a_reader_that_is_killed_loses_and_doubles_nothing(
    mosquitto: Mosquitto, broker: NatsServer, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publisher(mosquitto.port) as client:
        lives = Lives(broker.url, document(mosquitto.port, "killed/+/state"), telemetry)
        await subscribed(lives)
        journal, written = Journal(lives), 0
        steps: list[tuple[Literal["publish", "commit"], int, Side]] = [
            ("publish", 1, "before"),
            ("publish", 2, "behind"),
            ("commit", 1, "before"),
            ("commit", 2, "behind"),
        ]
        with monkeypatch.context() as patch:
            patch.setattr(MqttFeed, "close", _drop)
            for step in steps:
                # devices often say the same again
                await publish(client, f"killed/d{written}/state", [b'"on"'] * 700)
                written += 700
                death = Step(*step)
                async with lives.life(death), asyncio.timeout(SECONDS):
                    await death.reached.wait()
        async with lives.life() as ending:
            await journal.until(written)
            ending.set()
        assert len(journal.ids) == written
        assert journal.in_order()
        # an acknowledged message does not come again
        await publish(client, "killed/last/state", [record(1)])
        async with lives.life() as ending:
            await journal.until(written + 1)
            ending.set()
        assert len(journal.ids) == written + 1


async def test_a_broker_that_restarts_under_load_loses_and_doubles_nothing(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path
) -> None:
    with Mosquitto(tmp_path, "max_queued_messages 0\n") as own:
        lives = Lives(broker.url, document(own.port, "restart/#"), telemetry)
        await subscribed(lives)
        journal = Journal(lives)
        async with lives.life() as ending:
            for start in range(0, 900, 300):
                async with publisher(own.port) as client:
                    await publish(client, "restart/x", [record(n) for n in range(start, start + 300)])
                await asyncio.to_thread(own.stop)
                await asyncio.to_thread(own.start)
            await journal.until(900)
            ending.set()
        assert sorted(journal.values()) == list(range(900))


async def test_a_broker_that_forgets_acknowledgements_doubles_no_message_with_an_id_of_its_own(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path
) -> None:
    with of_mqtt.server(tmp_path) as server:
        async with of_mqtt.open_source(server) as source:
            lives = Lives(broker.url, {**source.document, "message_id": "m{value.n}"}, telemetry)
            journal = Journal(lives)
            async with lives.life() as ending:
                for start in range(0, 300, 100):
                    await source.put([record(n) for n in range(start, start + 100)])
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                await journal.until(300)
                ending.set()
            assert sorted(journal.values()) == list(range(300))


async def test_properties_retained_messages_and_texts_are_told(
    mosquitto: Mosquitto, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with publisher(mosquitto.port) as client:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [("id", "m-1"), ("unit", "°C")]
        properties.ContentType = "application/json"
        await publish(client, "told/kept", [record(1)], retain=True)
        lives = Lives(broker.url, document(mosquitto.port, "told/+", message_id="{header.id}", event="{value.kind}"), telemetry)
        journal = Journal(lives)
        async with lives.life() as ending:
            await journal.until(1)
            await publish(client, "told/x", [record(2, kind="reading")], properties=properties)
            await publish(client, "told/x", [b"21.5", b"", b"on"])
            await journal.until(4, dead=1)
            ending.set()
        kept, told, number, empty = journal.events
        assert kept["context"]["feed"]["headers"] == {"mqtt.retain": "true"}
        assert told["messageId"] == "m-1"
        assert told["event"] == "reading"
        assert told["context"]["feed"]["headers"] == {"id": "m-1", "unit": "°C", "mqtt.content_type": "application/json"}
        assert number["properties"] == {"value": 21.5}
        assert empty["context"]["feed"]["tombstone"] is True
        assert [letter.body for letter in journal.dead] == [b"on"]
        # what is retained does not come with every connection
        async with lives.life() as ending:
            await publish(client, "told/x", [record(3)])
            await journal.until(5)
            ending.set()
        assert len(journal.events) == 5
        # former topics are given up, new ones bring what they retain
        await publish(client, "more/kept", [record(9)], retain=True)
        lives.document["topics"] = ["more/#"]
        async with lives.life() as ending:
            await journal.until(6)
            await publish(client, "told/x", [record(4)])
            await publish(client, "more/x", [record(10)])
            await journal.until(7)
            ending.set()
        assert journal.values()[-2:] == [9, 10]


async def test_two_feeds_share_a_subscription(mosquitto: Mosquitto, broker: NatsServer, telemetry: Telemetry) -> None:
    every = [Lives(broker.url, document(mosquitto.port, "$share/all/shared/#", client_id=f"r{n}"), telemetry) for n in (1, 2)]
    journals = [Journal(lives) for lives in every]
    async with every[0].life() as first, every[1].life() as second, publisher(mosquitto.port) as client:
        await until(lambda: all(_lines(lives) for lives in every))
        await publish(client, "shared/x", [record(n) for n in range(200)])
        async with asyncio.timeout(SECONDS):
            while sum(len(journal.ids) for journal in journals) < 200:
                for journal in journals:
                    await journal.look()
        first.set()
        second.set()
    assert sorted(n for journal in journals for n in journal.values()) == list(range(200))
    assert all(journal.values() for journal in journals)


async def test_another_client_of_the_same_name_is_said(mosquitto: Mosquitto, broker: NatsServer, telemetry: Telemetry) -> None:
    lives = Lives(broker.url, document(mosquitto.port, "taken/#"), telemetry)
    async with lives.life():
        await until(lambda: bool(_lines(lives)))
        other = Client(CallbackAPIVersion.VERSION2, client_id="taken/#", protocol=MQTTProtocolVersion.MQTTv5)
        await asyncio.to_thread(other.connect, "127.0.0.1", mosquitto.port)
        other.loop_start()
        await until(lambda: "another client may use the same `client_id`" in lives.problem)
        other.disconnect()
        await asyncio.to_thread(other.loop_stop)


async def test_tls_with_certificates_of_both_sides(broker: NatsServer, telemetry: Telemetry, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path), tmp_path / "key.pem"
    lines = f"cafile {certificate}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate true\n"
    with Mosquitto(tmp_path / "broker", lines) as own:
        given = document(own.port, "tls/#", server=f"mqtts://127.0.0.1:{own.port}", ssl_root_certificate=str(certificate))
        nameless = Lives(broker.url, given, telemetry)
        async with nameless.life():
            await until(lambda: nameless.problem != "")
        assert "TLS" in nameless.problem or "closed the connection" in nameless.problem, nameless.problem
        stranger = Lives(broker.url, {**given, "ssl_root_certificate": None}, telemetry)
        async with stranger.life():
            await until(lambda: "check the certificates" in stranger.problem)
        plain = Lives(broker.url, document(own.port, "tls/#"), telemetry)
        async with plain.life():
            await until(lambda: "with or without TLS" in plain.problem)
        lives = Lives(broker.url, {**given, "ssl_certificate": str(certificate), "ssl_key": str(key)}, telemetry)
        await subscribed(lives)
        tls = ssl.create_default_context(cafile=str(certificate))
        tls.load_cert_chain(certificate, key)
        journal = Journal(lives)
        async with publisher(own.port, tls) as client:
            await publish(client, "tls/x", [record(n, text="x" * 3000) for n in range(300)])
        async with lives.life() as ending:
            await journal.until(300)
            ending.set()
        assert sorted(journal.values()) == list(range(300))


async def _drop(feed: MqttFeed) -> None:
    """Ends a feed as `kill -9` does."""
    feed._link._abort()


def _lines(lives: Lives) -> list[str]:
    exposed = f'feed="{lives.name}"'
    return [line for line in lives.telemetry.exposition().decode().splitlines() if "feeds_lag" in line and exposed in line]
