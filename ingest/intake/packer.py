"""Packs events of concurrent requests into frames. This makes a synced write per acknowledgement affordable.

Each subject of a site (`ingest/intake/spread.py`) has one open frame. It is sent when it is full, or when `linger_seconds` have
passed since the previous frame of its subject was sent; so a lone request leaves at once, and under load the number of frames a
second is bounded while their size grows. While `window` frames of a subject await their acknowledgement the next ones fill and queue.

Promises. A submitted event is in exactly one frame. The future of a submission resolves when every frame with its events is
durable, and fails if one of them fails; neighbours in other frames do not notice. A cancelled future changes nothing for the
frame. Frames of a subject are sent in the order of submission. Waiting bytes are bounded: beyond the bound, `submit` raises at
once.

When nothing waits, no timer runs. The caller's `send` makes a frame durable (`ingest/intake/outlet.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ingest.intake.spread import Spread
from ingest.intake.ticket import FutureTicket, Ticket
from shared.errors import Transient
from shared.events.frame import Head, RequestContext, encode_frame, pack, with_names
from shared.jetstream.topology import events_subject
from shared.tasks import task_group
from shared.telemetry.tracing.spans import Trail

HEAD_BYTES = 200
"""Memory of an event beside its body, about."""

log = logging.getLogger(__name__)


class Send(Protocol):
    """Makes a frame durable."""

    async def __call__(
        self, subject: str, payload: bytes, msg_id: str, events: int, waited_seconds: float, trails: Sequence[Trail]
    ) -> None:
        """Returns when the payload is durable.

        Args:
            waited_seconds: how long its first event has waited already.
            trails: of those of its requests that are traced.
        """
        ...


class Overloaded(Transient):
    """Too many bytes wait for acknowledgement; nothing of the submission was taken."""


@dataclass(frozen=True, slots=True)
class PackerSettings:
    """Bounds of frames."""

    max_events: int = 500
    max_bytes: int = 512 * 1024
    linger_seconds: float = 0.005
    window: int = 3
    """Frames of one subject under way at once."""
    max_held_bytes: int = 64 * 1024 * 1024
    partitions: int = 1


@dataclass(slots=True)
class _Filling:
    """A frame that is being filled."""

    requests: list[RequestContext] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    trails: list[Trail] = field(default_factory=list)
    size: int = 0
    context_bytes: int = 0
    """Bytes of its requests beside their events: bounded as the bodies are."""
    since: float = 0.0
    """The time of its first event, on the loop's clock."""


class Packer:
    """Collects submissions into frames. Opened with `open_packer`."""

    def __init__(self, send: Send, frame_id: Callable[[], str], settings: PackerSettings, group: asyncio.TaskGroup) -> None:
        self._send = send
        self._frame_id = frame_id
        self.settings = settings
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._subjects: dict[str, dict[str, _Subject]] = {}
        """By site and subject."""
        self._only: dict[str, _Subject] = {}
        """Of sites with one subject."""
        self._spread = Spread(settings.partitions)
        self.held_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def spread(self, shards: Mapping[str, int]) -> None:
        """Packs the users of each shard of a site into frames of their own; `shards` has the number of each site.

        Until the site's open frames are sent, its events go on in them: events of one user must not overtake each other.
        """
        self._spread.want(shards)

    def submit(
        self, site: str, request: RequestContext, heads: Sequence[Head], bodies: Sequence[bytes], trail: Trail | None = None
    ) -> asyncio.Future[None]:
        """Takes the events of one request; `heads` have request index 0.

        Args:
            trail: the request's, if it is traced.

        Returns:
            A future that resolves when all of them are durable. It raises the error of `send` for one of their frames.

        Raises:
            Overloaded: too much waits already; nothing was taken.
        """
        ticket = FutureTicket(self._loop.create_future(), trail)
        if heads:
            self.add(ticket=ticket, site=site, request=request, heads=heads, bodies=bodies)
        else:
            ticket.settle(None)
        return ticket.future

    def add(self, ticket: Ticket, site: str, request: RequestContext, heads: Sequence[Head], bodies: Sequence[bytes]) -> None:
        """Takes the events of one request, at least one.

        Raises:
            Overloaded: as `submit`.
        """
        size = sum(map(len, bodies)) + HEAD_BYTES * len(heads)
        context_bytes = request.client_bytes
        if self.held_bytes and self.held_bytes + size + context_bytes > self.settings.max_held_bytes:
            raise Overloaded(
                f"{self.held_bytes} bytes of events wait for the broker, the limit is {self.settings.max_held_bytes}"
            )
        if not self.held_bytes:
            self._idle.clear()
        self.held_bytes += size
        if self._spread.wanted and site in self._spread.wanted:
            self._change_shards(site)
        if self._spread.is_one(site):
            subject = self._only.get(site)
            if subject is None:
                subject = self._only[site] = self._subject(events_subject(site), site)
            subject.add(ticket=ticket, request=request, heads=heads, bodies=bodies, size=size, context_bytes=context_bytes)
            return
        for name, some_heads, some_bodies in self._spread.parts(site, heads, bodies):
            some_size = sum(map(len, some_bodies)) + HEAD_BYTES * len(some_heads)
            self._subject(name, site).add(
                ticket=ticket, request=request, heads=some_heads, bodies=some_bodies, size=some_size, context_bytes=context_bytes
            )

    async def drain(self) -> None:
        """Sends the held events and waits until none is under way."""
        for subject in self._every_subject():
            subject.hurry()
        await self._idle.wait()

    def _change_shards(self, site: str) -> None:
        subjects = self._subjects.get(site, {})
        for subject in subjects.values():
            subject.hurry()
        if all(subject.is_sent for subject in subjects.values()):
            self._spread.change(site)

    def _subject(self, name: str, site: str) -> _Subject:
        subjects = self._subjects.setdefault(site, {})
        subject = subjects.get(name)
        if subject is None:
            subject = subjects[name] = _Subject(self, self._loop, site, name)
        return subject

    def _every_subject(self) -> list[_Subject]:
        return [subject for subjects in self._subjects.values() for subject in subjects.values()]

    def start_sending(self, subject: _Subject, filling: _Filling) -> None:
        """Called by subjects: sends a frame in a task of its own."""
        self._group.create_task(self._send_frame(subject, filling), name="ingest-frame")

    def abandon(self) -> None:
        """Fails all unsent events; for the end of a process that cannot wait."""
        for subject in self._every_subject():
            for filling in subject.take_unsent():
                self._settle(filling, Transient("the service is stopping"))

    async def _send_frame(self, subject: _Subject, filling: _Filling) -> None:
        failure: Exception | None = None
        try:
            payload = encode_frame(with_names(pack(subject.site, filling.requests, filling.heads, filling.bodies)))
            waited = self._loop.time() - filling.since
            await self._send(
                subject=subject.name,
                payload=payload,
                msg_id=self._frame_id(),
                events=len(filling.heads),
                waited_seconds=waited,
                trails=filling.trails,
            )
        except asyncio.CancelledError:
            self._settle(filling, Transient("the service is stopping"))
            raise
        except Exception as exc:  # whatever the error is, the requests must hear of it, and the subject must go on
            failure = exc
            if not isinstance(exc, Transient):
                log.exception("frame could not be sent", extra={"subject": subject.name, "events": len(filling.heads)})
        self._settle(filling, failure)
        subject.sent()

    def _settle(self, filling: _Filling, failure: Exception | None) -> None:
        self.held_bytes -= filling.size + filling.context_bytes
        if self.held_bytes <= 0:
            self._idle.set()
        for ticket in filling.tickets:
            ticket.frames -= 1
            if ticket.over or (failure is None and ticket.frames):
                continue
            ticket.over = True
            try:
                ticket.settle(failure)
            except Exception:
                log.exception("a request could not be told the fate of its events")


class _Subject:
    """The frames of one site and partition."""

    def __init__(self, packer: Packer, loop: asyncio.AbstractEventLoop, site: str, subject: str) -> None:
        self.site = site
        self.name = subject
        self._packer = packer
        self._loop = loop
        self._settings = packer.settings
        self._filling = _Filling()
        self._full: deque[_Filling] = deque()
        self._under_way = 0
        self._last_sent = float("-inf")
        self._timer: asyncio.Handle | None = None

    def add(
        self,
        ticket: Ticket,
        request: RequestContext,
        heads: Sequence[Head],
        bodies: Sequence[bytes],
        size: int,
        context_bytes: int,
    ) -> None:
        """Appends events to the open frame, and to further ones when it is full."""
        position, count = 0, len(heads)
        filling, most = self._filling, self._settings.max_bytes
        held = len(filling.heads)
        fits = held + count < self._settings.max_events and filling.size + size <= most
        # the usual case; the time to send the frame is settled already
        if held and fits and filling.context_bytes + context_bytes <= most:
            _put(filling=filling, ticket=ticket, request=request, heads=heads, bodies=bodies, size=size)
            filling.context_bytes += context_bytes
            self._packer.held_bytes += context_bytes
            return
        if held and filling.context_bytes + context_bytes > most:
            self._full.append(self._filling)
            self._filling = _Filling()
        while position < count:
            filling = self._filling
            if not filling.heads:
                filling.since = self._loop.time()
            if not position and count + len(filling.heads) <= self._settings.max_events and size <= self._room():
                end, taken = count, size
            else:
                end, taken = self._what_fits(bodies, position)
            if end > position:
                _put(
                    filling=filling,
                    ticket=ticket,
                    request=request,
                    heads=heads[position:end],
                    bodies=bodies[position:end],
                    size=taken,
                )
                filling.context_bytes += context_bytes
                self._packer.held_bytes += context_bytes
                position = end
            if position < count or len(filling.heads) >= self._settings.max_events:
                self._full.append(filling)
                self._filling = _Filling()
        self._send_full()
        self._schedule()

    def hurry(self) -> None:
        """Sends the open frame as soon as the window allows, without lingering."""
        if self._filling.heads:
            self._full.append(self._filling)
            self._filling = _Filling()
        self._send_full()

    @property
    def is_sent(self) -> bool:
        """Whether all its events are sent, acknowledged or not."""
        return not self._full and not self._filling.heads

    def sent(self) -> None:
        """A frame of this subject is durable, or has failed."""
        self._under_way -= 1
        self._send_full()
        self._schedule()

    def take_unsent(self) -> list[_Filling]:
        """Empties the subject; returns its unsent frames."""
        unsent = [*self._full, self._filling] if self._filling.heads else list(self._full)
        self._full.clear()
        self._filling = _Filling()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return unsent

    def _room(self) -> int:
        return self._settings.max_bytes - self._filling.size

    def _what_fits(self, bodies: Sequence[bytes], position: int) -> tuple[int, int]:
        """Returns the end of the events from `position` on that fit the open frame (at least one if it is empty), and their size."""
        last = min(len(bodies), position + self._settings.max_events - len(self._filling.heads))
        room = self._room()
        size, end = 0, position
        while end < last:
            more = len(bodies[end]) + HEAD_BYTES
            if size + more > room and (end > position or self._filling.heads):
                break
            size += more
            end += 1
        return end, size

    def _send_full(self) -> None:
        while self._full and self._under_way < self._settings.window:
            self._start(self._full.popleft())

    def _schedule(self) -> None:
        if self._timer is not None or not self._filling.heads or self._full or self._under_way >= self._settings.window:
            return
        wait = self._last_sent + self._settings.linger_seconds - self._loop.time()
        # call_soon: events that arrive in this turn of the loop share the frame
        self._timer = self._loop.call_later(wait, self._due) if wait > 0 else self._loop.call_soon(self._due)

    def _due(self) -> None:
        self._timer = None
        if self._filling.heads and not self._full and self._under_way < self._settings.window:
            filling, self._filling = self._filling, _Filling()
            self._start(filling)

    def _start(self, filling: _Filling) -> None:
        self._under_way += 1
        self._last_sent = self._loop.time()
        self._packer.start_sending(self, filling)


def _put(
    filling: _Filling, ticket: Ticket, request: RequestContext, heads: Sequence[Head], bodies: Sequence[bytes], size: int
) -> None:
    number = len(filling.requests)
    filling.requests.append(request)
    filling.tickets.append(ticket)
    if ticket.trail is not None:
        filling.trails.append(ticket.trail)
    ticket.frames += 1
    if number and len(heads) == 1:
        each = heads[0]
        heads = (Head(each.message_id, each.type, each.event, each.user_id, anonymous_id=each.anonymous_id, request=number),)
    elif number:
        heads = [
            Head(each.message_id, each.type, each.event, each.user_id, anonymous_id=each.anonymous_id, request=number)
            for each in heads
        ]
    filling.heads.extend(heads)
    filling.bodies.extend(bodies)
    filling.size += size


@contextlib.asynccontextmanager
async def open_packer(send: Send, frame_id: Callable[[], str], settings: PackerSettings) -> AsyncIterator[Packer]:
    """Opens a packer; at the end of the context every held event is sent or has failed."""
    try:
        async with task_group() as group:
            packer = Packer(send, frame_id, settings, group)
            try:
                yield packer
                await packer.drain()
            finally:
                packer.abandon()
    except BaseExceptionGroup as failures:
        # the tasks report to their requests and raise nothing: this error comes from the context's body
        raise failures.exceptions[0] from None
