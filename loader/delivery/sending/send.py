"""Sends one job and handles its outcomes: notes them, makes dead letters, halves the job, or puts it back into RETRY."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import compress
from typing import assert_never

import msgspec
from opentelemetry.trace import SpanKind

from loader.contract.events import Answer, DefectError, EventDestination, Link, Parcel, SendLimits
from loader.delivery.sending.books import Books
from loader.delivery.sending.job import Item, Job, key_of
from loader.delivery.sending.later import Later, delay_of
from loader.delivery.sending.pace import Pace
from loader.watch.limit import Limit
from shared.errors import Permanent
from shared.events.dead import bury
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Ok, Outcome, Retry
from shared.forget.ids import Forgotten
from shared.jetstream import topology
from shared.jetstream.publisher import Publisher
from shared.streams.dead_log import DeadLog
from shared.telemetry.metrics import Telemetry
from shared.telemetry.tracing.messaging import describe
from shared.telemetry.tracing.spans import Trail

MOST_PAUSES = 3
"""How often the same call may be answered by asking for a pause; then it leaves for RETRY, and another call is tried."""

MOST_REFUSALS = 3
"""How often a call is not let in while others are, before its events are at fault."""

log = logging.getLogger(__name__)


class JobSender:
    """Sends the jobs of one connection; any number of tasks may call it, each with jobs of different users."""

    def __init__(
        self,
        connection: str,
        site: str,
        destination: EventDestination,
        link: Link,
        pace: Pace,
        later: Later,
        books: Books,
        limit: Limit,
        publisher: Publisher,
        telemetry: Telemetry,
        forgotten: Forgotten,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._forgotten = forgotten
        self._connection = connection
        self._site = site
        self._destination = destination
        self._limits: SendLimits = destination.limits
        self._link = link
        self._pace = pace
        self._later = later
        self._books = books
        self._limit = limit
        self._publisher = publisher
        self._telemetry = telemetry
        self._subject = topology.deliver_subject(connection)
        self._let_in_at = 0.0
        """When the last call that was let in began (epoch)."""
        self._wall = wall
        self._dead_log = DeadLog(logging.ERROR)

    async def work(self, job: Job) -> bool:
        """Brings every event of a job to its end, or into RETRY; False: the service drains, and some events are in neither state.

        Raises:
            Fenced, NotConnected, Transient, QueueFull: the broker does not work; events without a note come again.
            TooManyDeadError: the limit of dead letters is reached.
        """
        if job.waiting is None:
            held = [self._later.holds(item.user) for item in job.items]
            if any(held):
                blocked = list(compress(job.items, held))
                await self._later.put(blocked, job, failures=0, due=0.0, since=self._wall())
                self._books.set_aside(job, blocked)
                if all(held):
                    return True
                job = job.part([item for item, waits in zip(job.items, held, strict=True) if not waits])
        todo = [job]
        again: list[tuple[Item, Retry]] = []
        behind: list[Item] = []
        while todo:
            part = self._ahead(todo.pop(), again, behind)
            if part is None:
                continue
            try:
                outcomes = await self._send(part)
            except _Cut as exc:
                todo += reversed(exc.parts)
                continue
            if outcomes is None:
                return False
            again += await self._end(part, outcomes)
        if again:
            await self._again(job, again, behind)
        elif job.waiting is not None:
            self._later.end(job.waiting)
            self._books.retried(job.waiting.seq, job.lane, dict(job.waiting.held))
        return True

    async def _send(self, job: Job) -> Sequence[Outcome] | None:
        """Sends a job once, or again after a pause that the destination asks for; returns the outcomes of its events.

        Raises:
            _Cut: the job must go out in parts.
        """
        while True:
            began = await self._pace.turn()
            if began is None:
                return None
            ended: dict[int, Outcome] = {}
            events, places = self._read(job, ended)
            try:
                calls = self._destination.calls(events, self._wall()) if events else None
            except Exception as exc:
                self._pace.skipped()
                answered = self._defect(job, exc)
                if len(job.items) > 1:
                    raise _Cut(_halves(job)) from exc
                return answered
            if calls is not None:
                ended.update({places[index]: outcome for index, outcome in calls.ended.items()})
            if calls is None or not calls.calls:
                self._pace.skipped()
                return [ended[position] for position in range(len(job.items))]
            if ended or len(calls.calls) > 1:
                self._pace.skipped()
                raise _Cut(await self._parts(job, ended, [[places[index] for index in call.events] for call in calls.calls]))
            (call,) = calls.calls
            answered = await self._call(job, call, began)
            pause = next((each for each in answered if isinstance(each, Retry) and each.everyone), None)
            if pause is not None:
                self._pace.hold(began, pause.after, pause.reason)
                job.pauses += 1
                if job.pauses <= MOST_PAUSES and all(isinstance(each, Retry) for each in answered):
                    continue
                return answered
            if len(job.items) > 1 and all(isinstance(each, Dead) for each in answered):
                raise _Cut(_halves(job))
            return answered

    async def _call(self, job: Job, call: Parcel, began: float) -> Sequence[Outcome]:
        """Sends a call; returns the fate of its events."""
        at = self._wall()
        try:
            with self._telemetry.span(f"load {self._subject}", SpanKind.CONSUMER, links=_trails(job)) as span:
                describe(span, destination=self._subject, operation="process", messages=len(job.items))
                span.set("penstock.connection", self._connection)
                answer = await self._link.send(call, key_of(self._connection, job.items))
                failed = next((each for each in answer.outcomes if isinstance(each, Retry | Dead)), None)
                if failed is not None:
                    span.fail(type(failed).__name__.lower(), failed.reason)
            if len(answer.outcomes) != len(job.items):
                raise DefectError from ValueError(f"{len(answer.outcomes)} outcomes for a call of {len(job.items)} events")
        except DefectError as exc:
            answer = Answer(self._defect(job, exc.__cause__ or exc))
        outcomes = [self._outcome_of(job, each) for each in answer.outcomes]
        if any(isinstance(each, Ok) for each in outcomes):
            self._let_in_at = max(self._let_in_at, at)
        failed = next((each for each in outcomes if isinstance(each, Retry)), None)
        if failed is None or answer.works:
            if self._pace.succeeded():
                log.info("the destination works again", extra={"connection": self._connection})
                self._later.hurry()
        elif not failed.everyone:
            self._pace.failed(began, failed.reason)
        return outcomes

    def _outcome_of(self, job: Job, outcome: Outcome) -> Outcome:
        """Returns what an outcome means beside those of other calls: who is not let in while others are has only itself to blame.

        Only a call that began after the first refusal counts, and only the third refusal: a token may end while calls are under way,
        and a service behind several doors may shut one of them for a moment.
        """
        if not isinstance(outcome, Retry) or not outcome.denied:
            return outcome
        if job.failures >= MOST_REFUSALS - 1 and self._let_in_at > job.since:
            return Dead(DeadReason.REJECTED_BY_DESTINATION, f"{outcome.reason}, while other calls are let in")
        return outcome

    async def _end(self, job: Job, outcomes: Sequence[Outcome]) -> list[tuple[Item, Retry]]:
        """Notes ended events; returns the events to send again."""
        delivered: list[Item] = []
        dead: defaultdict[str, list[tuple[Item, str]]] = defaultdict(list)
        dropped: defaultdict[str, list[Item]] = defaultdict(list)
        again: list[tuple[Item, Retry]] = []
        for item, outcome in zip(job.items, outcomes, strict=True):
            match outcome:
                case Ok():
                    delivered.append(item)
                case Drop():
                    dropped[outcome.reason].append(item)
                case Dead():
                    dead[outcome.reason].append((item, outcome.detail))
                case Retry():
                    since = job.since or self._wall()
                    if self._wall() - since > self._limits.max_age_seconds and not self._pace.why:
                        dead[DeadReason.GAVE_UP].append((item, outcome.reason))
                    else:
                        again.append((item, outcome))
                case _:
                    assert_never(outcome)
        # first, so that they are not sent again where the limit is reached
        if delivered:
            self._books.delivered(job, delivered)
            self._telemetry.count("loader_events_total", len(delivered), connection=self._connection)
        for reason, items in dropped.items():
            self._books.dropped(job, items, reason)
            self._telemetry.count("loader_events_dropped_total", len(items), connection=self._connection, reason=reason)
            sample = f"{items[0].head.type} {items[0].head.event or ''}".strip()
            self._telemetry.show("loader_events_dropped_total", sample, connection=self._connection, reason=reason)
        # events that a replay of dead letters brought do not count
        counts = len(again) < len(job.items) and not any(item.source.frame.origins for item in job.items)
        died = {reason: len(refused) for reason, refused in dead.items()}
        if died and counts:
            self._limit.weigh(len(job.items), died, next(reversed(dead.values()))[-1][1])
        for reason, refused in dead.items():
            await self._bury(job, reason, refused)
        if counts:
            self._limit.note(len(job.items) - len(again), died)
        return again

    async def _bury(self, job: Job, reason: str, refused: Sequence[tuple[Item, str]]) -> None:
        items = [item for item, _ in refused]
        letters = [item.letter(self._site, self._connection, reason, detail) for item, detail in refused]
        msg_id = f"loader.{key_of(self._connection, items)}.{reason}"
        trail = items[0].source.trail
        await bury(
            publisher=self._publisher,
            stage="loader",
            name=self._connection,
            letters=letters,
            msg_id=msg_id,
            trace=None if trail is None else trail.headers,
        )
        self._books.dead(job, items, reason)
        self._telemetry.count("loader_events_dead_total", len(items), connection=self._connection, reason=reason)
        self._dead_log.note([reason] * len(items), connection=self._connection)

    def _ahead(self, part: Job, again: Sequence[tuple[Item, Retry]], behind: list[Item]) -> Job | None:
        """Returns what of a part may go out though earlier events of its job failed; the later ones of their users join `behind`."""
        if not again or not self._limits.ordered:
            return part
        failed = {item.user for item, _ in again}
        waits = [item.user in failed for item in part.items]
        behind += compress(part.items, waits)
        return None if all(waits) else part.part([item for item, each in zip(part.items, waits, strict=True) if not each])

    async def _again(self, job: Job, again: Sequence[tuple[Item, Retry]], behind: Sequence[Item]) -> None:
        """Puts what failed into RETRY: together, or in halves where it failed together before and others work; then what waits behind it."""
        failures, since = job.failures + 1, job.since or self._wall()
        due = max([delay_of(self._limits, failures), *(each.after for _, each in again if each.after is not None)])
        items = [item for item, _ in again]
        groups = [items]
        if len(items) > 1 and job.failures and not self._pace.why:
            groups = [items[: len(items) // 2], items[len(items) // 2 :]]
        hurried = bool(self._pace.why)
        for group in groups:
            last = group is groups[-1] and not behind
            await self._later.put(group, job, failures=failures, due=due, since=since, hurried=hurried, last=last)
        if behind:
            await self._later.put(behind, job, failures=0, due=0.0, since=self._wall())
        self._books.set_aside(job, [*items, *behind])
        self._telemetry.count("loader_calls_again_total", connection=self._connection)
        log.warning(
            "a call failed and is tried again later",
            extra={"connection": self._connection, "failures": failures, "again_in": due, "error": again[0][1].reason},
        )

    def _read(self, job: Job, outcomes: dict[int, Outcome]) -> tuple[list[JSON], list[int]]:
        """Returns the full events of a job and their indexes in it; notes an unreadable event as dead, and drops those of forgotten people."""
        events: list[JSON] = []
        places: list[int] = []
        gone = self._gone(job)
        for position, item in enumerate(job.items):
            if position in gone:
                outcomes[position] = Drop(DropReason.FORGOTTEN)
                continue
            try:
                events.append(item.event())
            except (Permanent, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
                outcomes[position] = Dead(DeadReason.FRAME_UNREADABLE, f"the event cannot be read: {exc}")
            else:
                places.append(position)
        return events, places

    def _gone(self, job: Job) -> Collection[int]:
        if not self._forgotten:
            return ()
        heads = [item.head for item in job.items]
        return self._forgotten.find(heads, lambda: [item.source.bodies[item.position] for item in job.items])

    async def _parts(self, job: Job, ended: dict[int, Outcome], calls: Sequence[Sequence[int]]) -> list[Job]:
        """Ends events that go into no call, and returns a job for each call."""
        if ended:
            gone = job.part([job.items[position] for position in ended])
            await self._end(gone, list(ended.values()))
        return [job.part([job.items[position] for position in positions]) for positions in calls]

    def _defect(self, job: Job, error: BaseException) -> Sequence[Outcome]:
        """Returns the outcomes of events on which our own code fails."""
        log.error("our own code failed on a call", exc_info=error, extra={"connection": self._connection})
        self._telemetry.count("loader_internal_errors_total", connection=self._connection)
        return [Dead(DeadReason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")] * len(job.items)


def _halves(job: Job) -> list[Job]:
    half = len(job.items) // 2
    return [job.part(job.items[:half]), job.part(job.items[half:])]


class _Cut(Exception):
    """Raised for a job that must go out in parts."""

    def __init__(self, parts: Sequence[Job]) -> None:
        super().__init__()
        self.parts = parts


def _trails(job: Job) -> list[Trail]:
    return list({item.source.trail: None for item in job.items if item.source.trail is not None})
