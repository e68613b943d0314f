"""What every process says of its health, in the broker: one value of the bucket `leases` for each process, which vanishes soon after the process.

A process writes its report of `/ready`, and how full its disks are, when the report changes, and again before the value would vanish. So a reader in the cluster knows
the problems of all processes and needs no address of any. The broker's own absence is in no report.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time

import msgspec

from shared.errors import UNREADABLE, PenstockError
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.streams.disks import Disk, DiskWatch
from shared.tasks import timeout
from shared.telemetry.health import Health, Report

PREFIX = "health."
SHARDS = "shards"
CONNECTION_SHARDS = "shards of connections"
KNOWS = (SHARDS, CONNECTION_SHARDS)
TTL_SECONDS = 45.0
AGAIN_SECONDS = 15.0
LOOK_SECONDS = 1.0
"""How often a process compares its report with the one it wrote."""
MOST_PARTS = 200
MOST_CHARACTERS = 600
"""Of one text; a report stays far below the largest message."""

log = logging.getLogger(__name__)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one process. `at`: epoch seconds of writing; `disks`: the disks that it writes to, by mount point; `knows`: what its
    release knows that an earlier one does not, of what would do harm if only some processes did it."""

    service: str
    instance: str
    at: float
    report: Report
    host: str = ""
    disks: dict[str, Disk] = {}
    knows: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Told).decode


def key_of(instance: str) -> str:
    """Returns the key of a process; host names may hold dots, which keys would read as more tokens."""
    return PREFIX + re.sub(r"[^A-Za-z0-9_-]", "_", instance)


async def keep_report(broker: Broker, health: Health, service: str, instance: str) -> None:
    """Writes the report of a process for ever; takes it back when it is cancelled."""
    bucket, key, written, due = Bucket(broker, topology.LEASE_BUCKET), key_of(instance), None, 0.0
    watch, host = DiskWatch(), socket.gethostname()
    loop = asyncio.get_running_loop()
    try:
        while True:
            await broker.connected.wait()
            report = _cut(health.report())
            if report != written or loop.time() >= due:
                disks = await watch.look(health.folders)
                told = Told(
                    service=service, instance=instance, at=time.time(), report=report, host=host, disks=disks, knows=KNOWS
                )
                try:
                    await bucket.put(key, _encode(told), ttl_seconds=TTL_SECONDS)
                    written, due = report, loop.time() + AGAIN_SECONDS
                except PenstockError as exc:  # the part `broker` says so
                    log.debug("a report cannot be written", extra={"error": str(exc)})
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        if written is not None and broker.nc.is_connected:
            ended = Told(service=service, instance=instance, at=0.0, report=Report(True))
            with contextlib.suppress(TimeoutError, PenstockError):
                async with timeout(1):
                    await bucket.put(key, _encode(ended), ttl_seconds=1)


async def read_reports(broker: Broker, now: float) -> list[Told]:
    """Returns the reports of all processes that live.

    Args:
        now: epoch seconds.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: list[Told] = []
    for entry in await Bucket(broker, topology.LEASE_BUCKET).entries(PREFIX):
        with contextlib.suppress(*UNREADABLE):  # of another version
            told = _decode(entry.value or b"")
            if now - told.at < 2 * TTL_SECONDS:  # a broker that was killed may forget to expire a value
                found.append(told)
    return found


def _cut(report: Report) -> Report:
    problems, warnings = (
        {part: why[:MOST_CHARACTERS] for part, why in list(parts.items())[:MOST_PARTS]}
        for parts in (report.problems, report.warnings)
    )
    return Report(report.ready, problems, warnings)
