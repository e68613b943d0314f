"""Runs the event way of a loader in this process, against a real broker, and kills it at any of its steps.

A step is what a crash could fall before or behind: a call, a write of the books, an acknowledgement, a dead letter, a message to RETRY.
`Life` is one loader's life: it ends when all events are at their end, or at the step at which it is killed. Nothing of
it runs after that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
from nats.js.errors import NotFoundError

from loader import registry
from loader.contract.events import EventDestination, Link, Way
from loader.contract.warehouse import Environment
from loader.delivery.flow import Definition
from loader.delivery.sending import send
from loader.delivery.sending.flow import EventFlow
from loader.delivery.sending.later import Later
from loader.queue.account import Accounts
from loader.watch.limit import Limit
from shared.events.dead import DeadLetter, decode_dead
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.queue_reader import QueueReader
from shared.project.model import Connection, Site
from shared.service import ServiceContext
from shared.streams.ended import Ended, decode_ended, ended_key
from shared.streams.waiting import look_aside, look_at_queue
from shared.telemetry.health import Health
from shared.telemetry.tracing.spans import NO_SPAN, Span
from shared.threads import ThreadGate

T = TypeVar("T")
LANE = "live-test-shop@1"
NEVER = 10**9


class Killed(Exception):
    """The loader was killed here."""


class _Silence:
    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def count(self, name: str, amount: float = 1, **_: object) -> None:
        self.counted[name] += int(amount)

    def record(self, name: str, value: float, **_: object) -> None:
        self.counted[name] += 1

    def gauge(self, *_: object, **__: object) -> None:
        """Shows nothing."""

    forget = show = gauge

    def span(self, *_: object, **__: object) -> contextlib.AbstractContextManager[Span]:
        """Opens a span of nothing."""
        return contextlib.nullcontext(NO_SPAN)


class Steps:
    """Counts the steps of a life and ends it at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.taken: list[str] = []
        self.dead = asyncio.Event()

    async def step(self, name: str) -> None:
        """Passes a step, or dies there."""
        if self.dead.is_set():
            await asyncio.sleep(NEVER)
        self.taken.append(name)
        if len(self.taken) >= self.kill_at:
            self.dead.set()
            await asyncio.sleep(NEVER)

    def around(self, name: str, call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """Returns a call with a step before it and one behind it."""

        async def stepping(*arguments: Any, **named: Any) -> T:
            await self.step(f"before {name}")
            result = await call(*arguments, **named)
            await self.step(f"behind {name}")
            return result

        return stepping


class Sending:
    """One connection to an event-wise destination, over the lives of its loaders."""

    def __init__(self, broker: Broker, name: str, document: Mapping[str, Any], mode: str = "stream") -> None:
        self.broker = broker
        self.name = name
        self.queue = f"{name}.1"
        self.document = dict(document)
        self.epoch = 0
        self.telemetry = _Silence()
        self.limit = Limit("off")
        """Of dead letters."""
        self.health = Health()
        self._connection = Connection(site="shop", destination="crm", mode=cast("Any", mode))

    @property
    def status(self) -> str:
        """What the service says of the connection."""
        return " ".join(self.health.problems.values())

    async def put(self, seq: int, events: Sequence[dict[str, Any]], origins: list[str] | None = None) -> None:
        """Puts a frame into the queue, as the router does.

        Args:
            origins: of the dead letters that a replay made events of again.
        """
        request = RequestContext(received_at=0, protocol="segment", key="k", kind="server")
        heads = [Head(event["messageId"], event.get("type", "track"), user_id=event.get("userId")) for event in events]
        frame = pack("shop", [request], heads, [msgspec.json.encode(event) for event in events])
        frame.origins = origins or frame.origins
        payload = encode_frame(frame)
        headers = write_place(Place(LANE, seq, len(events)))
        await self.broker.publisher.publish(
            topology.deliver_subject(self.queue), payload, msg_id=f"{self.name}.{seq}", headers=headers
        )

    async def live(self, kill_at: int = NEVER, seconds: float = 60.0) -> list[str]:
        """Lives until everything is at its end, or until it is killed; returns the steps that were taken."""
        self.epoch += 1
        steps = Steps(kill_at)
        draining = asyncio.Event()
        context = ServiceContext(
            name="loader",
            instance="test",
            settings=cast("Any", SimpleNamespace(deliver_max_frames=1000)),
            broker=self.broker,
            config=cast("Any", None),
            telemetry=cast("Any", self.telemetry),
            health=self.health,
            draining=draining,
        )
        gate = ThreadGate(1, "test")
        try:
            plugin, options = registry.parse_options("crm", self.document)
            destination = cast("EventDestination", await plugin.open_destination("crm", options, Environment(gate)))
            _stepped(destination, steps)
            accounts = Accounts(self.broker, self.queue, self.name, cast("Any", self.telemetry), "crm", "address")
            definition = Definition(self._connection, Site(), self.document, self.queue)
            flow = EventFlow(
                context=cast("Any", context),
                name=self.name,
                definition=definition,
                epoch=self.epoch,
                destination=destination,
                accounts=accounts,
                former=cast("Any", None),
                works=lambda: None,
                limit=self.limit,
            )
            reader = f"loader-{self.name}"
            queue = QueueReader(self.broker, topology.DELIVER, topology.deliver_subject(self.queue), reader, epoch=self.epoch)
            subject = topology.retry_subject("loader", self.queue)
            aside = QueueReader(self.broker, topology.RETRY, subject, reader, epoch=self.epoch, most_held=-1)
            with _stepping(steps, accounts, queue, aside):
                async with queue, aside:
                    await queue.claim()
                    running = asyncio.create_task(flow.run(queue, aside, lambda _: None))
                    await self._until_at_rest(running, steps, draining, seconds)
        finally:
            gate.close()
        return steps.taken

    async def _until_at_rest(self, running: asyncio.Task[None], steps: Steps, draining: asyncio.Event, seconds: float) -> None:
        killed = asyncio.create_task(steps.dead.wait())
        resting = asyncio.create_task(self._at_rest())
        try:
            done, _ = await asyncio.wait({running, killed, resting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                left = (
                    await look_at_queue(self.broker, self.queue),
                    await look_aside(self.broker, self.queue),
                    await self.account(),
                )
                raise AssertionError(f"not at rest after {seconds:g} s; the last steps: {steps.taken[-5:]}; {left}")
            if running in done or killed in done:
                return
            draining.set()  # it may be killed now too
            await asyncio.wait({running, killed}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (running, killed, resting):
                task.cancel()
            results = await asyncio.gather(running, killed, resting, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _at_rest(self) -> None:
        while await self.waiting() or await self._messages():
            await asyncio.sleep(0.03)

    async def _messages(self) -> int:
        waiting, aside = await look_at_queue(self.broker, self.queue), await look_aside(self.broker, self.queue)
        return waiting.frames + len(aside.frames)

    async def account(self) -> Ended:
        """Returns what is counted."""
        entry = await Bucket(self.broker, topology.STATS_BUCKET).get(ended_key(self.queue))
        return decode_ended(entry.value if entry else None)

    async def waiting(self) -> int:
        """Returns how many events wait, as the balance adds them up."""
        ended = await self.account()
        queue, aside = await look_at_queue(self.broker, self.queue), await look_aside(self.broker, self.queue)
        begun = ended.begun_events(replayed=False) + ended.begun_events(replayed=True)
        return queue.events - begun + aside.events - sum(int(bits, 16).bit_count() for bits in ended.early.values())

    async def letters(self) -> list[DeadLetter]:
        """Returns the dead letters."""
        found: list[DeadLetter] = []
        subject, seq = topology.dead_subject("loader", self.name), 0
        with contextlib.suppress(NotFoundError):
            while True:
                message = await self.broker.js.get_msg(topology.DEAD, seq + 1, subject=subject, next=True)
                found += decode_dead(message.data or b"")
                seq = message.seq or seq + 1
        return found


@contextlib.contextmanager
def _stepping(steps: Steps, accounts: Accounts, queue: QueueReader, aside: QueueReader) -> Any:
    """Puts steps around all that a crash could fall between."""
    own = cast("Any", accounts), cast("Any", queue), cast("Any", aside)
    own[0].note = steps.around("a note", accounts.note)
    own[1].ack = steps.around("an acknowledgement", queue.ack)
    own[2].remove = steps.around("a removal from RETRY", aside.remove)
    patched: Any = send, Later
    before = plain_bury, plain_put = patched[0].bury, patched[1].put

    async def putting(self: Any, *arguments: Any, **named: Any) -> Any:
        return await steps.around("a message to RETRY", lambda *each, **more: plain_put(self, *each, **more))(*arguments, **named)

    try:
        patched[0].bury, patched[1].put = steps.around("a dead letter", plain_bury), putting
        yield
    finally:
        patched[0].bury, patched[1].put = before


def _stepped(destination: EventDestination, steps: Steps) -> None:
    """Puts steps around the calls of a destination."""
    plain = destination.link

    @contextlib.asynccontextmanager
    async def link(way: Way) -> AsyncIterator[Link]:
        async with plain(way) as opened:
            stepping: Any = opened
            stepping.send = steps.around("a call", opened.send)
            yield opened

    changed: Any = destination
    changed.link = link
