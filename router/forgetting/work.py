"""The router's part of a request: archives are written again without the person; EVENTS is counted, and purged where the request says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from router.forgetting import archives
from router.forgetting.events import end_of, held_by, last_accepted, look_at_accepted
from shared.archive.note import read_notes
from shared.errors import PenstockError, Transient
from shared.forget.person import Person
from shared.forget.requests import ROUTER, PartReceipt, Place, Request
from shared.forget.worker import Save, take_up
from shared.jetstream import topology
from shared.jetstream.hold_back import Holds
from shared.jetstream.lease import Lease
from shared.project.archive import ArchiveOptions
from shared.service import ServiceContext
from shared.threads import ThreadGate

HEARD_SECONDS = 2.0
"""After this time every service leaves out events of the ids."""
ELSEWHERE = (
    "the site is not archived any more, and Penstock does not know how to open its archive; delete the person there by hand"
)


async def keep_forgetting(
    context: ServiceContext,
    gate: ThreadGate,
    lease_seconds: float,
    archived: Callable[[], Mapping[str, ArchiveOptions]],
    place: Callable[[], ArchiveOptions | None],
) -> None:
    """Works on requests to forget for as long as the service runs.

    Args:
        archived: returns where each archived site is archived.
        place: returns where the project archives. There are also the archives of sites that left it, or are archived no more.
    """
    passes: dict[str, _Work] = {}

    async def work(request: Request, receipt: PartReceipt, save: Save, _: Lease) -> bool:
        if request.id not in passes:
            passes[request.id] = _Work(context=context, gate=gate, request=request, archived=archived, place=place)
            if not request.verify:
                await asyncio.sleep(HEARD_SECONDS)
        done = await passes[request.id].run(receipt, save)
        if done:
            del passes[request.id]
        return done

    await take_up(context.broker, context.instance, part=ROUTER, lease_seconds=lease_seconds, work=work)


class _Work:
    def __init__(
        self,
        context: ServiceContext,
        gate: ThreadGate,
        request: Request,
        archived: Callable[[], Mapping[str, ArchiveOptions]],
        place: Callable[[], ArchiveOptions | None],
    ) -> None:
        self._context = context
        self._broker = context.broker
        self._gate = gate
        self._request = request
        self._person = Person(request.names)
        self._archived = archived
        self._place = place
        self._done: set[str] = set()
        self._holds = Holds(context.broker)
        self._last: int | None = None
        """The newest frame that may go: those behind it are of services that have heard of the ids."""

    async def run(self, receipt: PartReceipt, save: Save) -> bool:
        """Goes on with the request; returns whether it is done.

        Raises:
            NotConnected, Transient: an archive or the broker cannot be reached.
        """
        failed = await self._archives(receipt, save)
        done = await self._events(receipt.place(topology.EVENTS))
        await save()
        if failed:
            raise Transient(failed)
        return done

    async def _archives(self, receipt: PartReceipt, save: Save) -> str:
        """Looks through the archives that it has not been through yet; returns what went wrong."""
        failed, now = "", dict(self._archived())
        for site, note in (await read_notes(self._broker)).items():
            if site in now:
                continue
            if (options := note.options or self._place()) is not None:
                now[site] = options
            else:
                where = f"archive of {site}"
                receipt.places[where] = Place(where=where, covered=False, note=ELSEWHERE)
        for site, options in now.items():
            if site in self._done:
                continue
            where = f"archive of {site}"
            try:
                if self._request.verify:
                    found = await archives.count(gate=self._gate, site=site, options=options, person=self._person)
                    receipt.place(where).look(found, verify=True)
                else:
                    await archives.look_through(
                        broker=self._broker,
                        gate=self._gate,
                        site=site,
                        options=options,
                        person=self._person,
                        place=receipt.place(where),
                        holder=self._context.instance,
                        save=save,
                    )
                self._done.add(site)
            except PenstockError as exc:
                failed = f"{where}: {exc}"
        await save()
        return failed

    async def _events(self, place: Place) -> bool:
        """Counts the person's events in EVENTS, or removes their frames; returns whether that is done."""
        if self._request.verify or not self._request.purge_events:
            accepted = await look_at_accepted(self._broker, self._person)
            place.look(accepted.events, verify=self._request.verify)
        else:
            if self._last is None:
                self._last = await last_accepted(self._broker)
                place.look((await look_at_accepted(self._broker, self._person)).events)
            snapshot = self._context.config.current
            held = await held_by(
                broker=self._broker, project=snapshot.project, holds=self._holds, archived=self._archived(), last=self._last
            )
            if held:
                place.note = f"not purged yet: these frames hold events of others, and are needed by {held}"
                return False
            accepted = await look_at_accepted(self._broker, self._person, remove_to=self._last)
            place.look(0)
            place.look(accepted.events)
        place.note = ""
        if accepted.events:
            ends = await end_of(self._broker, accepted)
            place.note = f"in {accepted.frames} frames, which end at {ends}; no service passes these events on"
        return True
