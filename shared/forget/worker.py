"""Takes up requests to forget: one replica of a service at a time, under a lease. One request works at a time, and others wait for destinations.

If the replica dies, another one goes on with what the receipt says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from shared.errors import UNREADABLE, PenstockError, Transient
from shared.forget.person import hide
from shared.forget.requests import REQUESTS, PartReceipt, Request, end_part, erase_if_done, read_part, write_part
from shared.jetstream import lease as leases
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.tasks import first_of, task_group

AGAIN_SECONDS = 2.0

Save = Callable[[], Awaitable[None]]
Work = Callable[[Request, PartReceipt, Save, Lease], Awaitable[bool]]
"""Does a part of a request, or goes on with it, and saves the receipt before each removal and after it; returns whether it is done."""

log = logging.getLogger(__name__)


async def take_up(broker: Broker, instance: str, *, part: str, lease_seconds: float, work: Work) -> None:
    """Works on requests for as long as the service runs; `instance` names this process."""
    while True:
        async with leases.hold(broker, f"forget.{part}", instance, lease_seconds) as lease:
            try:
                async with task_group() as group:
                    watching = group.create_task(_watch(broker=broker, part=part, work=work, lease=lease, group=group))
                    await lease.lost.wait()
                    watching.cancel()
                    raise _LostError
            except BaseExceptionGroup as failures:
                if not isinstance(first_of(failures), _LostError):
                    raise first_of(failures) from failures


class _LostError(Exception):
    """The lease is lost: all tasks end."""


async def _watch(*, broker: Broker, part: str, work: Work, lease: Lease, group: asyncio.TaskGroup) -> None:
    async def in_turn(request: Request, receipt: PartReceipt, save: Save, lease: Lease) -> bool:
        async with turn:
            return await work(request, receipt, save, lease)

    running: set[str] = set()
    turn = asyncio.Lock()
    async for entry in Bucket(broker, topology.FORGOTTEN_BUCKET).watch(f"{REQUESTS}>"):
        if entry.value is None:
            continue
        try:
            request = msgspec.json.decode(entry.value, type=Request)
        except UNREADABLE:
            log.error("a request to forget cannot be read, a later version may have made it", extra={"request": entry.key})
            continue
        if part in request.parts and request.id not in running:
            running.add(request.id)
            group.create_task(
                _run(broker=broker, part=part, work=in_turn, lease=lease, request=request), name=f"forget-{request.id}"
            )


async def _run(*, broker: Broker, part: str, work: Work, lease: Lease, request: Request) -> None:
    while True:
        try:
            receipt = await read_part(broker, request.id, part) or PartReceipt(began_at=time.time())
            if receipt.state != "done":
                await _work(broker=broker, part=part, work=work, lease=lease, request=request, receipt=receipt)
            if receipt.state == "done" and await erase_if_done(broker, request):
                return
        except Exception as exc:  # noqa: BLE001  # see below
            # an error may repeat what was asked; the receipt and the log hold no id, so none has its traceback. A defect in one request
            # ends no service, which would end again at each start
            told = hide(str(exc) if isinstance(exc, PenstockError) else f"{type(exc).__name__}: {exc}", request.names)
            level = logging.WARNING if isinstance(exc, Transient) else logging.ERROR
            log.log(level, "forgetting goes on later", extra={"request": request.id, "error": told})
            with contextlib.suppress(Transient, *UNREADABLE):
                receipt = await read_part(broker, request.id, part) or PartReceipt(began_at=time.time())
                receipt.trouble = told
                await write_part(broker, request.id, part, receipt)
        await asyncio.sleep(AGAIN_SECONDS)


async def _work(*, broker: Broker, part: str, work: Work, lease: Lease, request: Request, receipt: PartReceipt) -> None:
    last: list[bytes] = []

    async def save() -> None:
        for place in receipt.places.values():
            place.note = hide(place.note, request.names)
        value = msgspec.json.encode(receipt)
        if last != [value]:
            await write_part(broker, request.id, part, receipt)
            last[:] = [value]

    if await work(request, receipt, save, lease):
        await save()
        await end_part(broker, request, part, receipt)
        log.info("forgotten", extra={"request": request.id, "part": part})
        return
    receipt.state, receipt.trouble = "waiting", ""
    await save()
