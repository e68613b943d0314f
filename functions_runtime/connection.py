"""One connection's way through its functions, for as long as this process holds its lease.

    FUNCTIONS ──> events ──> chain ──> dead letters, RETRY, then DELIVER ──> acknowledge
    RETRY ──> when due ──────┘

Frames go one after the other, and each is in DELIVER before the next is sent there: the loader relies on that order. Everything that is
sent bears an id made of the frame's place, so a frame that comes again after a crash is stored once.

When functions cannot run, frames wait: nothing goes round them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from functions_runtime.again import STAGE, Again, Due, Policy, digest_of, policy_of
from functions_runtime.definition import Definition
from functions_runtime.host.fetch import Fetcher
from functions_runtime.host.host import ConnectionHost
from functions_runtime.host.lines import Lines
from functions_runtime.host.store import Store
from functions_runtime.rules.packing import MOST_BODY_BYTES, Finished, Letter, Prepared, Retry, finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.chain import Chain, Fate
from functions_runtime.sandbox.guest import BrokenError
from functions_runtime.sandbox.pool import Pool
from functions_runtime.settings import FunctionsSettings
from shared.backoff import Backoff
from shared.errors import Conflict, Fenced, NotConnected, Permanent, SetupError, Transient
from shared.events.dead import DeadLetter, bury, now, origin_of
from shared.events.frame import Frame, RequestContext, decode_frame, encode_frame, pack, select
from shared.events.headers import Place, read_place, trace_of, write_place
from shared.jetstream import topology
from shared.jetstream.lease import Lease
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.service import ServiceContext

WAKE_SECONDS = 1.0
FIRST_SECONDS = 10.0
FAULT_SECONDS = (0.25, 5.0)
SETUP_SECONDS = (1.0, 30.0)
"""First and longest wait, where time alone may help, and where a person must act."""
MOST_PAYLOAD_BYTES = 12 * 1024 * 1024
"""Of a frame that goes on; the broker takes 16 MiB."""

log = logging.getLogger(__name__)


class _LeavingError(Exception):
    """The service drains while something cannot be done; the frame under way comes again."""


class ConnectionFunctions:
    """The worker of one connection."""

    def __init__(
        self, context: ServiceContext, definition: Definition, settings: FunctionsSettings, pool: Pool, fetcher: Fetcher
    ) -> None:
        self._context = context
        self._definition = definition
        self._settings = settings
        self._pool = pool
        self._fetcher = fetcher
        self._name = definition.name
        self._part = f"connection {definition.name}"
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._lines = Lines(context.broker, definition.name)
        self._chain: Chain | None = None
        self._policies: dict[str, Policy] = {}
        self._fault = Backoff(*FAULT_SECONDS)
        self._setup = Backoff(*SETUP_SECONDS)

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
        self._ending = ending
        try:
            with contextlib.suppress(_LeavingError):
                await self._session(lease.epoch, ending)
        except Conflict as exc:
            raise Fenced(str(exc)) from exc
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self._end_chain()

    async def _session(self, epoch: int, ending: asyncio.Event) -> None:
        broker, queue = self._context.broker, self._definition.queue
        subject, again_subject = topology.functions_subject(queue), topology.retry_subject(STAGE, queue)
        reader = QueueReader(broker, topology.FUNCTIONS, subject, f"functions-{self._name}", epoch=epoch)
        asides = QueueReader(broker, topology.RETRY, again_subject, f"functions-{self._name}", epoch=epoch, most_held=-1)
        async with reader, asides:
            await reader.claim()  # before RETRY is read: what a former holder puts there later it cannot take out of the queue
            again = Again(broker, asides, queue)
            await again.read_all()
            self._context.health.good(self._part)
            await self._begin(reader, again)
            following = asyncio.ensure_future(again.take_in())
            try:
                while not ending.is_set() and not self._context.draining.is_set():
                    if following.done():
                        following.result()
                    await self._step(reader, again)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _begin(self, reader: QueueReader, again: Again) -> None:
        """Runs the first frame before anything that waits for another try: a former holder may have stored some of that for it."""
        if await reader.count():
            message = await reader.next(FIRST_SECONDS)
            if message is None:
                raise NotConnected("the queue before functions cannot be read")
            await self._run(again, message)
            await reader.ack([message.seq])

    async def _step(self, reader: QueueReader, again: Again) -> None:
        """Runs what is due, and the next frame if there is one."""
        self._show(again)
        wait = again.next_in()
        if wait == 0.0 and (due := await again.take_due()) is not None:
            await self._run_again(again, due)
        message = await reader.next(WAKE_SECONDS if wait is None else min(WAKE_SECONDS, wait))
        if message is not None:
            await self._run(again, message)
            await reader.ack([message.seq])

    def _show(self, again: Again) -> None:
        self._context.telemetry.gauge("functions_waiting_again_events", again.events, connection=self._name)

    async def _run(self, again: Again, message: Message) -> None:
        """Takes one frame through the functions; returns when all that comes of it is durable."""
        place = read_place(message.headers)
        frame = _decoded(message.payload)
        trace = trace_of(message.headers)
        if place is None or frame is None:
            # the loader keeps it whole as a dead letter
            headers = {name: value for name, value in message.headers.items() if name.startswith("Penstock-")}
            await self._deliver(headers, message.payload, f"functions.{topology.FUNCTIONS}.{message.seq}")
            return
        prepared, fates = await self._run_frame(frame, 0)
        finished = self._finish(prepared, fates, 0)
        await self._bury(place, prepared, finished.letters)
        await self._put_again(again, place=place, prepared=prepared, retries=finished.retries, failures=0)
        await self._send(place, prepared=prepared, fates=fates, finished=finished, failures=0, trace=trace)
        self._count(finished)

    async def _run_again(self, again: Again, due: Due) -> None:
        """Takes events whose time has come through the functions; the router's frames have counted them."""
        payload = await again.payload(due.seq)
        frame = _decoded(payload)
        if frame is None:
            await self._deliver(
                write_place(due.place), payload, f"functions.{self._definition.queue}.{due.place.lane}.{due.place.seq}"
            )
        else:
            prepared, fates = await self._run_frame(frame, due.failures)
            finished = self._finish(prepared, fates, due.failures)
            finished.frame.taken = 0
            await self._bury(due.place, prepared, finished.letters)
            await self._put_again(again, place=due.place, prepared=prepared, retries=finished.retries, failures=due.failures)
            place = due.place._replace(events=len(finished.frame))
            await self._send(place, prepared=prepared, fates=fates, finished=finished, failures=due.failures, trace={})
            self._count(finished)
        await again.done(due)

    async def _run_frame(self, frame: Frame, failures: int) -> tuple[Prepared, list[Fate]]:
        """Runs the events of a frame; waits for as long as the functions cannot run."""
        while True:
            definition = self._definition
            try:
                chain = await self._ready(definition)
                prepared = prepare(frame, definition.rules(), failures)
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
                return prepared, fates

    async def _ready(self, definition: Definition) -> Chain | None:
        """Returns the chain of a definition, ready to run; None where it has no functions."""
        self._changed.clear()
        if not definition.functions:
            await self._end_chain()
            return None
        spec = definition.spec(self._settings)
        if self._chain is None or self._chain.spec != spec:
            host = ConnectionHost(
                store=Store(self._context.broker, definition.queue),
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
            _LeavingError: the service drains, or this worker must end.
        """
        leaving = (self._ending, self._context.draining)
        waits = [asyncio.ensure_future(each.wait()) for each in (*leaving, *others)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if any(each.is_set() for each in leaving):
            raise _LeavingError

    async def _send(
        self,
        place: Place,
        *,
        prepared: Prepared,
        fates: Sequence[Fate],
        finished: Finished,
        failures: int,
        trace: dict[str, str],
    ) -> None:
        payload, most = encode_frame(finished.frame), MOST_BODY_BYTES
        while len(payload) > MOST_PAYLOAD_BYTES:
            most //= 2
            smaller = self._finish(prepared, fates, failures, most)
            smaller.frame.taken = finished.frame.taken
            await self._bury(place, prepared, smaller.letters)
            finished.frame = smaller.frame
            payload = encode_frame(smaller.frame)
        msg_id = f"functions.{self._definition.queue}.{place.lane}.{place.seq}.{place.rewind}"
        await self._deliver({**write_place(place), **trace}, payload, msg_id)

    async def _deliver(self, headers: dict[str, str], payload: bytes, msg_id: str) -> None:
        subject = topology.deliver_subject(self._definition.queue)
        await self._persist(lambda: self._context.broker.publisher.publish(subject, payload, msg_id=msg_id, headers=headers))

    async def _bury(self, place: Place, prepared: Prepared, letters: Sequence[Letter]) -> None:
        if not letters:
            return
        dead = [self._letter(place, prepared, letter) for letter in letters]
        msg_id = f"functions.{self._definition.queue}.{place.lane}.{place.seq}.{place.rewind}.{digest_of([each.index for each in letters])}"
        await self._persist(
            lambda: bury(publisher=self._context.broker.publisher, stage=STAGE, name=self._name, letters=dead, msg_id=msg_id)
        )
        for letter in letters:
            self._context.telemetry.count("functions_events_dead_total", connection=self._name, reason=letter.reason)

    def _letter(self, place: Place, prepared: Prepared, letter: Letter) -> DeadLetter:
        frame, index = prepared.frame, letter.index
        head = prepared.heads[index]
        return DeadLetter(
            stage=STAGE,
            site=frame.site,
            connection=self._name,
            reason=letter.reason,
            detail=letter.detail,
            body=prepared.bodies[index],
            at=now(),
            origin=origin_of(place.lane, place.seq, index),
            first_origin=frame.origins[index] if frame.origins else None,
            message_id=head.message_id,
            type=head.type,
            event=head.event,
            user_id=head.user_id,
            anonymous_id=head.anonymous_id,
            request=_complete(frame.requests[head.request]) if prepared.full[index] else frame.requests[head.request],
        )

    def _delay(self, function: str, failures: int) -> float | None:
        return self._policies.get(function, Policy()).delay(failures + 1)

    def _finish(self, prepared: Prepared, fates: Sequence[Fate], failures: int, most_bytes: int = MOST_BODY_BYTES) -> Finished:
        return finish(prepared, fates, most_bytes, lambda function: self._delay(function, failures) is not None)

    async def _put_again(
        self, again: Again, *, place: Place, prepared: Prepared, retries: Sequence[Retry], failures: int
    ) -> None:
        """Stores events that functions want to see again."""
        groups: dict[str, list[Retry]] = {}
        for retry in retries:
            groups.setdefault(retry.function, []).append(retry)
        for function, group in groups.items():
            delay = self._delay(function, failures)
            if delay is None:
                continue
            indexes = [retry.index for retry in group]
            frame = select(_with_full(prepared), indexes)
            await self._persist(lambda: again.put(place, frame, indexes, function, failures=failures + 1, delay=delay))  # noqa: B023  # awaited here

    async def _persist(self, work: Callable[[], Awaitable[object]]) -> None:
        """Does something until it is durable, however long that takes."""
        pause = Backoff(*FAULT_SECONDS)
        while True:
            try:
                await work()
            except Transient as exc:
                self._context.health.bad(self._part, f"what its functions gave cannot be stored yet: {exc}")
                log.warning("what functions gave cannot be stored yet", extra={"connection": self._name, "error": str(exc)})
                await self._pause(pause.next())
            else:
                self._context.health.good(self._part)
                return

    def _count(self, finished: Finished) -> None:
        telemetry, name = self._context.telemetry, self._name
        telemetry.count("functions_events_total", finished.frame.source_events, connection=name)
        telemetry.count("functions_events_out_total", len(finished.frame), connection=name)
        for reason, amount in finished.frame.dropped.items():
            telemetry.count("functions_events_dropped_total", amount, connection=name, reason=reason)
        for function, amount in finished.errors.items():
            telemetry.count("functions_errors_total", amount, connection=name, function=function)
            self._lines.say("error", f"{function} threw {amount} times, last: {finished.words[function]}")

    def _called(self, kind: str, failed: bool) -> None:
        self._context.telemetry.count(
            "functions_calls_total", connection=self._name, kind=kind, result="failed" if failed else "ok"
        )

    def _ended(self, why: str) -> None:
        self._context.telemetry.count("functions_sandboxes_ended_total", connection=self._name)
        self._lines.say("error", f"the sandbox ended: {why}")


def _decoded(payload: bytes) -> Frame | None:
    try:
        frame = decode_frame(payload)
        frame.open()
    except Permanent:
        return None
    return frame


def _complete(request: RequestContext) -> RequestContext:
    return RequestContext(request.received_at, request.protocol, request.key, request.kind, complete=True)


def _with_full(prepared: Prepared) -> Frame:
    """Returns the frame with its events as they enter the chain: an event that a rule changed is a full event."""
    frame = prepared.frame
    requests = [*frame.requests, *map(_complete, frame.requests)]
    heads = [
        head
        if not full
        else type(head)(
            head.message_id, head.type, head.event, head.user_id, head.anonymous_id, head.request + len(frame.requests)
        )
        for head, full in zip(prepared.heads, prepared.full, strict=True)
    ]
    made = pack(frame.site, requests, heads, prepared.bodies)
    made.origins = frame.origins
    made.trusted_hints = frame.trusted_hints or all(prepared.full[index] for index in prepared.given)
    return made
