"""One connection's way through its functions, for as long as this process holds its lease.

    FUNCTIONS ──> events ──> chain ──> dead letters, RETRY, then DELIVER ──> acknowledge
    RETRY ──> when due ──────┘

Frames go one after the other, and each is in DELIVER before the next is sent there: the loader relies on that order. `outcomes.py` says
why each event is in one place however often a runtime dies.

When functions cannot run, frames wait: nothing goes round them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from opentelemetry.trace import SpanKind

from functions_runtime.again import Again, Due, Policy, policy_of
from functions_runtime.definition import Definition
from functions_runtime.host.fetch import Fetcher
from functions_runtime.host.host import ConnectionHost
from functions_runtime.host.lines import Lines
from functions_runtime.host.store import Store
from functions_runtime.hydration.asking import Hydrator, LeavingError
from functions_runtime.lookups.tables import Tables
from functions_runtime.outcomes import Outcomes, count_frame, decoded
from functions_runtime.revealed import Revealed
from functions_runtime.rules.outcome import STAGE, Outcome, outcome_of
from functions_runtime.rules.packing import MOST_BODY_BYTES, Prepared, finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from functions_runtime.sandbox.chain import Chain
from functions_runtime.sandbox.guest import BrokenError
from functions_runtime.sandbox.pool import Pool
from functions_runtime.settings import FunctionsSettings
from functions_runtime.stitcher import Stitcher
from shared.backoff import Backoff
from shared.errors import Conflict, Fenced, NotConnected, QueueFull, SetupError, Transient
from shared.events.dead import now
from shared.events.frame import Frame, decode_frame
from shared.events.headers import Place, read_place, trace_of, write_place
from shared.jetstream import topology
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.service import ServiceContext
from shared.telemetry.tracing.messaging import describe
from shared.telemetry.tracing.spans import Span

WAKE_SECONDS = 1.0
FIRST_SECONDS = 10.0
FAULT_SECONDS = (0.25, 5.0)
SETUP_SECONDS = (1.0, 30.0)
"""First and longest wait, where time alone may help, and where a person must act."""
MOST_PAYLOAD_BYTES = 12 * 1024 * 1024
"""Of all that a frame becomes; the broker takes 16 MiB a message."""

log = logging.getLogger(__name__)


class ConnectionFunctions:
    """The worker of one connection."""

    def __init__(
        self,
        context: ServiceContext,
        *,
        definition: Definition,
        settings: FunctionsSettings,
        pool: Pool,
        fetcher: Fetcher,
        tables: Tables,
    ) -> None:
        self._context = context
        self._definition = definition
        self._settings = settings
        self._pool = pool
        self._fetcher = fetcher
        self._tables = tables
        self._name = definition.name
        self._part = f"connection {definition.name}"
        self._span_name = f"transform {topology.functions_subject(definition.name)}"
        self._revealed = Revealed()
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._hydrator = Hydrator(context, self._name, fetcher, self._is_leaving)
        self._lines = Lines(context.broker, definition.name)
        self._chain: Chain | None = None
        self._policies: dict[str, Policy] = {}
        self._fault = Backoff(*FAULT_SECONDS)
        self._setup = Backoff(*SETUP_SECONDS)
        self._lease: Lease
        self._outcomes: Outcomes
        self._stitcher: Stitcher

    def change(self, definition: Definition) -> bool:
        """As `Worker.change`; new functions are in force with the next frame."""
        if definition.queue != self._definition.queue:
            return False
        self._definition = definition
        self._changed.set()
        return True

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        """As `Worker.work`."""
        sending = asyncio.create_task(self._lines.keep_sent())
        self._ending, self._lease = ending, lease
        try:
            with contextlib.suppress(LeavingError):
                await self._session(lease)
        except Conflict as exc:
            raise Fenced(str(exc)) from exc
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self._tables.leave(self._name)
            self._hydrator.leave()
            await self._end_chain()

    async def _session(self, lease: Lease) -> None:
        broker, queue = self._context.broker, self._definition.queue
        subject, again_subject = topology.functions_subject(queue), topology.retry_subject(STAGE, queue)
        reader = QueueReader(broker, topology.FUNCTIONS, subject, f"functions-{self._name}", epoch=lease.epoch)
        asides = QueueReader(broker, topology.RETRY, again_subject, f"functions-{self._name}", epoch=lease.epoch, most_held=-1)
        async with reader, asides:
            await reader.claim()  # before RETRY is read: what a former holder puts there later it cannot take out of the queue
            again = Again(broker, asides, queue)
            await again.read_all()
            self._outcomes = Outcomes(broker, queue, self._name, self._persist)
            await self._outcomes.begin()
            self._stitcher = Stitcher(self._context, self._name, self._outcomes, self._persist)
            self._context.health.good(self._part)
            await self._begin(reader, again)
            following = asyncio.ensure_future(again.take_in())
            try:
                while not self._is_leaving():
                    if following.done():
                        following.result()
                    await self._step(reader, again)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _begin(self, reader: QueueReader, again: Again) -> None:
        """Ends what a former holder began, before anything that waits for another try: it may have stored some of that already."""
        if (due := again.moving) is not None and self._outcomes.noted(due.place):
            await self._run_again(again, due)
        left = await reader.count()
        while left:
            message = await reader.next(FIRST_SECONDS)
            if message is None:
                raise NotConnected("the queue before functions cannot be read")
            place = read_place(message.headers)
            left = message.waiting if place is not None and self._outcomes.is_sent(place) else 0
            await self._run(again, message)
            await reader.ack([message.seq])

    async def _step(self, reader: QueueReader, again: Again) -> None:
        """Runs what is due, and the next frame if there is one."""
        self._show(again)
        wait = again.next_in()
        if wait == 0.0 and (due := await again.take_due()) is not None:
            await self._run_again(again, due)
        message = await reader.next(WAKE_SECONDS if wait is None else min(WAKE_SECONDS, wait))
        if message is None:
            with contextlib.suppress(Transient):
                await self._outcomes.tidy()
            return
        await self._run(again, message)
        await reader.ack([message.seq])

    def _show(self, again: Again) -> None:
        self._context.telemetry.gauge("functions_waiting_again_events", again.events, connection=self._name)

    async def _run(self, again: Again, message: Message) -> None:
        """Takes one frame through the functions; returns when all that comes of it is durable."""
        place, outcomes = read_place(message.headers), self._outcomes
        if place is not None and outcomes.is_sent(place):
            return
        frame = decoded(message.payload)
        if place is None or frame is None:
            # the loader keeps it whole as a dead letter
            headers = {name: value for name, value in message.headers.items() if name.startswith("Penstock-")}
            digest = hashlib.sha256(message.payload).hexdigest()[:16]  # a stream that is made again gives sequences a second time
            await outcomes.deliver(headers, message.payload, f"functions.{topology.FUNCTIONS}.{message.seq}.{digest}")
            return
        trace = trace_of(message.headers)
        with self._context.telemetry.span(self._span_name, SpanKind.CONSUMER, trace) as span:
            describe(
                span,
                destination=topology.functions_subject(self._name),
                operation="process",
                messages=len(frame),
                sequence=message.seq,
            )
            span.set("penstock.connection", self._name)
            await self._take(again, place, frame, failures=0, span=span, trace=span.headers or trace)

    async def _run_again(self, again: Again, due: Due) -> None:
        """Takes events whose time has come through the functions."""
        place, outcomes = due.place, self._outcomes
        if not outcomes.is_sent(place):
            payload = await again.payload(due.seq)
            frame = decoded(payload)
            if frame is None:
                await outcomes.deliver(
                    write_place(place), payload, f"functions.{self._definition.queue}.{place.lane}.{place.seq}"
                )
            else:
                # a trace of its own, since hours may lie between
                with self._context.telemetry.span(self._span_name, SpanKind.CONSUMER, links=[due.trace]) as span:
                    describe(
                        span,
                        destination=topology.retry_subject(STAGE, self._name),
                        operation="process",
                        messages=len(frame),
                        sequence=due.seq,
                    )
                    span.set("penstock.connection", self._name)
                    span.set("penstock.failures", due.failures)
                    await self._take(again, place, frame, failures=due.failures, span=span, trace=span.headers or dict(due.trace))
        await again.done(due)

    async def _take(self, again: Again, place: Place, frame: Frame, *, failures: int, span: Span, trace: dict[str, str]) -> None:
        outcome = self._outcomes.noted(place)
        decided = outcome is not None
        if outcome is None:
            prepared, fates = await self._run_frame(frame, failures)
            outcome, made = self._outcome(place=place, prepared=prepared, fates=fates, failures=failures, span=span, trace=trace)
        else:
            made = decode_frame(outcome.payload)
        made = await self._stitcher.publish(
            outcome, made, self._definition.connection, again, decided=decided, varies=bool(self._definition.hydrates)
        )
        count_frame(self._context.telemetry, self._name, made)

    async def _run_frame(self, frame: Frame, failures: int) -> tuple[Prepared, list[Fate]]:
        """Runs the events of a frame; waits for as long as the functions cannot run."""
        while True:
            self._changed.clear()
            try:
                definition = await self._revealed.of(self._definition)
                join = await self._tables.join(self._name, definition) if definition.lookups else None
                chain = await self._ready(definition)
                hydrate = await self._hydrator.of(frame, definition, failures)
                prepared = prepare(frame, definition.rules(), failures, self._context.forgotten, join=join, hydrate=hydrate)
                given = list(prepared.given.values())
                if chain is None:
                    fates = [Fate(wire.SAME)] * len(given)
                else:
                    fates = await chain.run(prepared.contexts, given) if given else []
            except (BrokenError, SetupError) as exc:
                await self._wait(f"its functions cannot run: {exc}", self._setup)
            except Transient as exc:
                await self._wait(f"its functions cannot run yet: {exc}", self._fault)
            else:
                self._setup.reset()
                self._fault.reset()
                self._context.health.good(self._part)
                if prepared.missed_rules:
                    self._context.telemetry.count("functions_rules_missed_total", prepared.missed_rules, connection=self._name)
                if join is not None:
                    self._tables.count(self._name, join)
                if hydrate is not None:
                    self._hydrator.count(hydrate)
                return prepared, fates

    async def _ready(self, definition: Definition) -> Chain | None:
        """Returns the chain of a definition, ready to run; None where it has no functions."""
        if not definition.functions:
            await self._end_chain()
            return None
        spec = definition.spec(self._settings)
        if self._chain is None or self._chain.spec != spec:
            host = ConnectionHost(
                store=Store(Bucket(self._context.broker, topology.STORE_BUCKET), definition.queue),
                fetcher=self._fetcher,
                lines=self._lines,
                secrets=definition.secrets(),
                counted=self._called,
            )
            fresh = self._pool.chain(spec, host, self._ended)
            try:
                policies = await fresh.ready()
            except BaseException:
                await self._pool.forget(fresh)
                raise
            await self._end_chain()
            self._chain = fresh
            self._policies = {str(each["name"]): policy_of(each) for each in policies}
        return self._chain

    async def _end_chain(self) -> None:
        if self._chain is not None:
            await self._pool.forget(self._chain)
            self._chain = None

    async def _wait(self, why: str, backoff: Backoff) -> None:
        pause = backoff.next()
        self._context.health.bad(self._part, f"{why}; events wait")
        log.error("functions cannot run, events wait", extra={"connection": self._name, "error": why, "again_in": pause})
        self._lines.say("error", why)
        await self._pause(pause, self._changed)

    async def _pause(self, seconds: float, *others: asyncio.Event) -> None:
        """Waits, at most until one of the others is set.

        Raises:
            LeavingError: the service drains, or this worker must end.
        """
        waits = [asyncio.ensure_future(each.wait()) for each in (self._ending, self._context.draining, *others)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if self._is_leaving():
            raise LeavingError

    def _is_leaving(self) -> bool:
        return self._ending.is_set() or self._context.draining.is_set()

    def _outcome(
        self,
        *,
        place: Place,
        prepared: Prepared,
        fates: Sequence[Fate],
        failures: int,
        span: Span,
        trace: dict[str, str],
    ) -> tuple[Outcome, Frame]:
        """Returns what became of a frame, or of events that were tried again, and the frame that goes on."""
        counted, most = not failures, MOST_BODY_BYTES
        while True:
            finished = finish(prepared, fates, most, lambda function: self._delay(function, failures) is not None)
            if not counted:  # the router's frame has counted them
                finished.frame.taken = 0
                place = place._replace(events=len(finished.frame))
            outcome = outcome_of(
                prepared,
                finished,
                queue=self._definition.queue,
                connection=self._name,
                place=place,
                headers={**write_place(place), **trace},
                failures=failures,
                delay=lambda function: self._delay(function, failures),
                at=now(),
            )
            if outcome.held_bytes <= MOST_PAYLOAD_BYTES or not most:
                break
            most //= 2
        if finished.letters:
            span.fail("dead_letters", f"{len(finished.letters)} events became dead letters")
        for function, amount in finished.errors.items():
            span.fail("function_error", f"{function} threw {amount} times")
            self._context.telemetry.count("functions_errors_total", amount, connection=self._name, function=function)
            self._lines.say("error", f"{function} threw {amount} times, last: {finished.words[function]}")
        return outcome, finished.frame

    def _delay(self, function: str, failures: int) -> float | None:
        return (self._hydrator.policies | self._policies).get(function, Policy()).delay(failures + 1)

    async def _persist(self, work: Callable[[], Awaitable[object]]) -> None:
        """Does something until it is durable, however long that takes."""
        pause = Backoff(*FAULT_SECONDS)
        while True:
            try:
                self._lease.check()
                await work()
            except Transient as exc:
                then = "until there is room" if isinstance(exc, QueueFull) else "until the broker takes it"
                why = f"what its functions gave cannot be stored yet: {exc}; events wait {then}"
                self._context.health.bad(self._part, why)
                log.warning("what functions gave cannot be stored yet", extra={"connection": self._name, "error": str(exc)})
                await self._pause(pause.next())
            else:
                self._context.health.good(self._part)
                return

    def _called(self, kind: str, failed: bool) -> None:
        self._context.telemetry.count(
            "functions_calls_total", connection=self._name, kind=kind, result="failed" if failed else "ok"
        )

    def _ended(self, why: str) -> None:
        self._context.telemetry.count("functions_sandboxes_ended_total", connection=self._name)
        self._lines.say("error", f"the sandbox ended: {why}")
