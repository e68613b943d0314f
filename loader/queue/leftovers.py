"""What waits for a connection that is gone: counted, logged and taken away.

A queue bears the incarnation of its connection (`shared/project/snapshot.py`), so nothing in it can reach a later connection of the
name; here it only stops taking room. It is done under the lease of the connection's name, when no loader of the former connection
can be at work any more: every event is counted once, as loaded or as dropped.
"""

from __future__ import annotations

import contextlib
import logging

import msgspec
import nats.errors
from nats.js.errors import APIError, NotFoundError

from shared.errors import NotConnected
from shared.events.headers import read_place
from shared.events.outcome import DropReason
from shared.jetstream import lease as leases
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.project.snapshot import ConfigSnapshot, replaced_revision
from shared.service import ServiceContext
from shared.tasks import timeout

LEASE_PATIENCE_SECONDS = 30.0
AGAIN_SECONDS = 60.0
"""A router that has not heard of the new project yet may send a frame more."""

_PREFIXES = ((topology.DELIVER, "deliver."), (topology.RETRY, "retry.loader."))

log = logging.getLogger(__name__)


class _Purged(msgspec.Struct):
    purged: int = 0


async def sweep_removed(context: ServiceContext, lease_seconds: float) -> None:
    """Takes away what waits for connections that are not in the project, now and after every change, for ever."""
    while True:
        snapshot = context.config.current
        with contextlib.suppress(NotConnected):
            for name in sorted({queue.partition(".")[0] for _, queue in await _leftovers(context.broker, snapshot)}):
                if name in snapshot.project.connections:  # its own loader does it, which holds the lease
                    continue
                held = leases.hold(context.broker, f"loader.{name}", context.instance, lease_seconds)
                with contextlib.suppress(TimeoutError):
                    async with timeout(LEASE_PATIENCE_SECONDS), held:
                        await sweep(context, name)
        with contextlib.suppress(TimeoutError):
            async with timeout(AGAIN_SECONDS):
                await context.config.changed(snapshot)


async def sweep(context: ServiceContext, name: str) -> None:
    """Takes away what waits for former connections of a name; the caller holds the lease of it.

    Raises:
        NotConnected: the broker does not answer.
    """
    for stream, queue in await _leftovers(context.broker, context.config.current):
        if queue.partition(".")[0] == name:
            subject = dict(_PREFIXES)[stream] + queue
            events = await _purge(context.broker, stream, subject)
            if events:
                context.telemetry.count("loader_events_dropped_total", events, connection=name, reason=DropReason.REMOVED)
                log.warning(
                    "events of a connection that was removed are dropped",
                    extra={"connection": name, "queue": queue, "stream": stream, "events": events},
                )


async def _leftovers(broker: Broker, snapshot: ConfigSnapshot) -> list[tuple[str, str]]:
    """Returns stream and name of each queue that belongs to no connection of the project, nor to one of a later project."""
    if not snapshot.revision:
        return []
    found: list[tuple[str, str]] = []
    for stream, prefix in _PREFIXES:
        try:
            info = await broker.js.stream_info(stream, subjects_filter=f"{prefix}>")
        except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
            raise NotConnected(f"cannot list the queues of {stream}: {exc or type(exc).__name__}") from exc
        for subject in info.state.subjects or {}:
            queue = subject.removeprefix(prefix)
            name, _, incarnation = queue.partition(".")
            known = name in snapshot.project.connections and snapshot.queue_of(name) == queue
            if not known and replaced_revision(incarnation) < snapshot.revision:
                found.append((stream, queue))
    return found


async def _purge(broker: Broker, stream: str, subject: str) -> int:
    """Takes all messages of a subject away; returns how many events they held."""
    events, seq = 0, 0
    try:
        while True:
            try:
                message = await broker.js.get_msg(stream, seq + 1, subject=subject, next=True)
            except NotFoundError:
                break
            seq = message.seq or seq + 1
            place = read_place(message.headers or {})
            events += place.events if place else 0
        request = msgspec.json.encode({"filter": subject, "seq": seq + 1})
        answer = await broker.nc.request(f"$JS.API.STREAM.PURGE.{stream}", request, timeout=5)
    except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
        raise NotConnected(f"cannot empty {subject}: {exc or type(exc).__name__}") from exc
    return events if msgspec.json.decode(answer.data, type=_Purged).purged else 0
