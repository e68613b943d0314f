"""Compares delivered events with accepted ones, by ids: `penstock status --check`.

The accounts must balance (`penstock/control/status/balance.py`). Then the audit reads the ids in EVENTS, routes them again by the
present rules, and looks for each in four places: the destination, the dead letters, the queue, rows set aside. Two sets of ids
come of the routing for each connection (`_Expected`). Ids that it *should* have must be in one of the places. Ids that it *may*
have, by a backfill or a replay, or under former rules or in a former place (`penstock/control/project/changes.py`), may be
missing. No id of either set may be twice in a table. If a destination cannot be asked for ids (files), only its balance is
checked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
from nats.js.errors import NotFoundError

from loader import registry
from loader.contract.ids import FindsIds
from loader.contract.warehouse import Capabilities, Environment
from loader.rows.layouts import LAYOUTS
from loader.rows.rules import Rules
from penstock.control.letters.letters import Filter, find
from penstock.control.moments import gone
from penstock.control.project.changes import Change, changes
from penstock.control.status.balance import Balance, SiteBalance, read_balances
from penstock.control.wording import counted, waits
from router.forwarding.state import SiteState
from router.rules.arrival import Arrival
from router.rules.compiled import SiteRules, compile_project
from router.rules.match import match
from router.shards.summed import read_site_state
from router.window.dedupe import Window
from shared.errors import NotConnected, PenstockError, Permanent
from shared.events.frame import decode_frame
from shared.events.outcome import DeadReason, DropReason
from shared.forget.listing import read_forgotten
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.jetstream.reader import StreamReader
from shared.project.shards import connection_of_shard, shard_names
from shared.project.snapshot import ConfigSnapshot, project_history
from shared.streams.ended import decode_ended, ended_key
from shared.streams.removed import RemovedBalance, read_all_removed
from shared.streams.waiting import FUNCTIONS_STAGE
from shared.tasks import timeout
from shared.threads import ThreadGate

MOST_IDS = 2_000_000
"""The most ids in memory; for more, give `--since`."""
SHOWN_IDS = 20
FIND_IDS = 20_000
FIND_SECONDS = 300.0
QUIET_SECONDS = 5.0
LEFT_OUT = (DropReason.TABLE_TEMPLATE_EMPTY, DropReason.FUNCTION, DropReason.FUNCTION_FAILED)
"""Why an event that the router forwarded is in no table, and is no dead letter."""
UNDECIDED = "its destination has not said yet whether it has the load that was under way"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A fault of a connection or site."""

    name: str
    what: str
    events: int = 0
    ids: list[str] = []
    """The first of them."""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The result: what was checked, and the findings."""

    sites: list[SiteBalance]
    connections: list[Balance]
    removed: list[RemovedBalance]
    """Connections that left the project, each incarnation apart; the oldest are added up."""
    findings: list[Finding]
    notes: list[str]
    """Notes on things that are checked in part, by design, and why."""
    unchecked: dict[str, str] = {}
    """Connections and sites that could not be checked, and why."""
    ids: int = 0
    """Ids read from EVENTS."""
    asked: int = 0
    """Ids that destinations were asked for, over all connections."""

    @property
    def passed(self) -> bool:
        """Whether everything was checked without a finding."""
        return not self.findings and not self.unchecked


class _Expected:
    """A connection's events by the present rules. `ids` must be somewhere; `may` ids can be missing. Neither may be there twice."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.may: set[str] = set()
        self.events = 0

    @property
    def all(self) -> set[str]:
        """All ids to ask for."""
        return self.ids | self.may


async def audit(broker: Broker, snapshot: ConfigSnapshot, since: float | None = None) -> Audit:
    """Checks everything.

    Args:
        since: epoch seconds; older ids are not looked at.

    Raises:
        NotConnected: the broker does not answer.
        ConfigError: the project that runs cannot be routed by this version.
    """
    sites, balances = await read_balances(broker, snapshot)
    removed = await read_all_removed(broker)
    audit_ = _Audit(broker, snapshot, changes(snapshot, await project_history(broker)))
    audit_.check_counts(sites, balances, removed)
    by_name = {each.connection: each for each in balances}
    try:
        # events of people who are forgotten are nowhere, on purpose
        for rules in compile_project(snapshot, await read_forgotten(broker)).values():
            await audit_.check_site(rules, by_name, since)
    finally:
        audit_.gate.close()
    return Audit(
        sites=sites, connections=balances, removed=removed, findings=audit_.findings, notes=audit_.notes,
        unchecked=audit_.unchecked, ids=audit_.ids, asked=audit_.asked,
    )  # fmt: skip


OF_ROUTER = (DeadReason.FRAME_UNREADABLE, DeadReason.TRACKING_PLAN)
"""Events that died of these were never forwarded, so nobody expects them."""


class _Audit:
    """An audit under way, and its findings so far."""

    def __init__(self, broker: Broker, snapshot: ConfigSnapshot, changed_at: Mapping[str, Change]) -> None:
        self._broker = broker
        self._snapshot = snapshot
        self._changed_at = changed_at
        self.gate = ThreadGate(1, "audit")
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.unchecked: dict[str, str] = {}
        self.ids = self.asked = 0

    def check_counts(self, sites: list[SiteBalance], balances: list[Balance], removed: list[RemovedBalance]) -> None:
        """Checks that all accounts balance; the counts of a site whose events wait for the router cannot yet."""
        stalled = {each.site: each.unrouted for each in sites if each.unrouted}
        for site, events in stalled.items():
            they = "it" if events == 1 else "they"
            self.unchecked[f"site {site}"] = f"{waits(events)} for the router, so {they} and the counts of now are not checked"
        steady = [each for each in balances if each.site not in stalled]
        self.findings += [Finding(name=each.connection, what=problem) for each in steady for problem in each.problems]
        self.findings += [Finding(name=gone(each), what=problem) for each in removed for problem in each.problems]
        for each in removed:
            if not each.settled and not each.problems:
                why = f"{waits(each.waiting)} until a loader takes it away" if each.waiting else UNDECIDED
                self.notes.append(f"{gone(each)}: {why}")

    async def check_site(self, rules: SiteRules, balances: Mapping[str, Balance], since: float | None) -> None:
        """Checks the ids of one site's connections."""
        state = await read_site_state(self._broker, rules.site)
        rules = _as_sent(rules, state)
        expected, read, whole = await _expect(
            broker=self._broker, rules=rules, state=state, since=since, changed_at=self._changed_at
        )
        self.ids += read
        if self.ids >= MOST_IDS:
            self.notes.append(f"site {rules.site}: only the first {MOST_IDS} ids are looked at; name a later --since")
        for name in rules.connections:
            rows = await self._rows(name, expected[name].all)
            if rows is None:
                continue
            self.asked += len(expected[name].all)
            missing, letters = set[str](), 0
            if await self._is_known(name, expected[name], state, whole=whole):
                queue = self._snapshot.queue_of(name)
                missing, letters = await _missing(
                    broker=self._broker, queue=queue, connection=name, ids=expected[name].ids, rows=rows
                )
            self._weigh_missing(name, missing, letters, balances[name], whole=whole)
            for table, found in rows.items():
                if twice := {id_ for id_, times in found.items() if times > 1}:
                    self.findings.append(_finding(name, f"twice or more in table {table}", twice))

    async def _is_known(self, name: str, wanted: _Expected, state: SiteState, *, whole: bool) -> bool:
        """Whether the present rules tell what the connection must have; else notes why only repeats are looked for."""
        account, change = state.accounts.get(name), self._changed_at.get(name)
        # the number of backfilled events that met the rules was never counted
        if account is None or (whole and change is None and not 0 <= account.forwarded - wanted.events <= account.backfilled):
            self.notes.append(f"{name}: its rules changed or it was not always there, so only repeats are looked for")
            return False
        if len(shard_names(self._snapshot.project.connections, connection_of_shard(name))) > 1 and not state.lives:
            self.notes.append(f"{name}: it and its site have shards, so only repeats are looked for")
            return False
        key = self._snapshot.project.connections[name].primary_key
        if key is not None and not set(key) & {"id", "message_id"}:
            self.notes.append(f"{name}: rows of its primary_key replace each other, so only repeats are looked for")
            return False
        if change is None and await _is_moved(self._broker, self._snapshot.queue_of(name)):
            self.notes.append(f"{name}: it was moved to another destination, so only repeats are looked for")
            return False
        if wanted.may and change is not None:
            self.notes.append(
                f"{name}: {change.what} changed in or before revision {change.revision}, so of events accepted before it,"
                " or soon after, only repeats are looked for"
            )
        return True

    def _weigh_missing(self, name: str, missing: set[str], letters: int, balance: Balance, *, whole: bool) -> None:
        """Weighs ids that are nowhere: dropped by a template or a function, dead with a letter that is gone, or lost."""
        dropped = sum(balance.dropped.get(reason, 0) for reason in LEFT_OUT)
        # the account counts all that died, also of letters that were evicted or purged; a replayed one may be in a table
        died = sum(amount for reason, amount in balance.dead.items() if reason not in OF_ROUTER)
        buried = max(0, died - letters - balance.replayed)
        if len(missing) <= dropped:
            return
        if len(missing) > dropped + buried:
            self.findings.append(_finding(name, "forwarded, and neither in the destination nor in the dead letters", missing))
            return
        gone_letters = (
            f"{counted(len(missing) - dropped, 'event')} of {counted(buried, 'dead letter')} that DEAD holds no more"
            " (evicted for want of room, purged, or too old) cannot be looked for"
        )
        if whole:  # all dead events are among the ids that were read, so one more missing id would show
            self.notes.append(f"{name}: {gone_letters}")
        else:
            self.unchecked[name] = f"{gone_letters}, and EVENTS does not tell whether they died or are lost"

    async def _rows(self, name: str, ids: set[str]) -> Mapping[str, Counter[str]] | None:
        """Returns by table how often each id is in it; None if the destination cannot be asked."""
        connection = self._snapshot.project.connections[name]
        document = self._snapshot.project.destinations[connection.destination]
        found: dict[str, Counter[str]] = {}
        try:
            async with timeout(FIND_SECONDS):
                plugin, options = registry.parse_options(connection.destination, document)
                destination = await plugin.open_destination(connection.destination, options, Environment(self.gate))
                try:
                    capabilities = plugin.CAPABILITIES
                    if not isinstance(destination, FindsIds) or not isinstance(capabilities, Capabilities):
                        self.notes.append(
                            f"{name}: the destination {connection.destination} cannot be asked for ids; its counts balance"
                        )
                        return None
                    layout = LAYOUTS[connection.layout](Rules(connection, capabilities).namer)
                    key = layout.spec("").key
                    for part in _parts(sorted(ids)):
                        for table, counts in (await destination.find_ids(name, part, key)).items():
                            found.setdefault(table, Counter()).update(counts)
                finally:
                    await destination.close()
        except (PenstockError, TimeoutError) as exc:
            why = str(exc) or type(exc).__name__
            self.unchecked[name] = f"the destination {connection.destination} does not answer: {why}"
            return None
        return found


def _as_sent(rules: SiteRules, state: SiteState) -> SiteRules:
    """Returns the rules with the splits by which shards of connections got their events."""
    known = {
        name: replace(each, spread=each.spread._replace(splits=tuple(state.lives[name].splits)))
        for name, each in rules.connections.items()
        if each.spread is not None and name in state.lives and state.lives[name].splits
    }
    return replace(rules, connections={**rules.connections, **known}) if known else rules


def _finding(name: str, what: str, ids: set[str]) -> Finding:
    return Finding(name=name, what=what, events=len(ids), ids=sorted(ids)[:SHOWN_IDS])


async def _expect(
    broker: Broker, rules: SiteRules, state: SiteState, since: float | None, changed_at: Mapping[str, Change]
) -> tuple[dict[str, _Expected], int, bool]:
    """Routes the site's frames again; returns each connection's expected ids, how many ids were read, and whether all were."""
    expected = {name: _Expected() for name in rules.connections}
    window = Window(rules.dedupe_seconds, MOST_IDS) if rules.dedupe_seconds > 0 else None
    read, accepted = 0, 0
    subject = topology.events_filter(rules.site)
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        try:
            last = (await broker.js.get_last_msg(topology.EVENTS, subject)).seq or 0
        except NotFoundError:
            return expected, 0, state.accepted == 0
    last = min(last, state.position)
    async with StreamReader(broker, topology.EVENTS, subject, start_seconds=since) as reader:
        while reader.last_seq < last and read < MOST_IDS:
            message = await reader.next(QUIET_SECONDS)
            if message is None and (since is None or reader.last_seq):  # else all frames are older
                raise NotConnected(f"the stream {topology.EVENTS} does not give all frames of the site {rules.site}")
            if message is None or message.seq > last:
                break
            try:
                arrival = Arrival(message.seq, message.at_seconds, message.payload, with_heads=True)
                read += len(arrival)
                accepted += len(arrival)
                if window is not None:
                    arrival.repeated = window.seen(arrival.ids, message.at_seconds)
                for name, connection in rules.connections.items():
                    indexes = match(connection, arrival).indexes
                    chosen = arrival.ids if indexes is None else [arrival.ids[index] for index in indexes]
                    account, mark, change = state.accounts.get(name), state.behind.get(name), changed_at.get(name)
                    mine = (account is None or message.seq > account.began) and (mark is None or message.seq < mark.seq)
                    if mine and (change is None or not change.covers(message.at_seconds)):
                        expected[name].ids.update(chosen)
                    else:
                        expected[name].may.update(chosen)
                    expected[name].events += len(chosen) if mine else 0
            except Permanent:  # the whole frame is in the dead letters
                continue
    return expected, read, since is None and accepted == state.accepted


async def _is_moved(broker: Broker, queue: str) -> bool:
    entry = await Bucket(broker, topology.STATS_BUCKET).get(ended_key(queue))
    return decode_ended(entry.value if entry else None).moved


async def _missing(
    broker: Broker, queue: str, connection: str, ids: set[str], rows: Mapping[str, Counter[str]]
) -> tuple[set[str], int]:
    """Returns the ids that are nowhere, and the number of the connection's letters in DEAD."""
    missing = set(ids)
    for found in rows.values():
        missing.difference_update(found)
    if missing:
        missing -= await _waiting(broker, topology.FUNCTIONS, topology.functions_subject(queue))
        missing -= await _waiting(broker, topology.RETRY, topology.retry_subject(FUNCTIONS_STAGE, queue))
        missing -= await _waiting(broker, topology.DELIVER, topology.deliver_subject(queue))
        missing -= await _waiting(broker, topology.RETRY, topology.retry_subject("loader", queue))
    letters = 0
    if missing:
        async for stored in find(broker, Filter(connection=connection)):
            missing.difference_update(str(stored.letters[index].message_id) for index in stored.matching)
            letters += len(stored.matching)
    return missing, letters


async def _waiting(broker: Broker, stream: str, subject: str) -> set[str]:
    """Returns the ids of frames that wait."""
    ids: set[str] = set()
    seq = 1
    while True:
        with asking(f"cannot read the stream {stream}"):
            try:
                message = await broker.js.get_msg(stream, seq, subject=subject, next=True)
            except NotFoundError:
                return ids
        with contextlib.suppress(Permanent):
            ids.update(head.message_id for head in decode_frame(message.data or b"").heads)
        seq = (message.seq or seq) + 1
        await asyncio.sleep(0)


def _parts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + FIND_IDS] for start in range(0, len(ids), FIND_IDS)]
