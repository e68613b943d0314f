"""Whether JetStream answers at the node of a cluster to which a client is connected.

A node that the network has cut off from the others keeps its clients and answers their pings, but no stream has a leader there. So
the question is for a stream: its leader answers it, and says how long ago it heard from the others that have a copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from shared.errors import UNREADABLE
from shared.tasks import timeout

ASK_SECONDS = 2.0
SILENT_NANOSECONDS = 5_000_000_000
"""A leader hears from every copy once a second. One that hears from too few steps down, but after ten seconds only."""


class _Copy(msgspec.Struct, frozen=True):
    offline: bool = False
    active: int = 0


class _Group(msgspec.Struct, frozen=True):
    leader: str = ""
    replicas: list[_Copy] = []


class _Failure(msgspec.Struct, frozen=True):
    code: int = 0


class _Answer(msgspec.Struct, frozen=True):
    cluster: _Group | None = None
    error: _Failure | None = None


_decode = msgspec.json.Decoder(_Answer).decode


async def answers(nc: Client, streams: Iterable[str], seconds: float = ASK_SECONDS) -> bool:
    """Returns whether the leader of each stream answers in time and hears from most of its copies.

    That a stream does not exist is an answer too.
    """
    return all(await asyncio.gather(*(_answers(nc, stream, seconds) for stream in streams)))


async def _answers(nc: Client, stream: str, seconds: float) -> bool:
    try:
        async with timeout(seconds):  # the client waits longer where its buffer is full
            told = _decode((await nc.request(f"$JS.API.STREAM.INFO.{stream}", timeout=seconds)).data)
    except (NatsError, OSError, TimeoutError, *UNREADABLE):
        return False
    if told.error is not None:
        return told.error.code < 500  # 503: no leader here
    if told.cluster is None:
        return True
    heard = [not copy.offline and copy.active < SILENT_NANOSECONDS for copy in told.cluster.replicas]
    return 2 * (1 + sum(heard)) > 1 + len(heard)
