"""A chain of functions to the host: events in, what became of each out, whatever its sandbox does.

Events of a batch go to the sandbox together. When it ends in the middle (too much CPU or memory, a crash, bytes that no guest writes),
what it had answered stays, and the others go to a new one carefully: one after the other, each announced before it begins. So the event
that ends the sandbox is found, and charged; its neighbours are not. What an event leaves behind may end the sandbox at a later one, so
an event is charged only where it was the first of its sandbox. Effects are not repeated: a call that an event made before is
answered from memory when its event runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate, Given, batch_of, fates_of
from functions_runtime.sandbox.guest import BrokenError, EndedError, Guest, Limits, Spec
from shared.events.outcome import DeadReason

POLL_SECONDS = 0.05
MEMORY_SECONDS = 0.2
"""How often memory is looked at while a sandbox answers all the time."""
STRIKES = 2
"""A sandbox that ends by itself may have been killed by anyone; the event it was at runs once more before it is charged."""
CALM_SECONDS = 60.0
"""How long the sandboxes of a chain give way to all other processes after one of them was ended for what it took."""
MOST_STARVED_SECONDS = 60.0
"""How much longer an event may take where its sandbox gave way and the machine is busy: its CPU is what counts then."""
ERROR_CHARACTERS = 500
MOST_ANSWER_BYTES = 32 * 1024 * 1024
"""Of all answers to one event; they are kept until it is at its end."""

log = logging.getLogger(__name__)


class CallError(Exception):
    """A call of a function failed; its words are for the function's author."""


class Host(Protocol):
    """What functions may ask for."""

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """Does one thing and returns plain data.

        Raises:
            CallError: it cannot be done.
        """
        ...

    def log(self, level: str, message: str) -> None:
        """Takes a line that a function logs."""
        ...


Start = Callable[[Spec], Awaitable[Guest]]


class Chain:
    """The functions of one connection. One batch runs at a time.

    Args:
        start: starts a sandbox; `Guest.start`, or what keeps count of them.
        on_ended: called with the reason whenever a sandbox ends in the middle of a batch.
    """

    def __init__(
        self, spec: Spec, host: Host, *, start: Start = Guest.start, on_ended: Callable[[str], None] = lambda _: None
    ) -> None:
        self.spec = spec
        self._host = host
        self._start = start
        self._on_ended = on_ended
        self._guest: Guest | None = None
        self._batches = 0
        self.used_at = time.monotonic()
        self.busy = False
        self._calm_at = 0.0  # a moment of `time.monotonic`
        self._idle_cpu = (0.0, 0.0)  # `used_at` and the sandbox's CPU when it was last looked at

    @property
    def running(self) -> bool:
        """Whether it has a sandbox."""
        return self._guest is not None

    def serve(self, host: Host) -> None:
        """Gives the functions another host, between two batches."""
        self._host = host

    async def ready(self) -> list[dict[str, Any]]:
        """Starts the sandbox where there is none; returns the names, forms and retry policies of the functions.

        Raises:
            BrokenError: a function cannot be loaded.
            SetupError, Transient: no sandbox starts.
        """
        return (await self._running()).policies

    async def run(self, requests: Sequence[Mapping[str, Any]], events: Sequence[Given]) -> list[Fate]:
        """Runs events through the functions, in order for each user.

        Args:
            requests: what `ctx` says of the requests of the events.

        Raises:
            BrokenError: a function cannot be loaded.
            SetupError, Transient: no sandbox starts.
        """
        self.busy = True
        try:
            return await _Batch(self, requests, events).run()
        finally:
            self.busy = False
            self.used_at = time.monotonic()
            if self._guest is not None and self._guest.gave_way and self.used_at > self._calm_at:
                await self.close()  # a process cannot take its priority back, the next one has it

    def wastes(self) -> bool:
        """Says whether the sandbox used more CPU than an event may since this was last asked, with nothing to run."""
        guest, limits = self._guest, self.spec.limits
        if guest is None:
            return False
        used, before = guest.cpu_seconds(), self._idle_cpu
        self._idle_cpu = (self.used_at, used)
        return before[0] == self.used_at and used - before[1] > limits.cpu_seconds

    async def close(self) -> None:
        """Ends the sandbox. It starts again when it is needed."""
        guest, self._guest = self._guest, None
        if guest is not None:
            await guest.close()

    async def _running(self) -> Guest:
        if self._guest is None:
            self._guest = await self._start(self.spec._replace(gives_way=time.monotonic() < self._calm_at))
        return self._guest


class _Batch:
    def __init__(self, chain: Chain, requests: Sequence[Mapping[str, Any]], events: Sequence[Given]) -> None:
        self._chain = chain
        self._requests = requests
        self._events = events
        self._fates: list[Fate | None] = [None] * len(events)
        self._answers: dict[int, dict[int, tuple[bytes, asyncio.Task[Any]]]] = {}
        self._calling: set[asyncio.Task[Any]] = set()
        self._heard: Counter[int] = Counter()
        self._strikes: dict[int, int] = {}
        self._started: int | None = None
        self._first = True

    async def run(self) -> list[Fate]:
        careful = False
        try:
            while pending := [index for index, fate in enumerate(self._fates) if fate is None]:
                guest = await self._chain._running()
                self._started, self._first = None, True
                try:
                    await self._attempt(guest, pending, careful=careful)
                except EndedError as exc:
                    self._chain._on_ended(str(exc))
                    log.warning("a sandbox ended", extra={"error": str(exc), "events": len(pending), "careful": careful})
                    self._charge(exc)
                    if exc.limit:
                        self._chain._calm_at = time.monotonic() + CALM_SECONDS
                    careful = True
                    await self._chain.close()
                except BaseException:
                    await self._chain.close()  # what it does further is of no use, and its answers would be taken for others
                    raise
        finally:
            if self._calling:  # a function need not wait for what it began
                await asyncio.wait(self._calling, timeout=self._chain.spec.limits.wall_seconds)
            for task in self._calling:
                task.cancel()
        return [fate for fate in self._fates if fate is not None]

    def _charge(self, ended: EndedError) -> None:
        """Makes the event at which a careful sandbox ended a dead letter, if it was the event's doing."""
        index = self._started
        if index is None or self._fates[index] is not None or not self._first:
            return
        self._strikes[index] = self._strikes.get(index, 0) + 1
        if ended.limit or self._strikes[index] >= STRIKES:
            reason = (
                DeadReason.FUNCTION_MEMORY
                if ended.memory
                else DeadReason.FUNCTION_TIMEOUT
                if ended.limit
                else DeadReason.FUNCTION_FAILED
            )
            self._fates[index] = Fate(wire.DEAD, reason=reason, detail=f"the event ended the sandbox: {ended}")

    async def _attempt(self, guest: Guest, pending: Sequence[int], *, careful: bool) -> None:
        chain, limits = self._chain, self._chain.spec.limits
        chain._batches += 1
        number = chain._batches
        header, bodies = batch_of(number, self._requests, [self._events[index] for index in pending], careful=careful)
        if len(pending) < len(self._events):
            header = msgspec.structs.replace(header, indexes=pending)
        left = set(pending)
        watch = _Watch(guest, limits)
        # not awaited: a guest that hangs takes nothing, and only the watch ends it
        sending = asyncio.create_task(_send(guest, wire.BATCH, header, bodies))
        answering: set[asyncio.Task[None]] = {sending}
        try:
            while left:
                said, rest = await watch.next()
                if isinstance(said, wire.Loaded) or said.batch != number:
                    raise await _forged(guest, "it answered for another batch")
                if isinstance(said, wire.Results):
                    await self._take(guest, said, rest, left)
                elif isinstance(said, wire.Asked):
                    if said.event not in left:
                        raise await _forged(guest, "it asked for an event that is at its end")
                    task = asyncio.create_task(self._answer(guest, said))
                    answering.add(task)
                    task.add_done_callback(answering.discard)
                elif isinstance(said, wire.Started):
                    self._first = self._started is None
                    self._started = said.index
                    watch.again()
        finally:
            watch.close()
            for task in answering:
                task.cancel()

    async def _take(self, guest: Guest, said: wire.Results, rest: bytes, left: set[int]) -> None:
        try:
            for index, fate in fates_of(said.results, rest, self._chain.spec.functions[-1].name):
                left.remove(index)
                self._fates[index] = fate
                if self._answers:
                    self._answers.pop(index, None)
        except wire.Malformed as exc:
            raise await _forged(guest, str(exc)) from exc
        except KeyError as exc:
            raise await _forged(guest, "it answered for an event twice") from exc
        for _, level, message in said.logs:
            self._chain._host.log(level, message)

    async def _answer(self, guest: Guest, asked: wire.Asked) -> None:
        known = self._answers.setdefault(asked.event, {})
        what = hashlib.sha256(msgspec.json.encode((asked.op, asked.args))).digest()
        if asked.n not in known or known[asked.n][0] != what:
            task = asyncio.create_task(self._called(asked))
            self._calling.add(task)
            task.add_done_callback(self._calling.discard)
            known[asked.n] = (what, task)
        value, error = await asyncio.shield(known[asked.n][1])
        header = {"number": asked.number, "value": value} if error is None else {"number": asked.number, "error": error}
        await _send(guest, wire.ANSWER, header)

    async def _called(self, asked: wire.Asked) -> tuple[msgspec.Raw, str | None]:
        """Returns the answer to a call, or in what it failed."""
        nothing = msgspec.Raw(b"null")
        try:
            answer = msgspec.Raw(msgspec.json.encode(await self._chain._host.call(asked.op, asked.args)))
        except CallError as exc:
            return nothing, str(exc)[:ERROR_CHARACTERS]
        except Exception as exc:
            log.exception("a call of a function failed for a reason of ours", extra={"op": asked.op})
            return nothing, f"{asked.op}: {type(exc).__name__}"
        self._heard[asked.event] += len(answer)
        if self._heard[asked.event] > MOST_ANSWER_BYTES:
            return nothing, f"the answers to one event hold {MOST_ANSWER_BYTES >> 20} MiB at most"
        return answer, None


async def _send(guest: Guest, kind: int, header: object, bodies: Sequence[bytes] = ()) -> None:
    with contextlib.suppress(EndedError):  # who awaits its frames hears of it
        await guest.send(kind, header, bodies)


class _Watch:
    """Waits for frames of a guest, and ends it when it takes too much between two."""

    def __init__(self, guest: Guest, limits: Limits) -> None:
        self._guest = guest
        self._limits = limits
        self._receiving: asyncio.Future[tuple[wire.Said, bytes]] | None = None
        self._looked_at = time.monotonic()
        self.again()

    def again(self) -> None:
        """Begins to measure again."""
        self._since = time.monotonic()
        self._cpu: float | None = None

    async def next(self) -> tuple[wire.Said, bytes]:
        """Returns the next frame.

        Raises:
            EndedError: there is none any more.
        """
        receiving = self._receiving = asyncio.ensure_future(self._guest.receive())
        while not receiving.done():
            await asyncio.wait([receiving], timeout=POLL_SECONDS)
            if not receiving.done():
                self._look()
        frame = receiving.result()
        now = time.monotonic()
        if now - self._looked_at > MEMORY_SECONDS:
            self._looked_at = now
            self._guest.check(None, self._limits)
        # a call, or lines alone, may come out of a loop that does not end
        if isinstance(frame[0], wire.Alive) or (isinstance(frame[0], wire.Results) and frame[0].results):
            self.again()
        return frame

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        if self._cpu is None:
            self._cpu = self._guest.cpu_seconds()
        self._guest.check(self._cpu, self._limits)
        waited = self._looked_at - self._since
        longest = MOST_STARVED_SECONDS if self._guest.is_starved() else 0.0
        if waited > self._limits.wall_seconds + 1 + longest:
            self._guest.kill(EndedError(f"it said nothing for {waited:.1f} s", limit=True))

    def close(self) -> None:
        """Waits for nothing more."""
        if self._receiving is not None:
            self._receiving.cancel()


async def _forged(guest: Guest, why: str) -> EndedError:
    guest.kill(EndedError(why))
    return await guest.ended()


__all__ = ["BrokenError", "CallError", "Chain", "Fate", "Given", "Host"]
