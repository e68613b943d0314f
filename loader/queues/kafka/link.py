"""Sends calls to Kafka: a batch for each partition, and the outcome of each record.

Batches of a partition go out one after the other. A batch that brokers refuse for its records is halved until the record at fault
is found; the ones behind it wait for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loader.contract.events import Answer, Way
from loader.queues.kafka.fate import Fate, fate_of
from loader.queues.kafka.options import Options
from loader.queues.kafka.records import Headers, Record, Records
from loader.queues.kafka.session import AwayError, Session
from shared.events.outcome import Ok, Outcome, Retry
from shared.tasks import timeout, together

SLOW_SECONDS = 10.0
"""A call without an answer for so long is shown as trouble."""
SAME_SECONDS = 1.0
"""For so long after no broker could be reached, other calls do not try it."""
MISSING_SECONDS = 30.0
"""For so long a topic that an event chose, and that is not there or not allowed, is not asked for again."""
MOST_MISSING = 1_000
MOST_SESSIONS = 3
"""Sessions that are opened for the same records, because the one before was spent."""


class KafkaLink:
    """See `Link`."""

    def __init__(self, options: Options, given: Mapping[str, Any], way: Way) -> None:
        self._servers = options.bootstrap_servers
        self._seconds = float(options.timeout)
        self._most = int(options.batch_bytes)
        self._fixed_topic = options.topic
        self._given = given
        self._way = way
        self._beside: Headers = [("site", way.site.encode()), ("connection", way.connection.encode())]
        self._opening = asyncio.Lock()
        self._sessions: list[Session] = []
        """The last one is the present one; those before end when their batches do."""
        self._away: tuple[float, str] = (0.0, "")
        self._begun: dict[int, float] = {}
        self._sizes: dict[str, int] = {}
        """By topic the most bytes of a batch, where brokers refused a larger one."""
        self._missing: dict[str, tuple[float, Fate]] = {}
        """Topics that events must not go to now, until when and why."""
        self._calls = 0

    @property
    def trouble(self) -> str:
        """See `Link.trouble`."""
        waited = time.monotonic() - min(self._begun.values(), default=time.monotonic())
        if waited < SLOW_SECONDS:
            return ""
        why = "check that the brokers run, and that enough replicas of the topic are in sync (min.insync.replicas)"
        return f"no acknowledgement from {self._servers} for {waited:.0f} s; {why}"

    async def send(self, call: Records, key: str) -> Answer:  # noqa: ARG002 - the brokers know batches by their numbers
        """See `Link.send`."""
        start, number = time.perf_counter(), self._calls
        self._calls += 1
        self._begun[number] = time.monotonic()
        unanswered = Retry(f"no acknowledgement from {self._servers} within {self._seconds:g} s", everyone=True)
        outcomes: list[Outcome] = [unanswered] * len(call.records)
        try:
            async with timeout(self._seconds):
                await self._send(call, outcomes)
        except TimeoutError:
            # what was not acknowledged must not arrive behind what is sent next
            await self._end_all()
        finally:
            del self._begun[number]
        await self._tidy()
        taken = any(isinstance(each, Ok) for each in outcomes)
        self._way.note("ok" if taken else "no_answer", time.perf_counter() - start)
        return Answer(outcomes, works=taken)

    async def close(self) -> None:
        """Ends all sessions."""
        await self._end_all()

    async def _send(self, call: Records, outcomes: list[Outcome]) -> None:
        try:
            session = await self._session()
        except AwayError as error:
            self._note(call, range(len(outcomes)), outcomes, Fate(str(error), everyone=True))
            return
        topics: defaultdict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(call.records):
            topics[record.topic].append(index)
        places: defaultdict[tuple[str, int], list[int]] = defaultdict(list)

        async def spread(topic: str, indexes: list[int]) -> None:
            partitions = await self._partitions(session, topic)
            if isinstance(partitions, Fate):
                self._note(call, indexes, outcomes, partitions)
                return
            chosen = session.partition(None, partitions)
            for index in indexes:
                key = call.records[index].key
                places[topic, chosen if key is None else session.partition(key, partitions)].append(index)

        await together(*(spread(topic, indexes) for topic, indexes in topics.items()))
        await together(*(self._put(*place, call, indexes, outcomes) for place, indexes in places.items()))

    async def _partitions(self, session: Session, topic: str) -> Sequence[int] | Fate:
        """Returns the partitions of a topic, or why there are none."""
        until, fate = self._missing.get(topic, (0.0, None))
        if fate is not None and time.monotonic() < until:
            return fate
        try:
            return await session.partitions(topic)
        except Exception as error:  # noqa: BLE001 - `fate_of` knows them all
            fate = self._fate(error, topic)
            if not fate.everyone:
                if len(self._missing) >= MOST_MISSING:
                    self._missing.clear()
                self._missing[topic] = time.monotonic() + MISSING_SECONDS, fate
            return fate

    async def _put(self, topic: str, partition: int, call: Records, indexes: list[int], outcomes: list[Outcome]) -> None:
        """Sends the records of a partition; notes their outcomes."""
        todo = deque(self._cut(topic, call, indexes))
        left = MOST_SESSIONS
        while todo:
            part = todo.popleft()
            tried = await self._try(topic, partition, [call.records[index] for index in part])
            if isinstance(tried, int):
                for index in part[:tried]:
                    outcomes[index] = Ok()
                if tried < len(part):
                    todo.appendleft(part[tried:])
            elif tried.records and len(part) > 1:
                if tried.size:
                    self._sizes[topic] = max(1, sum(call.records[index].size for index in part) // 2)
                half = len(part) // 2
                todo.extendleft((part[half:], part[:half]))
            elif tried.records:
                self._note(call, part, outcomes, tried)
            elif tried.session and (left := left - 1):
                todo.appendleft(part)
            else:  # what is behind it must not pass it
                self._note(call, [*part, *(index for each in todo for index in each)], outcomes, tried)
                return

    async def _try(self, topic: str, partition: int, records: Sequence[Record]) -> int | Fate:
        """Sends the first records that fit into a batch; returns how many the brokers have, or why they have none."""
        try:
            session = await self._session()
        except AwayError as error:
            return Fate(str(error), everyone=True)
        try:
            await session.partitions(topic)  # another session than before may not know the topic yet
            if not session.has_leader(topic, partition):
                return Fate(f'partition {partition} of topic "{topic}" has no leader; check the brokers')
            return await session.put(topic, partition, records, self._beside)
        except Exception as error:  # noqa: BLE001 - `fate_of` knows them all
            session.spent = True
            return self._fate(error, topic)

    def _cut(self, topic: str, call: Records, indexes: Sequence[int]) -> list[list[int]]:
        """Returns the records of a partition in batches."""
        most = self._sizes.get(topic, self._most)
        parts: list[list[int]] = [[]]
        size = 0
        for index in indexes:
            own = call.records[index].size
            if parts[-1] and size + own > most:
                parts.append([])
                size = 0
            parts[-1].append(index)
            size += own
        return parts

    def _note(self, call: Records, indexes: Sequence[int], outcomes: list[Outcome], fate: Fate) -> None:
        for index in indexes:
            outcomes[index] = fate.outcome(call.records[index])

    def _fate(self, error: Exception, topic: str) -> Fate:
        fate = fate_of(error, self._given, topic, self._fixed_topic)
        return replace(fate, words=self._way.mask.text(fate.words))

    async def _session(self) -> Session:
        """Returns the present session; opens one if it is spent.

        Raises:
            AwayError: none can be opened.
        """
        if self._sessions and not self._sessions[-1].spent:
            return self._sessions[-1]
        async with self._opening:
            await self._tidy()
            if self._sessions and not self._sessions[-1].spent:
                return self._sessions[-1]
            at, why = self._away
            if why and time.monotonic() - at < SAME_SECONDS:
                raise AwayError(why)
            try:
                self._sessions.append(await Session.open(self._given))
            except AwayError as error:
                self._away = time.monotonic(), self._way.mask.text(str(error))
                raise AwayError(self._away[1]) from None
            self._away = 0.0, ""
            return self._sessions[-1]

    async def _tidy(self) -> None:
        """Ends spent sessions that have no batch under way."""
        idle = [each for each in self._sessions if each.spent and not each.users]
        if idle:
            self._sessions = [each for each in self._sessions if each not in idle]
            for each in idle:
                await each.end()

    async def _end_all(self) -> None:
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            await session.end()


@contextlib.asynccontextmanager
async def kafka_link(options: Options, given: Mapping[str, Any], way: Way) -> AsyncIterator[KafkaLink]:
    """Opens the link of a connection."""
    link = KafkaLink(options, given, way)
    try:
        yield link
    finally:
        await link.close()
