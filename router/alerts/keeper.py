"""Evaluates the alerts of the project and sends their messages, in one router at a time (a lease).

A look reads the facts, judges them by each alert's rules, and sends what is due. What was told is stored when the channel took it, by
compare-and-set: a router that takes over goes on where the former one stopped, and a former one that wakes up can send nothing, because
each message is preceded by a write.

A router that dies, or is frozen, between the write and the note of the outcome leaves a message whose outcome is not known. It is sent once
more, with the same items and the same id. If that outcome is not known either, a channel that would show a third one counts as told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping

import msgspec

from router.alerts.certificates import Certificates, servers_of
from router.alerts.contract import Message, Outcome
from router.alerts.dead import read_new
from router.alerts.judge.facts import Facts
from router.alerts.judge.faults import ending_of, faults_of
from router.alerts.judge.ledger import Kept, Ledger, calm, due, look, mark_of, settled, tidy, told, untold
from router.alerts.judge.message import Plan, plan_of
from router.alerts.read import PART, problems_of, read_connections, read_disks, read_lines, read_streams
from router.alerts.registry import Alert, parse_alert
from router.alerts.send import Sender, open_sender
from router.alerts.sites import Histories, read_sites
from router.alerts.store import (
    LEDGERS,
    MEMORY_KEY,
    Answer,
    Cell,
    Memory,
    Silence,
    asked_tests,
    decode_ledger,
    decode_memory,
    encode_ledger,
    is_silent,
    read_answer,
    read_silences,
    remove_others,
    write_answer,
)
from router.settings import RouterSettings
from shared.errors import ConfigError, Fenced, PenstockError, Transient
from shared.jetstream.lease import Lease, hold
from shared.project.snapshot import ConfigSnapshot
from shared.reading.moments import shown
from shared.service import ServiceContext
from shared.streams.reports import read_reports
from shared.tasks import to_the_end

LEASE = "keeper.alerts"
ASK_SECONDS = 1.0
"""How often it looks for questions of people."""
FIRST_AGAIN_SECONDS = 5.0
LONGEST_AGAIN_SECONDS = 600.0
UNSURE_AGAIN_SECONDS = 60.0
"""The wait after an attempt that the channel may have taken without an answer; three times as long after each further one."""
LONGEST_UNSURE_SECONDS = 3600.0
MOST_DEATHS = 2
ERROR_SECONDS = 5.0
PATIENCE_SECONDS = 5.0
"""How long a look waits for slow channels; slower ones go on beside the next look."""
TO_THE_END_SECONDS = 10.0
"""How long a router that ends waits for the outcome of a message."""

log = logging.getLogger(__name__)


async def keep_alerts(context: ServiceContext, settings: RouterSettings) -> None:
    """Evaluates for ever, while this process holds the lease for it."""
    await context.config.loaded.wait()
    async with open_sender() as sender:
        while True:
            keeper, why = None, ""
            try:
                async with hold(context.broker, LEASE, context.instance, float(settings.lease)) as lease:
                    keeper = AlertKeeper(context, settings, sender, lease)
                    await keeper.run()
            except Fenced as exc:
                log.info("alerts are left to another router", extra={"error": str(exc)})
            except Transient as exc:
                log.warning("alerts cannot be evaluated now", extra={"error": str(exc)})
                why = str(exc)
            except Exception as exc:  # the router goes on
                log.exception("unexpected error of alerts")
                why = f"unexpected error {type(exc).__name__}, see the log"
            finally:
                if keeper is not None:
                    await keeper.close()
            if why:
                context.health.warn(PART, f"they are not evaluated since {shown(context.clock.now())} UTC: {why}")
                await asyncio.sleep(ERROR_SECONDS)
            await asyncio.sleep(ASK_SECONDS)


class AlertKeeper:
    """The evaluation, for as long as this process has the lease."""

    def __init__(self, context: ServiceContext, settings: RouterSettings, sender: Sender, lease: Lease) -> None:
        self._context = context
        self._settings = settings
        self._sender = sender
        self._lease = lease
        self._certificates = Certificates()
        self._memory = Cell(context.broker, MEMORY_KEY)
        self._histories = Histories(context.broker)
        self._ledgers: dict[str, Cell] = {}
        self._alerts: tuple[int, dict[str, Alert]] = (-1, {})
        self._parts: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Looks again and again until the lease is lost.

        Raises:
            Fenced: another router evaluates.
            PenstockError: the broker does not answer.
        """
        loop, due_at, tidied = asyncio.get_running_loop(), 0.0, -1
        while True:
            self._lease.check()
            snapshot = self._context.config.current
            alerts = self._parsed(snapshot)
            if snapshot.revision != tidied:
                await remove_others(self._context.broker, snapshot.project.alerts, snapshot.project.sites)
                tidied = snapshot.revision
            if alerts:
                for name, asked in (await asked_tests(self._context.broker, list(alerts))).items():
                    self._begin(f"test {name}", self._answer(alerts[name], asked))
                if loop.time() >= due_at:
                    await self.look_once(snapshot, alerts)
                    due_at = loop.time() + float(self._settings.alerts_period)
            self._end_tasks()
            await asyncio.sleep(min(ASK_SECONDS, float(self._settings.alerts_period)))

    async def look_once(self, snapshot: ConfigSnapshot, alerts: Mapping[str, Alert]) -> None:
        """Reads the facts once, and tells what is due. Raises as `run` does."""
        broker, now = self._context.broker, self._context.clock.now()
        memory = decode_memory(await self._memory.value()).watched(now)
        facts, memory = await self._read(snapshot, alerts, memory, now)
        silences = await read_silences(broker, now)
        await self._memory.keep(msgspec.json.encode(memory))
        for name in [each for each in self._ledgers if each not in alerts]:
            del self._ledgers[name]
            self._forget(name)
        self._end_tasks()
        for name, alert in alerts.items():
            self._begin(name, self._evaluate(alert, facts, silences, now))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=PATIENCE_SECONDS)
        self._end_tasks()
        self._context.health.good(PART)

    def _begin(self, what: str, work: Coroutine[None, None, None]) -> None:
        """Begins a piece of work, unless the former one of its name goes on: a slow channel holds up no other."""
        if what in self._tasks:
            work.close()
        else:
            self._tasks[what] = asyncio.create_task(work, name=f"alerts {what}")

    def _end_tasks(self) -> None:
        """Forgets the pieces that ended, and raises the error of one."""
        ended = {what: task for what, task in self._tasks.items() if task.done()}
        for what in ended:
            del self._tasks[what]
        # the broker's errors concern all; another one concerns its alert
        errors = {what: exc for what, task in ended.items() if (exc := task.exception()) is not None}
        for what, exc in errors.items():
            if not isinstance(exc, PenstockError):
                log.error("unexpected error of an alert", exc_info=exc, extra={"alert": what})
                self._parts.add(what)
                self._context.health.warn(f"{PART} {what}", f"unexpected error {type(exc).__name__}, see the router's log")
        for exc in errors.values():
            if isinstance(exc, PenstockError):
                raise exc

    async def _read(
        self, snapshot: ConfigSnapshot, alerts: Mapping[str, Alert], memory: Memory, now: float
    ) -> tuple[Facts, Memory]:
        broker = self._context.broker
        reports = await read_reports(broker, now)
        sites, states = await read_sites(broker, snapshot, self._histories, now, watched_since=memory.watched_since)
        syncs, feeds = await read_lines(broker, snapshot, reports, now)
        mark = await read_new(broker, memory.dead, now)
        listed = [server for alert in alerts.values() for server in alert.rules.certificates]
        project = snapshot.project
        documents = [
            *project.destinations.values(),
            *project.connectors.values(),
            *project.feeds.values(),
            *project.alerts.values(),
        ]
        servers = servers_of(documents, listed, self._context.settings.nats_url)
        running = frozenset(each.service for each in reports)
        memory = msgspec.structs.replace(memory, dead=mark, services=memory.seen(running, now))
        facts = Facts(
            now=now,
            connections=await read_connections(broker, snapshot, states=states, sites=sites, reports=reports, now=now),
            sites={name: site for name, site in sites.items() if name in project.sites},
            syncs=syncs,
            feeds=feeds,
            dead=mark.runs,
            streams=await read_streams(broker),
            services={**problems_of(reports), **memory.missing(running, now)},
            running=running,
            disks=await read_disks(broker, reports),
            certificates=await self._certificates.ends(servers),
        )
        return facts, memory

    async def _evaluate(self, alert: Alert, facts: Facts, silences: Mapping[str, list[Silence]], now: float) -> None:
        rules = alert.rules
        kept = self._ledgers.setdefault(alert.name, Cell(self._context.broker, LEDGERS + alert.name))
        before = decode_ledger(await kept.value())

        def silenced(key: str, fault: Kept) -> bool:
            return is_silent(silences, alert.name, key, fault.names, now=now)

        faults = faults_of(facts, rules)
        ledger = look(before, faults, now, rules, ending=lambda key, each: ending_of(facts, rules, key, each))
        ledger = tidy(ledger, now, rules, silenced)
        if ledger.digest != alert.digest:  # another channel: it was told nothing, and the former's troubles are not its own
            ledger = untold(ledger, alert.digest)
        items = due(ledger, now, rules, silenced) if rules.enabled else []
        if not items and ledger.trouble:
            ledger = calm(ledger)
        if items and now >= ledger.next_at and now - ledger.sent_at >= rules.every:
            channel = alert.channel
            plan = plan_of(alert.name, ledger, items, now, most=channel.MOST_ITEMS, resolves_each=channel.RESOLVES_EACH)
            # a router that dies with a message whose end it notes would else leave it to be sent again
            ledger = await to_the_end(self._tell(alert, kept, ledger, plan), TO_THE_END_SECONDS)
        await kept.keep(encode_ledger(ledger), unless=_essence(before) == _essence(ledger))
        self._say(alert.name, ledger)

    async def _tell(self, alert: Alert, kept: Cell, ledger: Ledger, plan: Plan) -> Ledger:
        """Sends a message, and stores before it that it may be sent, and after it what became of it; returns the state after it."""
        now = plan.message.at
        marks = [mark_of(item) for item in plan.covered]
        again = bool(ledger.sending) and set(marks) <= set(ledger.sending)
        deaths, unsure = (ledger.deaths + ledger.in_flight, ledger.unsure) if again else (0, 0)
        if deaths >= MOST_DEATHS and not alert.channel.KNOWS_REPEATS:
            extra = {"alert": alert.name, "message_id": plan.message.id}
            log.warning("routers died twice while they sent a message; it counts as sent", extra=extra)
            return told(ledger, plan.covered, now, listed=plan.message.items)
        attempts = ledger.attempts + 1
        wait = min(LONGEST_AGAIN_SECONDS, FIRST_AGAIN_SECONDS * 2 ** min(attempts - 1, 10))
        ledger = msgspec.structs.replace(
            ledger, attempts=attempts, next_at=now + wait, sending=marks, unsure=unsure + 1, in_flight=True, deaths=deaths
        )
        await kept.keep(encode_ledger(ledger))
        self._lease.check()
        outcome = await self._send(alert, plan.message)
        if not outcome.why:
            ledger = told(ledger, plan.covered, now, listed=plan.message.items)
        else:
            ledger = _failed(ledger, outcome, now, wait, knows_repeats=alert.channel.KNOWS_REPEATS)
        await kept.keep(encode_ledger(ledger))
        return ledger

    async def _send(self, alert: Alert, message: Message) -> Outcome:
        extra = {"alert": alert.name, "message_id": message.id, "items": len(message.items)}
        try:
            outcome = await self._sender.send(alert, message)
        except Exception as exc:
            log.exception("unexpected error of an alert's channel", extra=extra)
            outcome = Outcome(f"unexpected error {type(exc).__name__}, see the router's log", person=True)
        if outcome.why:
            log.warning("an alert cannot be sent", extra={**extra, "error": outcome.why})
        else:
            log.info("an alert was sent", extra=extra)
        self._context.telemetry.count("alerts_messages_total", alert=alert.name, outcome="failed" if outcome.why else "taken")
        return outcome

    async def _answer(self, alert: Alert, asked: str) -> None:
        """Sends the test message that a person asked for, once."""
        if await read_answer(self._context.broker, alert.name, asked) is not None:
            return
        message = Message(id=asked, alert=alert.name, at=self._context.clock.now(), items=[], test=True)
        outcome = await self._send(alert, message)
        await write_answer(self._context.broker, alert.name, Answer(asked, outcome.why))

    def _say(self, name: str, ledger: Ledger) -> None:
        part, telemetry = f"{PART} {name}", self._context.telemetry
        self._parts.add(name)
        telemetry.gauge("alerts_firing", len(ledger.firing), alert=name)
        telemetry.gauge("alerts_failing", int(bool(ledger.trouble)), alert=name)
        if ledger.trouble:
            since = f"its messages cannot be sent since {shown(ledger.trouble_since)} UTC"
            self._context.health.warn(part, f"{since}: {ledger.trouble}; when it is mended, try: penstock alerts test {name}")
        else:
            self._context.health.good(part)

    def _parsed(self, snapshot: ConfigSnapshot) -> dict[str, Alert]:
        revision, alerts = self._alerts
        if revision != snapshot.revision:
            alerts = {}
            for name, document in snapshot.project.alerts.items():
                try:
                    alerts[name] = parse_alert(name, document)
                except ConfigError as exc:  # a later version applied it
                    self._parts.add(name)
                    self._context.health.warn(f"{PART} {name}", f"it cannot be read, and tells nothing: {exc}")
            self._alerts = (snapshot.revision, alerts)
            for name in self._parts - snapshot.project.alerts.keys():
                self._forget(name)
        return alerts

    def _forget(self, name: str) -> None:
        self._parts.discard(name)
        self._context.health.good(f"{PART} {name}")
        self._context.telemetry.forget("alerts_firing", "alerts_failing", alert=name)

    async def close(self) -> None:
        """Ends the messages that go on, and leaves all that was said to another router."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        for name in list(self._parts):
            self._forget(name)
        self._context.health.good(PART)


def _failed(ledger: Ledger, outcome: Outcome, now: float, wait: float, *, knows_repeats: bool) -> Ledger:
    after = max(wait, outcome.after_seconds or 0.0)
    # what only a person can mend needs no quick attempts
    after = max(after, LONGEST_AGAIN_SECONDS / 2) if outcome.person else after
    if outcome.unsure and not knows_repeats:  # each attempt may be one more message that people see
        after = max(after, min(LONGEST_UNSURE_SECONDS, UNSURE_AGAIN_SECONDS * 3.0 ** min(ledger.unsure - 1, 10)))
    ledger = msgspec.structs.replace(ledger, in_flight=False, deaths=0) if outcome.unsure else settled(ledger)
    since = ledger.trouble_since or now
    return msgspec.structs.replace(ledger, next_at=now + after, trouble=outcome.why, trouble_since=since)


def _essence(ledger: Ledger) -> object:
    """Returns what must be stored: all but the words, which each look finds again."""
    faults = {key: (each.since, each.fired, each.told, each.gone, each.note, each.listed) for key, each in ledger.faults.items()}
    return faults, ledger.ended, ledger.sent_at, ledger.attempts, ledger.next_at, ledger.trouble, ledger.digest, ledger.sending
