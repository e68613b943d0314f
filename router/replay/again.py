"""Sends a part of a replay again, or of an EVENTS stream that is gone, for a loader whose destination went back (`shared/streams/rewind.py`).

It is a new replay of the same range that sends only missing frames. It has its own lane and id. So if it begins again after a
failure it repeats nothing, and frames of the first replay in the queue do not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from router.archive.older import Older
from router.archive.past import past_streams
from router.forwarding.shard import ShardView
from router.replay.range import bound_of, noted_range
from router.replay.run import replay
from shared.errors import PenstockError
from shared.events.headers import id_of_replay, stream_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.snapshot import ConfigSnapshot, current_snapshot
from shared.streams.rewind import PATTERN, Again, Rewinds, connection_of, decode_resent, decode_rewinds, resent_key
from shared.tasks import timeout, together

AGAIN_SECONDS = 2.0
FOREVER_SECONDS = 3600.0
KEPT = 128

log = logging.getLogger(__name__)


async def send_replays_again(broker: Broker, site: str, older: Older | None = None, view: ShardView | None = None) -> None:
    """Answers the requests of the loaders of a site's connections, for ever; for the router that holds the site.

    Args:
        view: of the shard of this router; one shard of a site does it.
    """
    bucket, asked, changed = Bucket(broker, topology.STATE_BUCKET), dict[str, Rewinds](), asyncio.Event()

    async def follow() -> None:
        async for entry in bucket.watch(PATTERN):
            asked[connection_of(entry.key)] = decode_rewinds(entry.value)
            changed.set()

    async def work() -> None:
        while True:
            changed.clear()
            left = view is not None and not view.leads
            for name, rewinds in [] if left else list(asked.items()):
                for replay_id, again in rewinds.replays.items():
                    left |= not again.done and not await _send(
                        broker=broker,
                        bucket=bucket,
                        site=site,
                        name=name,
                        queue=rewinds.queue,
                        replay_id=replay_id,
                        again=again,
                        older=older,
                    )
            with contextlib.suppress(TimeoutError):
                async with timeout(AGAIN_SECONDS if left else FOREVER_SECONDS):
                    await changed.wait()

    await together(follow(), work())


async def _send(
    *, broker: Broker, bucket: Bucket, site: str, name: str, queue: str, replay_id: str, again: Again, older: Older | None
) -> bool:
    """Sends one part; False: it failed, try again."""
    try:
        config = await current_snapshot(broker)
        connection = config.project.connections.get(name)
        if connection is None or connection.site != site or config.queue_of(name) != queue:
            return True  # another router does it, or none
        stored = await bucket.get(resent_key(name))
        resent = decode_resent(stored.value if stored else None)
        if replay_id in resent:
            return True
        whole = await _send_range(
            broker=broker, config=config, site=site, name=name, replay_id=replay_id, again=again, older=older
        )
        kept = dict(list(resent.items())[-KEPT:])
        value = msgspec.json.encode({**kept, replay_id: whole})
        await bucket.put(resent_key(name), value, revision=stored.revision if stored else 0)
    except PenstockError as exc:
        log.warning("a part of a replay cannot be sent again yet", extra={"connection": name, "error": str(exc)})
        return False
    return True


async def _send_range(
    *, broker: Broker, config: ConfigSnapshot, site: str, name: str, replay_id: str, again: Again, older: Older | None
) -> bool:
    """Sends the frames; returns whether that was all of them.

    Raises:
        ConfigError, NotConnected, Transient, QueueFull
    """
    log.warning("missing frames are sent again", extra={"connection": name, "first": again.first, "last": again.last})
    stream = stream_of(again.lane)
    if stream is not None:
        found = (
            [past for past in await past_streams(broker, site, older) if past.stream == stream[0]] if older is not None else []
        )
        if found:
            await replay(
                broker=broker, config=config, site=site, start=again.first, end=again.last,
                replay_id=replay_id, connection=name, older=older, stream=stream[0],
            )  # fmt: skip
        return bool(found) and found[0].first <= again.first and found[0].last >= again.last
    noted = await noted_range(Bucket(broker, topology.STATE_BUCKET), id_of_replay(again.lane) or "")
    if noted is not None:
        where = None if noted.where is None else msgspec.json.decode(noted.where)
        await replay(
            broker=broker, config=config, site=site, start=bound_of(noted.start), end=again.last,
            replay_id=replay_id, connection=name, where=where, send_from=again.first, older=older, stream=noted.stream,
        )  # fmt: skip
    return noted is not None
