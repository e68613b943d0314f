"""A topic of nats-server, which speaks MQTT 3.1.1; it gives the subscriber up after a second, and then sends again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.contract.feeds.source import Source
from tests.support.nats import NatsServer
from tests.support.ports import free_port

USER, PASSWORD = "reader", "secret"
_numbers = itertools.count()


class MqttServer(NatsServer):
    """nats-server with a port for MQTT."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync="1m")
        self.mqtt_port = free_port()
        self.forbidden = "never"
        """A subject that the reader may not subscribe to."""

    def command(self) -> Sequence[str | Path]:
        """See `OwnServer.command`."""
        forbidden = f'permissions: {{ publish: ">", subscribe: {{ allow: ">", deny: "{self.forbidden}" }} }}'
        self.more_config = (
            f"server_name: mqtt\nmqtt {{ port: {self.mqtt_port}, ack_wait: 1s, max_ack_pending: 2000 }}\n"
            f"authorization {{ users: [ {{ user: {USER}, password: {PASSWORD}, {forbidden} }} ] }}\n"
        )
        return super().command()


class MqttSource(Source):
    """One topic."""

    repeats_in_order: ClassVar[bool] = False

    def __init__(self, server: MqttServer) -> None:
        self.server = server
        self.name = f"orders{next(_numbers)}"

    @property
    def document(self) -> dict[str, Any]:
        return {
            "type": "mqtt",
            "server": f"mqtt://127.0.0.1:{self.server.mqtt_port}",
            "version": "3.1.1",
            "topics": [f"{self.name}/#"],
            "client_id": self.name,
            "user": USER,
            "password": PASSWORD,
        }

    async def put(self, values: Sequence[bytes]) -> None:
        await asyncio.to_thread(publish, self.server.mqtt_port, f"{self.name}/new", values)

    async def away(self) -> None:
        """Stops it in order: when it is killed, it forgets acknowledgements (`test_mqtt.py` has that)."""
        await asyncio.to_thread(self.server.stop)

    async def back(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def spoil(self) -> None:
        """Forbids the topic, and lets the server forget the session that has it."""
        await asyncio.to_thread(self.server.kill)
        shutil.rmtree(self.server.directory / "store")
        self.server.forbidden = f"{self.name}.>"
        await asyncio.to_thread(self.server.start)

    @property
    def wrong_login(self) -> dict[str, Any]:
        return {"password": "wrong"}


def publish(port: int, topic: str, values: Sequence[bytes], *, retain: bool = False) -> None:
    """Publishes with QoS 1, and waits until the broker has all."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set(USER, PASSWORD)
    client.max_inflight_messages_set(200)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for sent in [client.publish(topic, value, qos=1, retain=retain) for value in values]:
        sent.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


def make_session(port: int, client_id: str, topic: str) -> None:
    """Lets the broker keep messages for a client, as after its first life."""
    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
    client.username_pw_set(USER, PASSWORD)
    made, welcome = threading.Event(), threading.Event()
    client.on_connect = lambda *_: welcome.set()
    client.on_subscribe = lambda *_: made.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert welcome.wait(60)
    client.subscribe(topic, 1)
    assert made.wait(60)
    client.disconnect()
    client.loop_stop()


@contextlib.contextmanager
def server(folder: Path) -> Iterator[MqttServer]:
    """Runs a server that wants a login."""
    with MqttServer(folder) as started:
        yield started


@contextlib.asynccontextmanager
async def open_source(server: MqttServer) -> AsyncIterator[MqttSource]:
    """Names a topic, and makes its session: what is published before the first subscription is nobody's."""
    source = MqttSource(server)
    await asyncio.to_thread(make_session, server.mqtt_port, source.name, f"{source.name}/#")
    yield source
