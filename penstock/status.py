"""The state of every connection, from what the broker stores and what the services count.

The broker alone tells what waits (frames, and the age of the oldest), what lies in the dead letters, and who holds a connection's
lease. With the services' `/metrics` and `/ready` come received, delivered, dropped, the last load, and why something is not well;
these numbers count from the start of the process that gives them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec
import nats.errors
from nats.js.errors import APIError, NotFoundError

from penstock.letters import Filter, find
from penstock.metrics import Scrape, total
from shared import topology
from shared.config_snapshot import current_snapshot
from shared.errors import NotConnected, Permanent
from shared.frame import decode_frame
from shared.headers import read_place
from shared.jetstream import lease
from shared.jetstream.broker import Broker
from shared.project import Connection, Project

COUNTED_DEAD_MESSAGES = 2000
"""Beyond so many messages their letters are not counted one by one; the figure is then a lower bound."""

SAMPLED_FRAMES = 20
LATE_SLACK_SECONDS = 30.0


class ConnectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One connection. None: nobody who knows it could be asked."""

    connection: str
    state: str
    """ok, idle, disabled, catching up, late, failing or unknown."""
    why: str = ""
    received: int | None = None
    delivered: int | None = None
    dropped: int | None = None
    dead: int = 0
    """Dead letters kept for this connection."""
    dead_is_lower_bound: bool = False
    waiting_frames: int = 0
    waiting_events: int | None = None
    waiting_events_is_estimate: bool = False
    oldest_waiting_seconds: float | None = None
    last_load_at: float | None = None
    """Epoch seconds."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole."""

    revision: int
    connections: list[ConnectionStatus]
    edge_accepted: int | None = None
    edge_dead: int = 0
    """Dead letters kept of events the edge refused."""
    not_answering: dict[str, str] = {}
    problems: dict[str, str] = {}
    """What services say is wrong with them, apart from connections."""

    @property
    def healthy(self) -> bool:
        """True if nothing needs a person."""
        bad = ("failing", "late", "unknown")
        return not self.not_answering and not self.problems and not any(each.state in bad for each in self.connections)


async def read_status(broker: Broker, project: Project, revision: int, scrapes: Sequence[Scrape], now: float) -> Status:
    """Reads the state of every connection.

    Args:
        scrapes: what the services said; may be empty.
        now: epoch seconds.

    Raises:
        NotConnected: the broker does not answer.
    """
    try:
        waiting = await _subjects(broker, topology.DELIVER, "deliver.>")
        dead = await _subjects(broker, topology.DEAD, "dead.>")
        snapshot = await current_snapshot(broker)
        connections = [
            await _read_connection(broker, name, snapshot.queue_of(name), connection, waiting, dead, scrapes, now)
            for name, connection in project.connections.items()
        ]
        edge_dead = 0
        for subject in dead:
            if subject.startswith("dead.ingest."):
                edge_dead += (await _count_dead(broker, subject, dead[subject]))[0]
    except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
        raise NotConnected(f"the broker does not tell its state: {exc or type(exc).__name__}") from exc
    accepted = total(scrapes, "ingest_events_accepted_total")
    return Status(
        revision=revision,
        connections=connections,
        edge_accepted=None if accepted is None else int(accepted),
        edge_dead=edge_dead,
        not_answering={scrape.url: scrape.error for scrape in scrapes if scrape.error},
        problems={
            f"{scrape.url} {part}": why
            for scrape in scrapes
            for part, why in scrape.problems.items()
            if not part.startswith("connection ")
        },
    )


async def _read_connection(
    broker: Broker,
    name: str,
    queue: str,
    connection: Connection,
    waiting: Mapping[str, int],
    dead: Mapping[str, int],
    scrapes: Sequence[Scrape],
    now: float,
) -> ConnectionStatus:
    frames = waiting.get(topology.deliver_subject(queue), 0)
    events, oldest = await look_at_queue(broker, topology.DELIVER, topology.deliver_subject(queue), frames)
    letters, lower_bound = 0, False
    for stage in ("router", "loader"):
        subject = topology.dead_subject(stage, name)
        count, cut = await _count_dead(broker, subject, dead.get(subject, 0))
        letters, lower_bound = letters + count, lower_bound or cut
    forwarded = _whole(total(scrapes, "router_events_forwarded_total", connection=name))
    routed_out = _whole(total(scrapes, "router_events_dropped_total", connection=name))
    loaded_out = _whole(total(scrapes, "loader_events_dropped_total", connection=name))
    delivered = _whole(total(scrapes, "loader_events_total", connection=name))
    known = any(not scrape.error for scrape in scrapes)
    age = None if oldest is None else max(0.0, now - oldest)
    state, why = await _judge(broker, name, connection, frames, age, scrapes)
    return ConnectionStatus(
        connection=name,
        state="idle" if state == "ok" and not frames and not delivered else state,
        why=why,
        received=(forwarded or 0) + (routed_out or 0) if known else None,
        delivered=delivered or 0 if known else None,
        dropped=(routed_out or 0) + (loaded_out or 0) if known else None,
        dead=letters,
        dead_is_lower_bound=lower_bound,
        waiting_frames=frames,
        waiting_events=events,
        waiting_events_is_estimate=frames > SAMPLED_FRAMES,
        oldest_waiting_seconds=age,
        last_load_at=total(scrapes, "loader_last_load_seconds", connection=name),
    )


async def _judge(
    broker: Broker, name: str, connection: Connection, frames: int, age: float | None, scrapes: Sequence[Scrape]
) -> tuple[str, str]:
    """Returns the state and why."""
    if not connection.enabled:
        return "disabled", "enabled: false in the project"
    problems = [scrape.problems[f"connection {name}"] for scrape in scrapes if f"connection {name}" in scrape.problems]
    if problems:
        return "failing", problems[0]
    if await lease.holder(broker, f"loader.{name}") is None:
        return "unknown", "no loader works on it; is the service up?"
    if total(scrapes, "router_connection_stopped", connection=name):
        return "catching up", "its queue was full; the router reads again from EVENTS"
    period = float(connection.batch.period) if connection.mode == "batch" else 0.0
    if frames and age is not None and age > 2 * period + LATE_SLACK_SECONDS:
        return "late", f"the oldest event waits for {age:.0f} s"
    return "ok", ""


async def look_at_queue(broker: Broker, stream: str, subject: str, frames: int) -> tuple[int | None, float | None]:
    """Returns how many events wait in a queue (estimated from the first of its `frames`) and when the oldest was accepted."""
    if not frames:
        return 0, None
    seq, seen, events = 1, 0, 0
    oldest: float | None = None
    while seen < min(frames, SAMPLED_FRAMES):
        try:
            message = await broker.js.get_msg(stream, seq, subject=subject, direct=stream == topology.DELIVER, next=True)
        except NotFoundError:  # delivered meanwhile
            break
        place = read_place(message.headers or {})
        events += place.events if place else 0
        if oldest is None:
            with contextlib.suppress(Permanent):
                oldest = min(request.received_at for request in decode_frame(message.data or b"").requests) / 1e6
        seen += 1
        seq = (message.seq or seq) + 1
    if not seen:
        return 0, None
    return round(events * frames / seen) if frames > SAMPLED_FRAMES else events, oldest


async def _count_dead(broker: Broker, subject: str, messages: int) -> tuple[int, bool]:
    if messages == 0:
        return 0, False
    if messages > COUNTED_DEAD_MESSAGES:
        return messages, True
    _, stage, name = subject.split(".", 2)
    wanted = Filter(stage=stage, site=name) if stage == "ingest" else Filter(stage=stage, connection=name)
    return sum([len(stored.matching) async for stored in find(broker, wanted)]), False


async def _subjects(broker: Broker, stream: str, pattern: str) -> dict[str, int]:
    info = await broker.js.stream_info(stream, subjects_filter=pattern)
    return dict(info.state.subjects or {})


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
