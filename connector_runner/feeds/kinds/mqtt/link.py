"""One connection to a broker: paho's client on the event loop, its errors in our words.

paho reads and writes its socket when it is told that it may; only the connecting blocks, so that runs on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from connector_runner.feeds.kinds.mqtt.client import REMEDIES, make_client, refusal, translate
from shared.errors import NotConnected, PenstockError, SetupError
from shared.tasks import timeout

if TYPE_CHECKING:
    from connector_runner.feeds.kinds.mqtt import MqttOptions

ANSWER_SECONDS = 10.0
KEEPALIVE_SECONDS = 20
"""Between two pings; a silent broker is given up after twice this."""
MOST_HELD = 20_000
MOST_HELD_BYTES = 32 * 1024 * 1024
"""Messages and bytes that wait to be read, at most; further ones stay in the socket."""
READS = 200
"""Packets that are read before other tasks get their turn."""
NEVER = "penstock/never"
"""A filter that is never subscribed to: unsubscribing from it shows how far the broker has read."""


class Arrived(NamedTuple):
    """A message; `packet` is 0 for QoS 0."""

    packet: int
    again: bool
    topic: str
    payload: bytes
    headers: Sequence[tuple[str, bytes]]
    fault: str


class Link:
    """An open connection; `connect` makes one."""

    def __init__(self, client: Client, what: str) -> None:
        self._client = client
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._held: deque[Arrived] = deque()
        self._held_bytes = 0
        self._open: set[int] = set()
        """Packets of this connection that are not acknowledged."""
        self._arrived = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._soundings: dict[int, asyncio.Event] = {}
        self._welcome: asyncio.Future[Any] = self._loop.create_future()
        self._fd = -1
        self._paused = False
        self._packets = 0
        self._fault: PenstockError | None = None
        self.kept = False
        """Whether the broker has kept the session."""

    @classmethod
    async def connect(cls, what: str, name: str, options: MqttOptions) -> Link:
        """Connects, without a subscription.

        Raises:
            SetupError: the broker refuses it.
            NotConnected: the broker does not answer.
        """
        client, more = make_client(what, name, options)
        link = cls(client, what)
        client.on_connect = link._on_connect
        client.on_disconnect = link._on_disconnect
        client.on_message = link._on_message
        client.on_subscribe = link._on_answer
        client.on_unsubscribe = link._on_answer
        host, port = options.address()
        connecting = asyncio.ensure_future(asyncio.to_thread(client.connect, host, port, KEEPALIVE_SECONDS, **more))
        try:
            await asyncio.shield(connecting)
            link._attach()
            async with timeout(ANSWER_SECONDS):
                await link._welcome
        except asyncio.CancelledError:
            connecting.add_done_callback(lambda done: link._abort() if done.cancelled() or not done.exception() else None)
            raise
        except TimeoutError as error:
            link._abort()
            raise NotConnected(f"{what}: the broker did not answer in time; check `server`") from error
        except OSError as error:
            link._abort()
            raise translate(error, what) from error
        except PenstockError:
            link._abort()
            raise
        return link

    async def subscribe(self, topics: Sequence[str], *, five: bool) -> None:
        """Subscribes to topics with QoS 1.

        Raises:
            SetupError: the broker refuses one.
        """
        if five:  # what a topic retains comes with its first subscription, and not with each
            options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
            wanted: list[Any] = [(topic, options) for topic in topics]
        else:
            wanted = [(topic, 1) for topic in topics]
        codes = await self._ask(self._client.subscribe(wanted))
        refused = [topic for topic, code in zip(topics, codes, strict=False) if code.is_failure]
        if refused:
            names = ", ".join(refused)
            raise SetupError(
                f"{self._what}: the broker refuses to subscribe to {names}; check `topics` and the user's permissions"
            )

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Gives up subscriptions."""
        await self._ask(self._client.unsubscribe(list(topics)))

    def sound(self) -> asyncio.Event:
        """Returns an event that is set once the broker has read all that was sent before."""
        event = asyncio.Event()
        _, number = self._client.unsubscribe(NEVER)
        if number is not None:
            self._soundings[number] = event
        self._flush()
        return event

    async def next(self, wait_seconds: float, most: int) -> list[Arrived]:
        """Returns messages that came; none if none came in time."""
        self.check()
        if not self._held:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with timeout(wait_seconds):
                    await self._arrived.wait()
        found = [self._held.popleft() for _ in range(min(len(self._held), most))]
        self._held_bytes -= sum(len(each.payload) for each in found)
        if self._paused and not self._is_full() and self._fd >= 0:
            self._paused = False
            self._loop.add_reader(self._fd, self._readable)
        if not found:
            self.check()
        return found

    def acknowledge(self, packets: Sequence[int]) -> None:
        """Acknowledges packets."""
        self.check()
        for packet in packets:
            self._open.discard(packet)
            self._client.ack(packet, 1)
        self._flush()
        self.check()

    @property
    def waiting(self) -> int:
        """How many messages came and were not read."""
        return len(self._held)

    def check(self) -> None:
        """Lets paho keep the connection alive.

        Raises:
            PenstockError: the connection is lost.
        """
        if not self._paused and self._fault is None:
            self._client.loop_misc()
            self._flush()
        if self._fault is not None:
            raise self._fault

    async def close(self) -> None:
        """Says goodbye, behind all acknowledgements; the broker keeps the session."""
        self._client.on_message = None
        self._client.disconnect()
        with contextlib.suppress(TimeoutError):
            async with timeout(1):
                while self._client.want_write() and self._fd >= 0:
                    self._client.loop_write()
                    await asyncio.sleep(0.01)  # only if the socket is full
        self._abort()

    async def _ask(self, asked: tuple[MQTTErrorCode, int | None]) -> Any:
        _, number = asked
        self.check()
        if number is None:
            raise NotConnected(f"{self._what}: the connection is lost")
        answer = self._answers[number] = self._loop.create_future()
        self._flush()
        try:
            async with timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError as error:
            raise NotConnected(f"{self._what}: the broker did not answer in time") from error
        finally:
            del self._answers[number]

    def _attach(self) -> None:
        plug = self._client.socket()
        if plug is None:
            raise NotConnected(f"{self._what}: the broker closed the connection at once; check `server`")
        if isinstance(plug, socket.socket):  # else an acknowledgement waits for that of the one before
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._fd = plug.fileno()
        self._client.on_socket_close = lambda *_: self._detach()
        self._loop.add_reader(self._fd, self._readable)
        self._flush()

    def _detach(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    def _abort(self) -> None:
        self._detach()
        if not self._welcome.cancel() and not self._welcome.cancelled():
            self._welcome.exception()  # it was said already
        plug = self._client.socket()
        if plug is not None:
            plug.close()

    def _readable(self) -> None:
        for _ in range(READS):
            before = self._packets
            if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or self._fd < 0:
                return
            if self._is_full():
                self._paused = True
                self._loop.remove_reader(self._fd)
                return
            if self._packets == before:
                break
        plug = self._client.socket()
        if isinstance(plug, ssl.SSLSocket) and plug.pending():
            self._loop.call_soon(self._read_on)  # TLS holds bytes of which the kernel says nothing
        self._flush()

    def _read_on(self) -> None:
        if self._fd >= 0 and not self._paused:
            self._readable()

    def _writable(self) -> None:
        self._client.loop_write()
        if self._fd >= 0 and not self._client.want_write():
            self._loop.remove_writer(self._fd)

    def _flush(self) -> None:
        if self._fd >= 0 and self._client.want_write():
            self._loop.add_writer(self._fd, self._writable)

    def _is_full(self) -> bool:
        return len(self._held) >= MOST_HELD or self._held_bytes >= MOST_HELD_BYTES

    def _on_connect(self, _client: Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        self._packets += 1
        if self._welcome.done():
            return
        if reason.is_failure:
            self._welcome.set_exception(refusal(reason, self._what))
        else:
            self.kept = bool(flags.session_present)
            self._welcome.set_result(None)

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._fault is None:
            words = "the connection is lost; if that happens again and again, another client may use the same `client_id`"
            self._fault = refusal(reason, self._what) if reason.value in REMEDIES else NotConnected(f"{self._what}: {words}")
        if not self._welcome.done():
            self._welcome.set_exception(
                NotConnected(
                    f"{self._what}: the broker closed the connection before it answered; "
                    "check `server`, and that the port speaks MQTT, with or without TLS"
                )
            )
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._fault)
        self._arrived.set()

    def _on_answer(self, _client: Client, _data: Any, number: int, codes: Any, _properties: Any) -> None:
        self._packets += 1
        event = self._soundings.pop(number, None)
        if event is not None:
            event.set()
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(codes)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._packets += 1
        packet = message.mid if message.qos else 0
        if packet:
            if packet in self._open:  # the broker is impatient; one acknowledgement is enough
                return
            self._open.add(packet)
        fault = ""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic, fault = "(no UTF-8)", "its topic is not UTF-8"
        self._held.append(
            Arrived(
                packet=packet,
                again=bool(message.dup),
                topic=topic,
                payload=bytes(message.payload),
                headers=_headers(message),
                fault=fault,
            )
        )
        self._held_bytes += len(message.payload)
        self._arrived.set()


def _headers(message: MQTTMessage) -> list[tuple[str, bytes]]:
    """Returns the properties of a user and the type of the content, of MQTT 5, and whether the message was retained."""
    found: list[tuple[str, bytes]] = []
    properties = message.properties
    if properties is not None:
        found += [(name, value.encode("utf-8", "surrogateescape")) for name, value in getattr(properties, "UserProperty", ())]
        content_type = getattr(properties, "ContentType", None)
        if content_type:
            found.append(("mqtt.content_type", content_type.encode()))
    if message.retain:
        found.append(("mqtt.retain", b"true"))
    return found
