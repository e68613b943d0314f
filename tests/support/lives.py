"""Lives of a functions' runtime in one process, over a real broker: each may die, or be frozen, between any two of its steps.

A step is what a life sends to the broker for good: a publish, or an acknowledgement. `Journal` reads what came of all lives as a loader does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec

from functions_runtime.connection import ConnectionFunctions
from functions_runtime.definition import Definition
from functions_runtime.host.fetch import Fetcher
from functions_runtime.lookups.tables import Tables
from functions_runtime.rules.outcome import STAGE
from functions_runtime.sandbox.chain import Chain, Host
from functions_runtime.sandbox.guest import Code, Spec
from functions_runtime.sandbox.pool import Pool
from functions_runtime.settings import FunctionsSettings
from shared.driving.egress import Guard
from shared.errors import PenstockError, Transient
from shared.events.dead import DeadLetter, decode_dead
from shared.events.frame import Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import Place, read_place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import StreamReader
from shared.project.model import Connection
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.streams.ended import Ended, ended_key
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

LANE = "live-x-shop@1"
FOR_GOOD = ("deliver.", "dead.", "retry.", "$KV.state.", "$JS.ACK.")
Side = Literal["before", "behind"]


class Step:
    """The moment at which a life ends, or sleeps: before its `number`th step is sent, or behind it; 0: never."""

    def __init__(self, number: int = 0, side: Side = "before") -> None:
        self._number = number
        self._side = side
        self.made: list[str] = []
        self.reached = asyncio.Event()
        self._goes_on = asyncio.Event()

    def thaw(self) -> None:
        """Lets a life go on that sleeps."""
        self._goes_on.set()

    async def around(self, subject: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Sends, unless the life is over."""
        if self.reached.is_set():
            await self._goes_on.wait()
        if not subject.startswith(FOR_GOOD):
            return await send()
        self.made.append(subject)
        due = len(self.made) == self._number
        if due and self._side == "before":
            await self._sleep()
        answer = await send()
        if due and self._side == "behind":
            await self._sleep()
        return answer

    async def _sleep(self) -> None:
        self.reached.set()
        await self._goes_on.wait()


class Warm(Pool):
    """Keeps one sandbox for all lives: a process to start for each costs more than the rest of a test."""

    def __init__(self) -> None:
        super().__init__(1, 3600)
        self._kept: Chain | None = None

    def chain(self, spec: Spec, host: Host, on_ended: Callable[[str], None] = lambda _: None) -> Chain:
        """As `Pool.chain`."""
        if self._kept is None or self._kept.spec != spec:
            self._kept = super().chain(spec, host, on_ended)
        self._kept.serve(host)
        return self._kept

    async def forget(self, chain: Chain) -> None:
        """Keeps it."""


class Lives:
    """The functions of one connection, `c`, and all who ever ran them."""

    def __init__(self, url: str, code: str, telemetry: Telemetry, **options: Any) -> None:
        self._url = url
        self._code = code
        self._telemetry = telemetry
        self._options = options
        self._pool = Warm()
        self._epoch = 0
        self.health = Health()

    @contextlib.asynccontextmanager
    async def life(self, step: Step | None = None) -> AsyncIterator[Lease]:
        """A life that ends with the context: what it had not sent by then it never sends."""
        step = step or Step()
        self._epoch += 1
        connection = Connection(site="shop", destination="wh", functions=["f"], **self._options)
        definition = Definition("c", "c", connection, (Code("f", self._code),), "duckdb")
        async with connect(self._url, f"life-{self._epoch}", patience_seconds=60) as broker:
            lease, settings = Lease("functions.c", self._epoch, 3600), ServiceSettings()
            _pass_by(step, broker)
            context = ServiceContext("functions", "here", settings, broker, cast("Any", None), self._telemetry, self.health)
            fetcher = Fetcher(Guard(()))
            worker = ConnectionFunctions(
                context,
                definition=definition,
                settings=FunctionsSettings(),
                pool=self._pool,
                fetcher=fetcher,
                tables=Tables(context),
            )
            working = asyncio.create_task(_work(worker, lease))
            try:
                yield lease
                if working.done():
                    with contextlib.suppress(*((PenstockError,) if lease.lost.is_set() else ())):
                        working.result()
            finally:
                # a dead process says no farewell
                broker.nc.publish = broker.nc.request = _silence  # type: ignore[method-assign]
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                await fetcher.close()

    async def close(self) -> None:
        """Ends the sandbox."""
        await Pool.close(self._pool)
        if self._pool._kept is not None:
            await self._pool._kept.close()


async def _work(worker: ConnectionFunctions, lease: Lease) -> None:
    """Works as a service does: a session that fails begins again."""
    while True:
        try:
            await worker.work(lease, asyncio.Event())
        except Transient:
            if lease.lost.is_set():
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def _silence(*_: Any, **__: Any) -> Any:
    raise TimeoutError


def _pass_by(step: Step, broker: Broker) -> None:
    publish, request = broker.nc.publish, broker.nc.request

    async def published(subject: str, *args: Any, **kwargs: Any) -> None:
        await step.around(subject, lambda: publish(subject, *args, **kwargs))

    async def requested(subject: str, *args: Any, **kwargs: Any) -> Any:
        return await step.around(subject, lambda: request(subject, *args, **kwargs))

    broker.nc.publish = published  # type: ignore[method-assign]
    broker.nc.request = requested  # type: ignore[method-assign]


async def put(broker: Broker, seq: int, ids: Sequence[str], *, rewind: int = 0) -> None:
    """Puts a frame before the functions as the router does."""
    request = RequestContext(received_at=1_767_225_600_000_000, protocol="segment", key="web")
    heads = [Head(id_, "track", "Order", f"u-{id_}") for id_ in ids]
    bodies = [msgspec.json.encode({"messageId": id_, "type": "track", "n": number}) for number, id_ in enumerate(ids)]
    headers = write_place(Place(LANE, seq, len(ids), rewind=rewind))
    payload = encode_frame(pack("shop", [request], heads, bodies))
    await broker.publisher.publish(topology.functions_subject("c"), payload, msg_id=f"{LANE}.{seq}.{rewind}", headers=headers)


async def is_done(broker: Broker) -> None:
    """Waits until nothing waits for functions."""
    async with asyncio.timeout(60):
        while await _waits(broker):
            await asyncio.sleep(0.01)


async def _waits(broker: Broker) -> int:
    found = 0
    for stream, subject in ((topology.FUNCTIONS, "functions.c"), (topology.RETRY, topology.retry_subject(STAGE, "c"))):
        info = await broker.js.stream_info(stream, subjects_filter=subject)
        found += sum((info.state.subjects or {}).values())
    return found


@dataclass
class Journal:
    """What came of all lives: ids that went on, as a loader takes them, and dead letters."""

    ids: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    dead: list[DeadLetter] = field(default_factory=list)
    said_dead: int = 0
    """How many dead letters the frames that went on tell of."""
    bodies: dict[str, bytes] = field(default_factory=dict)
    _through: dict[str, int] = field(default_factory=dict)

    async def load(self, broker: Broker) -> None:
        """Empties DELIVER as a loader does: a frame that is not above the last of its lane is a repeat; it notes how far it is."""
        subject = topology.deliver_subject("c")
        async with QueueReader(broker, topology.DELIVER, subject, "test-loader") as reader:
            for _ in range(await reader.count()):
                message = await reader.next(60)
                assert message is not None
                place = read_place(message.headers)
                assert place is not None
                if place.seq > self._through.get(place.lane, 0):
                    self._through[place.lane] = place.seq
                    frame = decode_frame(message.payload)
                    self.ids.update(head.message_id for head in frame.heads)
                    self.bodies |= zip((head.message_id for head in frame.heads), frame.bodies(), strict=True)
                    self.dropped.update(frame.dropped)
                    self.said_dead += sum(frame.dead.values())
                await reader.ack([message.seq])
        ended = msgspec.json.encode(Ended(through=self._through))
        await Bucket(broker, topology.STATS_BUCKET).put(ended_key("c"), ended)

    async def read_dead(self, broker: Broker) -> None:
        """Reads all dead letters."""
        count = (await broker.js.stream_info(topology.DEAD)).state.messages
        self.dead.clear()
        async with StreamReader(broker, topology.DEAD) as reader:
            for _ in range(count):
                message = await reader.next(60)
                assert message is not None
                self.dead += decode_dead(message.payload)

    def problems(self, sent: Sequence[str]) -> list[str]:
        """Returns what is wrong: each event is once in one place, or dropped and counted; so are the ones that functions made."""
        dead = Counter(str(letter.message_id) for letter in self.dead)
        wrong = [f"{id_} went on {times} times" for id_, times in self.ids.items() if times > 1]
        wrong += [f"{id_} is dead {times} times" for id_, times in dead.items() if times > 1]
        wrong += [f"{id_} went on and is dead" for id_ in self.ids.keys() & dead.keys()]
        missing = set(sent) - self.ids.keys() - dead.keys()
        if len(missing) != self.dropped.total():
            wrong.append(f"{sorted(missing)} are nowhere, {dict(self.dropped)} were dropped")
        if self.said_dead != dead.total():
            wrong.append(f"frames tell of {self.said_dead} dead letters, there are {dead.total()}")
        known = {*sent, *(f"{id_}-copy" for id_ in sent), *(f"{id_}-again" for id_ in sent)}
        wrong += [f"{id_} was never sent" for id_ in (self.ids.keys() | dead.keys()) - known]
        return wrong
