"""A client that never gives up and keeps the books: what it sent, and what it was told of each event.

Requests go over keep-alive connections, single events and batches mixed. A request without an answer, or answered with 429 or 5xx, is
sent again with the same bytes, as every SDK does. An event is *acknowledged* once a 200 for its request was read; until then nothing
is known of it. What should become of an event is known when it is made (`Fate`); `tests/support/exactly_once.py` compares.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

KEY = "fault-key"
ANSWER_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Fate:
    """Where an event belongs: a row in each of `tables`, or one dead letter with one of `reasons`."""

    tables: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


EVENTS = Fate(("events",))
"""The one table of the layouts `single_table` and `passthrough`."""

Event = dict[str, Any]
Make = Callable[[str, random.Random], tuple[Event, Fate]]
"""Makes an event of an id, and says where it belongs."""


@dataclass(slots=True)
class Books:
    """Every event that was ever sent, by id."""

    fates: dict[str, Fate] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    """How often which answer came; `-` for none."""
    refused: list[str] = field(default_factory=list)
    """Answers that are neither success nor a request to try again, as text."""
    retry_after_missing: int = 0
    """Answers 429 and 503 without `Retry-After`."""


def track(id_: str, chance: random.Random) -> tuple[Event, Fate]:
    """A track event with a few properties."""
    properties = {
        "total": chance.randrange(100_000) / 100,
        "sku": f"sku-{chance.randrange(500)}",
        "note": "x" * chance.randrange(300),
    }
    return {
        "type": "track",
        "event": "Order Completed",
        "userId": f"u{chance.randrange(200)}",
        "messageId": id_,
        "properties": properties,
    }, EVENTS


class Sender:
    """Sends from several workers until told to stop.

    Args:
        port: of the edge; of several, each attempt goes to one of them.
        seed: of what is sent.
        make: makes the events; `track` unless given.
        batches: sizes of requests to choose from; 1 is a single event on its own path.
        pause_seconds: longest pause of a worker between two requests.
        prefix: of all ids.
    """

    def __init__(
        self,
        port: int | Sequence[int],
        seed: int,
        *,
        make: Make = track,
        books: Books | None = None,
        batches: Sequence[int] = (1, 1, 5, 40),
        workers: int = 4,
        pause_seconds: float = 0.1,
        prefix: str = "e",
        key: str = KEY,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.books = Books() if books is None else books
        self._urls = [f"http://127.0.0.1:{each}" for each in ([port] if isinstance(port, int) else port)]
        self._chance = random.Random(seed)
        self._make = make
        self._batches = batches
        self._workers = workers
        self._pause_seconds = pause_seconds
        self._prefix = prefix
        self._headers = {"X-Write-Key": key, "Content-Type": "application/json"}
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds, sock_connect=2)
        self._next = 0
        self._stopping = asyncio.Event()
        self._gone = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, give_up_seconds: float = 20.0) -> AsyncIterator[Books]:
        """Sends while the context is open; at its end, requests under way are finished, for a bounded time."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(self._work(session)) for _ in range(self._workers)]
            try:
                yield self.books
                self._stopping.set()
                await asyncio.wait(tasks, timeout=give_up_seconds)
            finally:
                self._stopping.set()
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def send(self, count: int, requests_of: int = 50) -> Books:
        """Sends so many events and returns when all of them are acknowledged."""
        async with aiohttp.ClientSession() as session:
            left = count
            while left > 0:
                await self._deliver(session, *self._request(min(requests_of, left)))
                left -= requests_of
        return self.books

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping.is_set():
            await self._deliver(session, *self._request(self._chance.choice(self._batches)))
            await asyncio.sleep(self._chance.uniform(0, self._pause_seconds))

    def _request(self, size: int) -> tuple[str, bytes, list[str]]:
        ids: list[str] = []
        events: list[Event] = []
        for _ in range(size):
            id_ = f"{self._prefix}{self._next:07d}"
            self._next += 1
            event, self.books.fates[id_] = self._make(id_, self._chance)
            ids.append(id_)
            events.append(event)
        if size == 1 and isinstance(events[0].get("type"), str):
            return f"/v1/{events[0]['type']}", msgspec.json.encode(events[0]), ids
        return "/v1/batch", msgspec.json.encode({"batch": events}), ids

    async def _deliver(self, session: aiohttp.ClientSession, path: str, body: bytes, ids: list[str]) -> None:
        while True:
            status = await self._attempt(session, path, body)
            if status == 200:
                self.books.acknowledged.update(ids)
                return
            if status is not None and status < 500 and status != 429:
                return
            await asyncio.sleep(self._chance.uniform(0.05, 0.3))

    async def _attempt(self, session: aiohttp.ClientSession, path: str, body: bytes) -> int | None:
        try:
            async with session.post(
                self._chance.choice(self._urls) + path, data=body, headers=self._headers, timeout=self._timeout
            ) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.books.statuses["-"] += 1
            return None
        self.books.statuses[str(answer.status)] += 1
        if answer.status in (429, 503) and "Retry-After" not in answer.headers:
            self.books.retry_after_missing += 1
        if answer.status >= 400 and answer.status not in (429, 503):
            self.books.refused.append(f"{answer.status} {text[:300]}")
        return answer.status


def seed_of(text: str | None) -> int:
    """Returns the seed that an environment variable gives, or a new one."""
    return int(text) if text else time.time_ns() % 1_000_000
