"""The loader's part of a request: tables, objects, dead letters, lines of functions. It waits for queues.

    dead letters, lines ─▶ destinations ─▶ wait until no frame with the person is in a queue ─▶ both again

A load that was under way as the id came onto the list may commit rows behind the first pass. Its frames are in the queue until it has
committed them, so behind the wait all rows are there, and the second pass removes the rest.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from loader.contract.forgets import ForgetsPeople, ForgetsPeopleInObjects
from loader.delivery.destinations import Destinations
from loader.forgetting.elsewhere import BY_HAND, by_hand
from loader.forgetting.objects import ObjectsOfPerson
from loader.forgetting.streams import Queued, find_letters, find_lines
from shared.errors import PenstockError
from shared.forget.person import Person, hide
from shared.forget.requests import LOADER, PartReceipt, Place, Request
from shared.forget.worker import Save, take_up
from shared.jetstream import topology
from shared.jetstream.lease import Lease
from shared.service import ServiceContext

DISABLED = "the connection is disabled; the loader leaves the events out when it is enabled again"
QUEUED = "the loader leaves the events out when it loads these frames"
SYNCS = "rows of syncs stay: delete the person where the connector reads, and run a full sync; or delete the rows by hand"
LEFT = "it left the project before this was done; delete there by hand, or add it again and ask again"
QUEUE_LEFT = "the connection left the project, and its waiting events were dropped"
_LATER = "not done yet: "
_STREAMS = ""
_QUEUE = "queue of "


async def keep_forgetting(context: ServiceContext, destinations: Destinations, lease_seconds: float) -> None:
    """Works on requests to forget for as long as the service runs."""
    passes: dict[str, _Work] = {}

    async def work(request: Request, receipt: PartReceipt, save: Save, lease: Lease) -> bool:
        if request.id not in passes:
            passes[request.id] = _Work(context, destinations, request, lease.epoch)
        done = await passes[request.id].run(receipt, save)
        if done:
            del passes[request.id]
        return done

    await take_up(context.broker, context.instance, part=LOADER, lease_seconds=lease_seconds, work=work)


class _Work:
    """One request, as this process goes on with it. After a crash its successor begins at the first pass again, which is harmless."""

    def __init__(self, context: ServiceContext, destinations: Destinations, request: Request, epoch: int) -> None:
        self._context = context
        self._broker = context.broker
        self._destinations = destinations
        self._request = request
        self._epoch = epoch
        self._person = Person(request.names)
        self._queued = Queued(context.broker, self._person)
        self._receipt = PartReceipt()
        self._save: Save
        self._passes: dict[str, set[str]] = {"first": set(), "last": set()}
        """By pass: the destinations that it is through with, and streams."""
        self._objects: dict[str, ObjectsOfPerson] = {}
        """By destination with files."""

    async def run(self, receipt: PartReceipt, save: Save) -> bool:
        """Goes on with it; returns whether it is done: no queue holds events of the person, and no destination was away.

        Raises:
            NotConnected, Transient, QueueFull: call it again.
        """
        self._receipt, self._save = receipt, save
        first = await self._pass("first")
        if self._request.verify:
            await self._queues()
            return first
        if await self._queues():
            return False
        return await self._pass("last")

    async def _pass(self, name: str) -> bool:
        """Goes through all places that it has not been through; returns whether it has been through all."""
        through, project, whole = self._passes[name], self._context.config.current.project, True
        if _STREAMS not in through:
            await self._streams()
            through.add(_STREAMS)
        for destination, document in project.destinations.items():
            if destination not in through:
                if await self._destination(destination, document, last=name == "last"):
                    through.add(destination)
                else:
                    whole = False
        self._note_left(project.destinations)
        for sync in project.syncs:
            where = f"sync {sync}"
            self._receipt.places[where] = Place(where=where, covered=False, note=SYNCS)
        await self._save()
        return whole

    def _note_left(self, destinations: Container[str]) -> None:
        """Says of destinations that left the project meanwhile that nothing more is done there."""
        for place in self._receipt.places.values():
            kind, _, rest = place.where.partition(" ")
            gone = kind == "destination" and rest.partition(",")[0] not in destinations
            if gone and (place.left or place.note.startswith(_LATER)):
                place.covered, place.note = False, LEFT

    async def _destination(self, name: str, document: Mapping[str, Any], *, last: bool) -> bool:
        where = f"destination {name}"
        if (elsewhere := by_hand(document.get("type"))) is not None:
            self._receipt.places[where] = Place(where=where, covered=False, note=elsewhere)
            return True
        try:
            async with self._destinations.use(name, document) as destination:
                if isinstance(destination, ForgetsPeopleInObjects):
                    self._receipt.places.pop(where, None)
                    await self._files(where, destination, last=last)
                    return True
                if not isinstance(destination, ForgetsPeople):
                    self._receipt.places[where] = Place(where=where, covered=False, note=BY_HAND)
                    return True
                found = await self._rows(where, destination, delete=False)
                self._receipt.places.pop(where, None)
                await self._save()
                if not self._request.verify and any(found.values()):
                    await self._rows(where, destination, delete=True)
                    await self._save()
        except PenstockError as exc:
            self._receipt.place(where).note = f"{_LATER}{exc}"
            await self._save()
            return False
        return True

    async def _files(self, where: str, destination: ForgetsPeopleInObjects, *, last: bool) -> None:
        objects = self._objects.setdefault(where, ObjectsOfPerson(where, self._request))
        if last:
            await objects.rewrite(destination, self._receipt, self._save, epoch=self._epoch)
        else:
            await objects.count(destination, self._receipt, self._save)

    async def _rows(self, where: str, destination: ForgetsPeople, *, delete: bool) -> Mapping[str, int]:
        found = await destination.forget_person(
            self._request.names, columns=self._request.columns, epoch=self._epoch, delete=delete
        )
        for table, rows in found.items():
            self._look(f"{where}, table {table}", 0 if delete else rows)
        return found

    async def _streams(self) -> None:
        for where, find in (("dead letters", find_letters), ("lines of functions", find_lines)):
            self._look(where, await find(self._broker, self._person, remove=False))
            await self._save()
            if not self._request.verify:
                await find(self._broker, self._person, remove=True)
                self._look(where, 0)
                await self._save()

    async def _queues(self) -> bool:
        """Counts what waits; returns whether something waits that will be loaded."""
        snapshot = self._context.config.current
        waits = False
        for connection, definition in snapshot.project.connections.items():
            queue = snapshot.queue_of(connection)
            events = 0
            for stream, subject in (
                (topology.FUNCTIONS, topology.functions_subject(queue)),
                (topology.DELIVER, topology.deliver_subject(queue)),
                (topology.RETRY, topology.retry_subject("functions", queue)),
                (topology.RETRY, topology.retry_subject("loader", queue)),
            ):
                events += await self._queued.count(stream, subject)
            where = f"{_QUEUE}{connection}"
            if events or where in self._receipt.places:
                place = self._receipt.place(where)
                place.look(events, verify=self._request.verify)
                place.note = (QUEUED if definition.enabled else DISABLED) if events else ""
            waits = waits or bool(events and definition.enabled)
        for where, place in self._receipt.places.items():
            if where.startswith(_QUEUE) and where.removeprefix(_QUEUE) not in snapshot.project.connections:
                place.look(0, verify=self._request.verify)
                place.note = QUEUE_LEFT
        await self._save()
        return waits

    def _look(self, where: str, now: int) -> None:
        """Notes what is there now; places without a trace are told by `verify` only."""
        where = hide(where, self._request.names)  # a template may name tables by ids
        if now or self._request.verify or where in self._receipt.places:
            self._receipt.place(where).look(now, verify=self._request.verify)
