"""Replay: frames of EVENTS again into the queues of connections, by time or by sequence.

A replay reads a range of one site's frames and applies the present rules of each connection. It has its own lane, so the loader
takes its frames for new ones and loads their rows again. In tables that merge on the message id these replace the existing rows.
Ids that repeat within the replay are sent once; it neither asks nor changes the live router's window. Live frames keep flowing
beside it, and it waits while a queue is full.

It reads frames that EVENTS no longer has from the archive. It does not order its frames among the live ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from nats.js.errors import NotFoundError

from router.archive.older import FAR, LongReader, Older
from router.archive.past import PastReader
from router.forwarding.send import FAULT_SECONDS, FULL_SECONDS, QueueWriter
from router.replay.range import Bound, note_range, range_of
from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules, compile_project
from router.rules.match import match
from router.rules.where import compile_where
from router.window.dedupe import Window
from shared.backoff import Backoff
from shared.errors import ConfigError, Permanent, Problem, QueueFull, Transient
from shared.events.headers import Place, replay_lane, trace_of
from shared.events.outcome import DropReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.hold_back import hold_back
from shared.jetstream.kv import Bucket
from shared.jetstream.reader import Message
from shared.project.shards import shard_names
from shared.project.snapshot import ConfigSnapshot
from shared.tasks import task_group

WHOLE_REPLAY_SECONDS = 10 * 365 * 86_400.0
"""A window that outlasts any range; the stream's times move it as they do the live one's."""
MAX_IDS = 64_000_000
"""Beyond this the oldest ids are forgotten, and the report says so."""
QUIET_SECONDS = 2.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Sent:
    """The fate of the events for one connection."""

    frames: int = 0
    events: int = 0
    dropped: dict[DropReason, int] = field(default_factory=dict)


@dataclass(slots=True)
class ReplayReport:
    """The result or the progress of a replay. `first_seq` and `last_seq` are of the frames it read, 0 if none."""

    replay: str
    dry_run: bool
    frames: int = 0
    events: int = 0
    unreadable: int = 0
    first_seq: int = 0
    last_seq: int = 0
    left: int = 0
    """The site's frames that are still ahead, also beyond the end of the range."""
    window_shortened: bool = False
    connections: dict[str, Sent] = field(default_factory=dict)


async def replay(
    broker: Broker,
    config: ConfigSnapshot,
    site: str,
    start: Bound = None,
    end: Bound = None,
    *,
    replay_id: str,
    connection: str | None = None,
    where: object = None,
    dry_run: bool = False,
    send_from: int = 0,
    older: Older | None = None,
    stream: str | None = None,
    max_ids: int = MAX_IDS,
    progress: Callable[[ReplayReport], None] = lambda _: None,
) -> ReplayReport:
    """Sends a range of a site's frames again, in order; returns when every one is in every queue.

    It never reads frames that come while it runs, even if `end` lies in the future.

    Args:
        start: time of acceptance or sequence of the first frame; None: the oldest kept.
        end: of the last frame, included; None: the newest.
        replay_id: names the lane, and stands for one range. The same replay under the same id, begun again after a failure, repeats
            nothing, and leaves out frames that came after it began first.
        connection: only this one; None: all enabled ones of the site.
        where: further conditions beside those of the connections.
        dry_run: read and count, send nothing.
        send_from: the first sequence that is sent; earlier frames only tell which ids repeat.
        older: reads frames that EVENTS has no longer; None: they are left out.
        stream: an EVENTS stream that is gone; its frames come from the archive, and sequences of the range are its own.
        max_ids: how many ids are remembered to find repeats.
        progress: called after every frame with the report so far.

    Raises:
        ConfigError: no such site or connection, or wrong conditions; says which there are. Or the id stands for another range.
        NotConnected, Transient, QueueFull: the broker did not answer at the start. Later it waits as long as it takes.
    """
    rules = _rules(config, site, connection, where)
    report = ReplayReport(replay_id, dry_run, connections={each.name: Sent() for each in rules})
    last, last_at = await _newest(broker, site, older, stream)
    if not last or _begins_after(start, last, last_at):
        return report
    if not dry_run:
        asked = range_of(site=site, start=start, end=end, connection=connection, where=where, last=last, stream=stream)
        last = (await note_range(Bucket(broker, topology.STATE_BUCKET), replay_id, asked)).last
    sender = QueueWriter(broker, site, replay_lane(replay_id), replay_lane(replay_id))
    window = Window(WHOLE_REPLAY_SECONDS, max_ids)
    with_heads = any(each.needs_heads for each in rules)
    reader = _open(broker=broker, site=site, start=start, older=older, stream=stream)
    async with _hold(broker, reader, start, stream), reader:
        while reader.last_seq < last:
            message = await reader.next(QUIET_SECONDS)
            if message is None:
                # frames ahead may have expired meanwhile
                if stream is not None or (await _newest(broker, site))[0] <= reader.last_seq:
                    break
                continue
            if message.seq > last or _is_after(message, end):
                break
            if older is not None and connection is not None:
                await older.wishes.may_go_on(connection)
                if older.wishes.cancels(connection):
                    break
            arrival = _arrive(message, window, report, with_heads=with_heads)
            if arrival is not None and message.seq >= send_from:
                # connections go side by side: a full queue holds up the replay, but not the other connections' current frame
                async with task_group() as group:
                    for each in rules:
                        group.create_task(_forward(sender, each, arrival, report, dry_run=dry_run))
            report.window_shortened = window.shortened > 0
            progress(report)
    return report


def _rules(config: ConfigSnapshot, site: str, connection: str | None, where: object) -> list[ConnectionRules]:
    rules = compile_project(config).get(site)
    if rules is None:
        known = ", ".join(sorted(config.project.sites)) or "none"
        raise ConfigError([Problem("site", f"no site is named {site!r}; known: {known}")])
    if connection is not None and connection not in rules.connections:
        known = ", ".join(sorted(rules.connections)) or "none"
        raise ConfigError([Problem("connection", f"site {site!r} has no enabled connection {connection!r}; known: {known}")])
    compile_where(where, "where")
    names = rules.connections if connection is None else shard_names(rules.connections, connection)
    chosen = [rules.connections[name] for name in names]
    if where is None:
        return chosen
    return [
        replace(
            each,
            predicate=compile_where(_both(config.project.connections[each.name].where, where), "where"),
            known={},
        )
        for each in chosen
    ]


def _both(own: object, further: object) -> list[object]:
    parts = [*(own if isinstance(own, list) else [own]), *(further if isinstance(further, list) else [further])]
    return [part for part in parts if part is not None]


def _open(*, broker: Broker, site: str, start: Bound, older: Older | None, stream: str | None) -> LongReader | PastReader:
    start_seconds = start.timestamp() if isinstance(start, datetime) else None
    start_seq = max(1, start) if isinstance(start, int) else None
    if stream is None:
        return LongReader(broker, site, older, start_seq=start_seq, start_seconds=start_seconds)
    assert older is not None  # noqa: S101  # only the archive has it
    return PastReader(older, site, stream, start_seq=start_seq, start_seconds=start_seconds)


def _hold(
    broker: Broker, reader: LongReader | PastReader, start: Bound, stream: str | None
) -> contextlib.AbstractAsyncContextManager[object]:
    """Keeps the frames of the range in EVENTS; those of a stream that is gone are not there."""
    if stream is not None:
        return contextlib.nullcontext()
    begins = start if isinstance(start, int) else 1
    return hold_back(broker, lambda: (reader.last_seq + 1) if reader.last_seq else begins)


async def _newest(broker: Broker, site: str, older: Older | None = None, stream: str | None = None) -> tuple[int, datetime]:
    """Returns sequence and time of the newest frame of the site; 0 if neither EVENTS nor the archive keeps one."""
    if stream is not None:
        return await older.last(broker, site, stream) if older is not None else (0, _EPOCH)
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        try:
            message = await broker.js.get_last_msg(topology.EVENTS, topology.events_filter(site))
            return message.seq or 0, message.time or _EPOCH
        except NotFoundError:
            pass
    return await older.last(broker, site) if older is not None else (0, _EPOCH)


def _begins_after(start: Bound, last: int, last_at: datetime) -> bool:
    return last_at < start if isinstance(start, datetime) else start is not None and last < start


def _is_after(message: Message, end: Bound) -> bool:
    if isinstance(end, datetime):
        return message.at_seconds > end.timestamp()
    return end is not None and message.seq > end


def _arrive(message: Message, window: Window, report: ReplayReport, *, with_heads: bool) -> Arrival | None:
    report.frames += 1
    report.first_seq = report.first_seq or message.seq
    report.last_seq = message.seq
    report.left = message.waiting if message.waiting < FAR else report.frames
    try:
        arrival = Arrival(message.seq, message.at_seconds, message.payload, with_heads=with_heads)
    except Permanent as exc:
        # it has been in the dead letters since it was first routed
        log.warning("frame cannot be replayed", extra={"seq": message.seq, "error": str(exc)})
        report.unreadable += 1
        return None
    report.events += len(arrival)
    arrival.trace = trace_of(message.headers)
    arrival.repeated = window.seen(arrival.ids, message.at_seconds)
    return arrival


async def _forward(sender: QueueWriter, rules: ConnectionRules, arrival: Arrival, report: ReplayReport, *, dry_run: bool) -> None:
    sent = report.connections[rules.name]
    try:
        matched = match(rules, arrival)
        payload = None if matched.indexes == [] or not len(arrival) else arrival.payload_of(matched.indexes)
    except Permanent as exc:
        log.warning("frame cannot be replayed", extra={"seq": arrival.seq, "error": str(exc)})
        report.unreadable += 1
        return
    drops: Mapping[DropReason, int] = matched.drops
    for reason, amount in drops.items():
        sent.dropped[reason] = sent.dropped.get(reason, 0) + amount
    if matched.dead:  # their letters were made when they were first routed
        sent.dropped[DropReason.TRACKING_PLAN] = sent.dropped.get(DropReason.TRACKING_PLAN, 0) + len(matched.dead)
    if payload is None:
        return
    events = len(arrival) if matched.indexes is None else len(matched.indexes)
    if not dry_run:
        place = Place(sender.lane, arrival.seq, events, sent.events + events)
        await _send(sender=sender, rules=rules, place=place, payload=payload, trace=arrival.trace)
    sent.frames += 1
    sent.events += events


async def _send(*, sender: QueueWriter, rules: ConnectionRules, place: Place, payload: bytes, trace: Mapping[str, str]) -> None:
    full, fault = Backoff(*FULL_SECONDS), Backoff(*FAULT_SECONDS)
    while True:
        try:
            return await sender.try_send(
                queue=rules.queue,
                revision=rules.revision,
                place=place,
                payload=payload,
                trace=trace,
                through_functions=rules.through_functions,
            )
        except QueueFull:
            await asyncio.sleep(full.next())
        except Transient as exc:
            log.warning("frame cannot be queued yet", extra={"connection": rules.name, "seq": place.seq, "error": str(exc)})
            await asyncio.sleep(fault.next())
