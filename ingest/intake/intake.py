"""Takes judged events in: makes them durable, dead-letters the rejects, counts them, and only then reports success.

Shared by HTTP and WebSocket. One `Intake` per process; it holds the current index of keys and swaps it whole when the project
changes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from opentelemetry.trace import SpanKind

from ingest.browser.pages import SitePages, pages_of
from ingest.clients.address import Proxies, stricter, treat_address
from ingest.clients.bursts import burst_of
from ingest.clients.keys import KeyIndex
from ingest.clients.origins import Origins
from ingest.clients.sender import MAX_USER_AGENT, ReadAgent, ReadLocation
from ingest.contract import Accepted, Admission, Credential, Hook, Parsed, Refusal
from ingest.intake.forgotten import leave_out
from ingest.intake.identity import identity_of
from ingest.intake.outlet import Outlet
from ingest.intake.packer import Overloaded, Packer
from ingest.intake.texts import of_sender, text_of
from ingest.intake.ticket import FutureTicket, Ticket
from ingest.intake.warned import note_cut, note_oddities, note_skew
from ingest.limits.rate import RateLimiter
from ingest.limits.refusals import Refusals
from ingest.trackers.micro import PROTOCOL, Micro
from ingest.trackers.schemas import schemas_of
from shared.clock import Clock
from shared.errors import Transient
from shared.events.dead import LETTER_BYTES, DeadLetter, bury
from shared.events.event import read_micros
from shared.events.frame import RequestContext
from shared.events.outcome import DropReason
from shared.forget.ids import Forgotten
from shared.project.checks.sites import ANY_ORIGIN
from shared.project.model import Project, Site
from shared.streams.dead_log import DeadLog
from shared.telemetry.metrics import Telemetry
from shared.telemetry.tracing.spans import Trail

MAX_HEADER = 1024
"""A longer header is cut: every event of its request carries it."""

CUT_BODY_BYTES = 1024 * 1024
"""A larger rejected event is cut."""


Start = Callable[[Coroutine[Any, Any, None], str], None]
"""Starts a named task that lives at most as long as the service."""


class Sender(NamedTuple):
    """The transport's facts about a sender."""

    peer: str | None
    """The peer's address on the socket."""
    headers: Mapping[str, str]


_ONE = Accepted(1)


class SiteCache(NamedTuple):
    """The values of a site that the edge keeps ready."""

    site: Site
    origins: Origins


class Intake:
    """Takes events in for all protocols."""

    def __init__(
        self,
        packer: Packer,
        outlet: Outlet,
        telemetry: Telemetry,
        *,
        instance: str,
        start: Start,
        read_agent: ReadAgent,
        read_location: ReadLocation,
        proxies: Proxies | None = None,
        keep_headers: Sequence[str] = (),
        largest_event: int | None = None,
        clock: Clock | None = None,
        rates: RateLimiter | None = None,
        on_lost_letters: Callable[[str, int], None] = lambda *_: None,
        forgotten: Forgotten | None = None,
        micro: Micro | None = None,
    ) -> None:
        self.micro = micro
        self._clock = clock or Clock()
        self._packer = packer
        self._outlet = outlet
        self.telemetry = telemetry
        self._start = start
        self._read_agent = read_agent
        self._read_location = read_location
        self.proxies = proxies or Proxies()
        self._keep_headers = [name.lower() for name in keep_headers]
        self._largest_event = largest_event
        # a dead letter carries the context of its request as well
        self._cut_bytes = min(CUT_BODY_BYTES, largest_event // 2) if largest_event else CUT_BODY_BYTES
        self._rates = rates or RateLimiter()
        self._on_lost_letters = on_lost_letters
        self._forgotten = Forgotten() if forgotten is None else forgotten
        self.refusals = Refusals(telemetry)
        self._count_accepted = lru_cache(4096)(self._accepted_counter)
        self._dead_log = DeadLog(logging.WARNING)  # any client may send these: nothing here is broken
        self._rejected_bytes = 0
        self._numbers = itertools.count(1)
        # a process id can come again; the start time tells this life from an earlier one
        self._life = f"{instance}-{time.time_ns():x}"
        self.keys = KeyIndex(None)
        self.sites: dict[str, SiteCache] = {}
        self.all_origins = Origins([])
        self._pages: Mapping[str, SitePages] = {}

    def use_project(self, project: Project, hooks: Mapping[str, Hook] | None = None) -> None:
        """Puts a revision of the project in force; `hooks` are its webhooks, if it refers to secrets."""
        self.keys = KeyIndex(project, self._largest_event, hooks, schemas_of(project))
        self._pages = pages_of(project)
        self.sites = {name: SiteCache(site, Origins(site.origins)) for name, site in project.sites.items()}
        self._packer.spread({name: site.shards for name, site in project.sites.items() if site.shards > 1})
        every = [origin for site in project.sites.values() for origin in site.origins]
        self.all_origins = Origins(
            every, any_origin=any(not site.origins or ANY_ORIGIN in site.origins for site in project.sites.values())
        )

    def admit(self, credentials: Sequence[Credential]) -> Admission | Refusal:
        """Returns the site that the strongest credential opens, or a refusal (`contract.Desk`)."""
        found = self.keys.admit(credentials)
        if isinstance(found, Refusal):
            return found
        admission, disagree = found
        if disagree:
            self.telemetry.count("ingest_key_disagreements_total", site=admission.site)
        return admission

    def pages(self, site: str) -> SitePages:
        """Returns what the pages of a site are told (`contract.Desk`)."""
        return self._pages.get(site) or SitePages()

    def new_id(self) -> str:
        """Returns a new messageId: 48 bits of milliseconds and 80 random bits, so that ids sort by time (`contract.Desk`)."""
        return f"{self._clock.now_ns() // 1_000_000:012x}{os.urandom(10).hex()}"

    def now(self) -> float:
        """Returns the time (`contract.Desk`)."""
        return self._clock.now()

    def frame_id(self) -> str:
        """Returns the message id of a new frame."""
        return f"{self._life}-{next(self._numbers)}"

    async def accept(self, parsed: Parsed, sender: Sender, protocol: str) -> Accepted | Refusal:
        """Makes the events of a request durable.

        Raises:
            Transient: acknowledge nothing; the client should send the whole request again.
            Permanent: the broker can never take them.
        """
        tracing = self.telemetry.tracing
        trail = tracing.decide() if tracing is not None else None
        if trail is None:
            return await self._accept(parsed, sender, protocol, None)
        with self.telemetry.traced(f"receive {protocol}", SpanKind.SERVER, trail) as span:
            span.set("penstock.site", parsed.admission.site)
            span.set("penstock.events", len(parsed.heads))
            return await self._accept(parsed, sender, protocol, trail)

    async def _accept(self, parsed: Parsed, sender: Sender, protocol: str, trail: Trail | None) -> Accepted | Refusal:
        ticket = FutureTicket(asyncio.get_running_loop().create_future(), trail)
        taken = self.take(parsed, sender, protocol, ticket)
        if taken is not None:
            return taken
        await ticket.future
        return self.accepted(parsed, protocol)

    def take(self, parsed: Parsed, sender: Sender, protocol: str, ticket: Ticket) -> Accepted | Refusal | None:
        """Sends the events of a request on their way.

        Returns:
            None if the caller must wait: `ticket` is settled when all events are durable, and `accepted` then counts them.

        Raises:
            Overloaded: too many bytes wait already; nothing was taken.
        """
        admission = parsed.admission
        site = admission.site
        refusal = self._check_sender(parsed, sender)
        if refusal is not None:
            return refusal
        if self._forgotten and (left := leave_out(parsed, self._forgotten)):
            self.telemetry.count("ingest_events_dropped_total", left, site=site, reason=DropReason.FORGOTTEN)
        context = self._context(parsed, sender, protocol)
        if context is None:
            if self.sites[site].site.bots == "refuse":
                return admission.refuse(403, "bot_refused", "this site takes no events of bots")
            dropped = len(parsed.heads) + len(parsed.rejects)
            self.telemetry.count("ingest_events_dropped_total", dropped, site=site, reason=DropReason.BOT)
            return Accepted(0, dropped=DropReason.BOT)
        if not parsed.rejects:
            if not parsed.heads:
                return self.accepted(parsed, protocol)
            self._packer.add(ticket=ticket, site=site, request=context, heads=parsed.heads, bodies=parsed.bodies)
            return None
        reserved = self._reserve(parsed)
        try:
            stored = self._packer.submit(site, context, parsed.heads, parsed.bodies, trail=ticket.trail)
        except Transient:
            self._rejected_bytes -= reserved
            raise
        self._start(
            self._store_rejects(parsed=parsed, context=context, stored=stored, reserved=reserved, ticket=ticket), "ingest-rejects"
        )
        return None

    def accepted(self, parsed: Parsed, protocol: str) -> Accepted:
        """Counts a request whose events are durable."""
        site = parsed.admission.site
        count = self.telemetry.count
        if parsed.heads:
            self._count_accepted(site, protocol)(len(parsed.heads))
        for reject in parsed.rejects:
            count("ingest_events_rejected_total", site=site, protocol=protocol, reason=reject.reason)
        if self.micro is not None and protocol == PROTOCOL:
            self.micro.note(parsed, self._clock.now())
        if parsed.repaired or parsed.made_ids or parsed.ignored or parsed.unknown_schemas or parsed.unfit:
            note_oddities(self.telemetry, parsed)
        return Accepted(len(parsed.heads), parsed.rejects) if len(parsed.heads) != 1 or parsed.rejects else _ONE

    def _accepted_counter(self, site: str, protocol: str) -> Callable[[float], None]:
        return self.telemetry.counter("ingest_events_accepted_total", site=site, protocol=protocol)

    async def _store_rejects(
        self, parsed: Parsed, context: RequestContext, stored: asyncio.Future[None], reserved: int, ticket: Ticket
    ) -> None:
        """Waits until the dead letters and the events of a request are durable; raises nothing but cancellation."""
        failure: Exception | None = Transient("the service is stopping")
        try:
            try:
                await self._bury(parsed, context)
            finally:
                # also if the dead letters fail: asyncio warns of a failed future that no task awaits
                await stored
            failure = None
        except Exception as exc:  # noqa: BLE001  # the request hears of it
            failure = exc
        finally:
            self._rejected_bytes -= reserved
            ticket.settle(failure)

    def _reserve(self, parsed: Parsed) -> int:
        """Counts rejects that wait for the broker, within the bound of events."""
        size = sum(LETTER_BYTES + len(reject.detail) + len(reject.body) for reject in parsed.rejects)
        limit = self._packer.settings.max_held_bytes
        if self._rejected_bytes and self._rejected_bytes + size > limit:
            raise Overloaded(f"{self._rejected_bytes} bytes of rejected events wait for the broker, the limit is {limit}")
        self._rejected_bytes += size
        return size

    def _check_sender(self, parsed: Parsed, sender: Sender) -> Refusal | None:
        admission = parsed.admission
        desk = self.sites.get(admission.site)
        if desk is None:  # the project changed since the key was looked up
            return None
        if admission.kind == "browser" and (page := desk.origins.stranger(sender.headers)) is not None:
            return admission.refuse(403, "origin_not_allowed", f"pages of {page[:200]!r} may not send to this site")
        rate = admission.limits.rate
        if rate:
            events = len(parsed.heads) + len(parsed.rejects)
            burst = burst_of(rate)
            if events > burst:
                message = f"the request has {events} events; with {rate} events a second a key may send {burst} at once"
                return admission.refuse(413, "too_many_events", message)
            wait = self._rates.take(admission.bucket, events, rate, time.monotonic())
            if wait:
                message = f"more than {rate} events a second with this key; try again in {wait} s"
                return admission.refuse(429, "rate_limited", message, wait)
        return None

    def _context(self, parsed: Parsed, sender: Sender, protocol: str) -> RequestContext | None:
        """Returns the server's facts about the request; None if a bot sent it and the site drops bots."""
        admission = parsed.admission
        received_at = self._clock.now_ns() // 1000
        defaults = parsed.defaults
        ip = user_agent = agent = place = None
        bot = False
        headers = sender.headers
        if admission.kind == "browser":
            desk = self.sites.get(admission.site)
            address = None if parsed.hide_address else self.proxies.client_address(sender.peer, headers)
            user_agent = text_of(headers.get("user-agent"))
            if user_agent:
                if len(user_agent) > MAX_USER_AGENT:
                    self.telemetry.count("ingest_texts_cut_total", site=admission.site, reason="user_agent")
                user_agent = user_agent[:MAX_USER_AGENT]
                agent, bot, skipped = self._read_agent(user_agent)
                if skipped:
                    self.telemetry.count("ingest_agents_unparsed_total", site=admission.site)
            if address:
                place = self._read_location(address)
            if desk is not None:
                ip = treat_address(address, stricter(desk.site.ip, parsed.ip_policy or headers.get("x-ip-policy")))
                if bot and desk.site.bots != "keep":
                    return None
        elif admission.hook is not None and (desk := self.sites.get(admission.site)) is not None:
            defaults = of_sender(treat_address(self.proxies.client_address(sender.peer, headers), desk.site.ip))
        kept = (
            {name: value[:MAX_HEADER] for name in self._keep_headers if (value := text_of(headers.get(name)))}
            if self._keep_headers
            else None
        )
        return RequestContext(
            received_at=received_at,
            protocol=protocol,
            key=admission.key,
            kind=admission.kind,
            ip=ip,
            user_agent=user_agent,
            sent_at=parsed.sent_at,
            skew=self._skew(parsed, received_at) if parsed.sent_at else None,
            defaults=defaults,
            headers=kept or None,
            agent=agent,
            geo=place,
            bot=bot,
        )

    def _skew(self, parsed: Parsed, received_at: int) -> int | None:
        """Returns how far the client's clock is behind; None if `sentAt` is no time, or further off than the site allows."""
        sent_at = read_micros(parsed.sent_at) if parsed.sent_at else None
        skew = None if sent_at is None else received_at - sent_at
        desk = self.sites.get(parsed.admission.site)
        largest = desk.site.max_clock_skew if desk is not None else 0
        if skew is None or abs(skew) > largest * 1_000_000:
            note_skew(self.telemetry, parsed, skew)
            return None
        return skew

    async def _bury(self, parsed: Parsed, context: RequestContext) -> None:
        site = parsed.admission.site
        origin = self.frame_id()
        identity = identity_of(parsed)
        note_cut(self.telemetry, parsed, self._cut_bytes)
        at = self._clock.now()
        letters = [
            DeadLetter(
                stage="ingest",
                site=site,
                reason=reject.reason,
                detail=reject.detail,
                body=reject.body[: self._cut_bytes],
                at=at,
                origin=f"{origin}:{reject.position}",
                request=context,
                form=parsed.form,
            )
            for reject in parsed.rejects
        ]

        def lose(lost: Sequence[DeadLetter]) -> None:
            # these events are never accepted: sending them again would change nothing
            self._on_lost_letters(site, len(lost))

        await bury(
            publisher=self._outlet,
            stage="ingest",
            name=site,
            letters=letters,
            msg_id=f"dead-{site}-{identity or origin}",
            on_full=lose,
        )
        self._dead_log.note([reject.reason for reject in parsed.rejects], site=site)
