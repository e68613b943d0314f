"""Takes away what waits for syncs that were removed: frames, and the notes of how far they were.

Nothing is lost by it: the rows are still at their source, and a sync that is added again under the name reads them from the beginning.
The lease of the sync's name is held, so no loader is at work on it. The project is read after the queues, so a sync whose frames were
there before is in it if it was ever added.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

from loader.queue.epochs import forget_offset
from loader.syncs.definition import LEASES
from shared.errors import ConfigError, Transient
from shared.jetstream import lease as leases
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.project.snapshot import current_snapshot
from shared.service import ServiceContext
from shared.syncs.naming import known_as
from shared.syncs.progress import key_of
from shared.tasks import timeout

AGAIN_SECONDS = 60.0
SOON_SECONDS = 5.0
LEASE_PATIENCE_SECONDS = 30.0

_QUEUES = topology.deliver_subject(topology.sync_queue(""))

log = logging.getLogger(__name__)


async def sweep_removed(context: ServiceContext, lease_seconds: float) -> None:
    """Takes away what waits for removed syncs, now and after every change of the project, for ever."""
    while True:
        snapshot, again = context.config.current, AGAIN_SECONDS
        try:
            if snapshot.revision:
                await sweep(context, lease_seconds)
        except (Transient, ConfigError) as exc:
            log.warning("what waits for syncs that were removed is not taken away yet", extra={"error": str(exc)})
            again = SOON_SECONDS
        with contextlib.suppress(TimeoutError):
            async with timeout(again):
                await context.config.changed(snapshot)


async def sweep(context: ServiceContext, lease_seconds: float) -> None:
    """Takes away what waits for removed syncs.

    Raises:
        ConfigError: a later version wrote the project.
        NotConnected, Transient: not all is taken away.
    """
    broker = context.broker
    last = await _last(broker)
    queues = await _queues(broker)
    notes = {key.removeprefix(key_of("")) for key in await Bucket(broker, topology.STATE_BUCKET).keys(key_of(""))}
    project = (await current_snapshot(broker)).project
    for name in sorted((queues.keys() | notes) - project.syncs.keys()):
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with timeout(LEASE_PATIENCE_SECONDS):
                    held = leases.hold(broker, f"{LEASES}.{name}", context.instance, lease_seconds)
                    await stack.enter_async_context(held)
            except TimeoutError:  # its last loader is still at work
                continue
            await _remove(context, name, queues.get(name, 0), last)


async def _remove(context: ServiceContext, name: str, frames: int, last: int) -> None:
    """Removes the frames of a sync up to a sequence, then its notes: a note tells which of the frames are loaded."""
    broker, bucket = context.broker, Bucket(context.broker, topology.STATE_BUCKET)
    if frames:
        context.telemetry.count("loader_sync_frames_left_out_total", frames, sync=name, reason="removed")
        log.warning("frames of a sync that was removed are dropped", extra={"sync": name, "frames": frames})
        subject = _QUEUES + name
        with asking(f"cannot empty {subject}"):
            await broker.js.purge_stream(topology.DELIVER, subject=subject, seq=last + 1)
    entry = await bucket.get(key_of(name))
    if entry is not None:
        await bucket.remove(entry.revision)
    await forget_offset(broker, known_as(name))


async def _last(broker: Broker) -> int:
    with asking(f"cannot look at {topology.DELIVER}"):
        return int((await broker.js.stream_info(topology.DELIVER)).state.last_seq)


async def _queues(broker: Broker) -> Mapping[str, int]:
    """Returns how many frames wait, by sync."""
    with asking(f"cannot list the queues of {topology.DELIVER}"):
        info = await broker.js.stream_info(topology.DELIVER, subjects_filter=f"{_QUEUES}>")
    return {subject.removeprefix(_QUEUES): count for subject, count in (info.state.subjects or {}).items()}
