"""Lives of a feed's worker in one process, over a real broker: each may end between any two of its steps.

A step is what a life does for good: a frame or dead letters published, chunks committed. `Journal` reads what came of all lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec
import pytest

from connector_runner.feeds import worker as worker_module
from connector_runner.feeds.contract import Chunk, Environment, Feed, Lag
from connector_runner.feeds.definition import Definition
from connector_runner.feeds.registry import parse_feed
from connector_runner.feeds.worker import FeedWorker
from shared.events.dead import DeadLetter, decode_dead
from shared.events.event import facts_of, materialise
from shared.events.frame import decode_frame
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.lease import Lease
from shared.jetstream.reader import StreamReader
from shared.project.model import SiteLimits
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

SECONDS = 30.0
Side = Literal["before", "behind"]
_numbers = iter(range(10**9))


class Step:
    """The moment at which a life stands still for ever: before its `number`th publish or commit, or behind it; 0: never."""

    def __init__(self, kind: Literal["publish", "commit"] = "publish", number: int = 0, side: Side = "before") -> None:
        self._wanted = (kind, number, side)
        self._made: Counter[str] = Counter()
        self.reached = asyncio.Event()

    async def around(self, kind: Literal["publish", "commit"], act: Callable[[], Awaitable[Any]]) -> Any:
        """Acts, unless the life is over."""
        self._made[kind] += 1
        await self._at(kind, "before")
        answer = await act()
        await self._at(kind, "behind")
        return answer

    async def _at(self, kind: str, side: Side) -> None:
        if self.reached.is_set() or (kind, self._made[kind], side) == self._wanted:
            self.reached.set()
            await asyncio.Event().wait()


class _Watched(Feed):
    """A feed whose commits are steps."""

    def __init__(self, feed: Feed, step: Step) -> None:
        self._feed = feed
        self._step = step

    async def read(self, wait_seconds: float) -> Sequence[Chunk]:
        return await self._feed.read(wait_seconds)

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        await self._step.around("commit", lambda: self._feed.commit(chunks))

    async def lag(self) -> Mapping[str, Lag]:
        return await self._feed.lag()

    async def close(self) -> None:
        await self._feed.close()


class Lives:
    """One feed, and all workers that ever ran it."""

    def __init__(self, url: str, document: Mapping[str, Any], telemetry: Telemetry, limits: SiteLimits | None = None) -> None:
        self.url = url
        self.name = f"feed{next(_numbers)}"
        self.site = f"site{next(_numbers)}"
        self.document = {**document, "site": self.site}
        self.health = Health()
        self.telemetry = telemetry
        self._limits = limits or SiteLimits()

    @contextlib.asynccontextmanager
    async def life(self, step: Step | None = None) -> AsyncIterator[asyncio.Event]:
        """A worker that ends with the context; yields the event that asks it to end in order."""
        step = step or Step()
        async with connect(self.url, "life", patience_seconds=60) as broker:
            _watch(broker, step)
            context = ServiceContext(
                "connector_runner", "here", ServiceSettings(), broker, cast("Any", None), self.telemetry, self.health
            )
            worker = FeedWorker(context, self.name, Definition(self.document, self._limits))
            ending = asyncio.Event()
            with _opening(step):
                working = asyncio.create_task(worker.work(Lease(f"feed.{self.name}", 1, 3600), ending))
                try:
                    yield ending
                    if ending.is_set():
                        async with asyncio.timeout(SECONDS):
                            await working
                    if working.done():
                        working.result()  # a worker ends by itself only if it is broken
                finally:
                    working.cancel()
                    await asyncio.gather(working, return_exceptions=True)

    @property
    def problem(self) -> str:
        """What `/ready` says of the feed."""
        return self.health.problems.get(f"feed {self.name}", "")


@contextlib.contextmanager
def _opening(step: Step) -> Any:
    """Lets a worker open feeds whose commits are steps."""

    def parse(name: str, document: Mapping[str, Any]) -> Any:
        plugin, rules, options = parse_feed(name, document)

        class _Plugin:
            @staticmethod
            async def open_feed(name: str, options: Any, environment: Environment) -> Feed:
                return _Watched(await plugin.open_feed(name, options, environment), step)

        return _Plugin, rules, options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "parse_feed", parse)
        yield


def _watch(broker: Broker, step: Step) -> None:
    publish = broker.publisher.publish

    async def watched(subject: str, payload: bytes, **more: Any) -> Any:
        return await step.around("publish", lambda: publish(subject, payload, **more))

    broker.publisher.publish = watched  # type: ignore[method-assign]


class Journal:
    """What is in EVENTS and DEAD of a site."""

    def __init__(self, lives: Lives) -> None:
        self._lives = lives
        self.events: list[dict[str, Any]] = []
        """Full events, repeats included, in the order of EVENTS."""
        self.dead: list[DeadLetter] = []

    async def look(self) -> None:
        """Reads both again from the beginning."""
        async with connect(self._lives.url, "journal", patience_seconds=60) as broker:
            self.events = []
            for message in await _all(broker, topology.EVENTS, topology.events_filter(self._lives.site)):
                frame = decode_frame(message)
                facts = [facts_of(request) for request in frame.requests]
                for head, body in zip(frame.heads, frame.bodies(), strict=True):
                    self.events.append(materialise(body, head, facts[head.request]))
            self.dead = [
                letter
                for message in await _all(broker, topology.DEAD, topology.dead_subject("feeds", self._lives.site))
                for letter in decode_dead(message)
            ]

    async def until(self, events: int, dead: int = 0) -> None:
        """Waits until so many different events and dead letters are there."""
        async with asyncio.timeout(SECONDS):
            while True:
                await self.look()
                if len(self.ids) >= events and len(self.dead) >= dead:
                    return
                await asyncio.sleep(0.02)

    @property
    def ids(self) -> Counter[str]:
        """How often each messageId is there."""
        return Counter(event["messageId"] for event in self.events)

    def values(self, name: str = "n") -> list[Any]:
        """Returns a property of each event, in the order of EVENTS, repeats left out as the router does."""
        first = {event["messageId"]: event for event in reversed(self.events)}
        return [event["properties"].get(name) for event in reversed(first.values())]

    def in_order(self) -> bool:
        """Whether the events of each partition have the order of their offsets; repeats aside."""
        seen: set[str] = set()
        offsets: defaultdict[Any, list[Any]] = defaultdict(list)
        for event in self.events:
            if event["messageId"] not in seen:
                seen.add(event["messageId"])
                feed = event["context"]["feed"]
                offsets[feed["topic"], feed["partition"]].append(int(feed["offset"]))
        return all(each == sorted(each) for each in offsets.values())


async def _all(broker: Broker, stream: str, subject: str) -> list[bytes]:
    info = await broker.js.stream_info(stream, subjects_filter=subject)
    count = sum((info.state.subjects or {}).values())
    found: list[bytes] = []
    if count:
        async with StreamReader(broker, stream, subject) as reader:
            while len(found) < count:
                message = await reader.next(60)
                assert message is not None
                found.append(message.payload)
    return found


def record(n: int, **more: Any) -> bytes:
    """Returns a value."""
    return msgspec.json.encode({"n": n, **more})
