"""One worker for each key of the project, under a lease. So replicas of a service share their work.

Every replica tries for every key; the lease decides which one works. A key moves to another replica within the time of a lease if
its holder dies, and at once if its holder drains. The service decides what a key is and what its worker does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Generic, Protocol, TypeVar

from shared.errors import ConfigError, Fenced, PenstockError
from shared.jetstream.lease import Lease, hold
from shared.project.snapshot import ConfigSnapshot
from shared.service import ServiceContext
from shared.tasks import end, first_of, task_group, together
from shared.telemetry.health import Health

AGAIN_SECONDS = 1.0
"""The pause before a worker takes its lease again."""
KEEPER_AGAIN_SECONDS = 5.0

D = TypeVar("D")
D_contra = TypeVar("D_contra", contravariant=True)

log = logging.getLogger(__name__)


class Worker(Protocol[D_contra]):
    """Works for one key."""

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        """Works while the lease lasts, and returns in order soon after `ending` is set.

        Called again each time the lease is taken; cancelled when it is lost.

        Raises:
            Fenced: another replica works for this key.
            PenstockError: the worker is called again.
        """
        ...

    def change(self, definition: D_contra) -> bool:
        """Takes a new definition, at work or not; False: this worker must end, and another is made."""
        ...


class Workers(Generic[D]):
    """The workers of one process.

    Args:
        context: of the service.
        what: the word for a key in health and log: `site`.
        prefix: of the names of leases, before the key.
        lease_seconds: how long a dead holder keeps a lease.
        wanted: the present definitions, by key.
        make: makes the worker of a key.
        in_order: if a key leaves the project, its worker ends in order, as when the service drains; else it is cancelled.
        stagger_seconds: before it asks for another key, a process waits so long for each key that it has; so other replicas get some.
        moved: returns what waits for a change of what `wanted` returns for the same project, counted from the call on; None: only the
            project changes it.
    """

    def __init__(
        self,
        context: ServiceContext,
        *,
        what: str,
        prefix: str,
        lease_seconds: float,
        wanted: Callable[[ConfigSnapshot], Mapping[str, D]],
        make: Callable[[str, D], Worker[D]],
        in_order: bool = False,
        stagger_seconds: float = 0.0,
        moved: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._moved = moved
        self._context = context
        self._what = what
        self._prefix = prefix
        self._lease_seconds = lease_seconds
        self._wanted = wanted
        self._make = make
        self._in_order = in_order
        self._stagger_seconds = stagger_seconds
        self._running: dict[str, _Running[D]] = {}
        self._held: set[str] = set()

    @property
    def keys(self) -> Collection[str]:
        """Returns all keys of the project; this replica or another works for each."""
        return self._running.keys()

    def bear(self, meanwhile: str, *beside: Workers[Any]) -> None:
        """Lets the service be ready although a key fails, as long as another does not.

        Args:
            meanwhile: says what goes on.
            beside: workers of the same process, whose keys count as these do.
        """
        health = self._context.health
        keys = {workers._what: workers._running for workers in (self, *beside)}
        health.bear(lambda part: bearable(health, keys, part, meanwhile=meanwhile))

    async def run(self) -> None:
        """Follows the project until the service drains; then every worker ends in order."""
        try:
            async with task_group() as group:
                following = group.create_task(self._follow(group), name="follow-config")
                await self._context.draining.wait()
                following.cancel()
                for running in self._running.values():
                    running.ending.set()
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        config, health = self._context.config, self._context.health
        await config.loaded.wait()
        snapshot = config.current
        while True:
            # before the look, so that a change in the middle of it is not missed
            moved = asyncio.ensure_future(self._moved()) if self._moved is not None else None
            try:
                try:
                    wanted = self._wanted(snapshot)
                except ConfigError as exc:
                    log.error(
                        "project cannot be followed, the last good one stays",
                        extra={"revision": snapshot.revision, "error": str(exc)},
                    )
                    health.bad("project", f"revision {snapshot.revision} cannot be followed: {exc}")
                else:
                    health.good("project")
                    await self._become(wanted, group)
                snapshot = await config.changed(snapshot) if moved is None else await self._next(snapshot, moved)
            finally:
                if moved is not None:
                    moved.cancel()

    async def _next(self, snapshot: ConfigSnapshot, moved: asyncio.Future[Any]) -> ConfigSnapshot:
        """Waits for the next project, or for `moved`; returns the project as it is then."""
        changed = asyncio.ensure_future(self._context.config.changed(snapshot))
        try:
            waits: list[asyncio.Future[Any]] = [changed, moved]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return await changed if changed.done() else snapshot
        finally:
            changed.cancel()

    async def _become(self, wanted: Mapping[str, D], group: asyncio.TaskGroup) -> None:
        for key, running in list(self._running.items()):
            if key in wanted and (wanted[key] == running.definition or running.worker.change(wanted[key])):
                running.definition = wanted[key]
                continue
            if self._in_order:
                running.ending.set()
            else:
                await end(running.task)
                self._context.health.good(f"{self._what} {key}")
            del self._running[key]
        for key, definition in wanted.items():
            if key not in self._running:
                worker, ending = self._make(key, definition), asyncio.Event()
                task = group.create_task(self._keep(key, worker, ending), name=f"{self._what}-{key}")
                self._running[key] = _Running(definition, worker, ending, task)

    async def _keep(self, key: str, worker: Worker[D], ending: asyncio.Event) -> None:
        free = asyncio.Event()
        free.set()
        with contextlib.suppress(_EndingError):
            await together(self._work_again_and_again(key, worker, ending, free), _raise_when_free(ending, free))
        self._context.health.good(f"{self._what} {key}")

    async def _work_again_and_again(self, key: str, worker: Worker[D], ending: asyncio.Event, free: asyncio.Event) -> None:
        context, part, extra = self._context, f"{self._what} {key}", {self._what: key}
        while not ending.is_set():
            failure = ""
            await asyncio.sleep(self._stagger_seconds * len(self._held))
            try:
                async with hold(context.broker, f"{self._prefix}.{key}", context.instance, self._lease_seconds) as lease:
                    free.clear()
                    self._held.add(key)
                    log.info("lease taken", extra={**extra, "epoch": lease.epoch})
                    await _while_held(worker, lease, ending)
            except Fenced as exc:
                log.warning("left to another replica", extra={**extra, "error": str(exc)})
            except PenstockError as exc:
                failure = str(exc)
                log.error("work failed, beginning again", extra={**extra, "error": failure})
            except Exception as exc:  # a defect, or a later version's state: the other keys of this process go on
                failure = f"{type(exc).__name__}: {exc}"
                log.exception("work failed, beginning again", extra=extra)
            finally:
                self._held.discard(key)
                context.health.good(part)
                free.set()
            if failure:
                context.health.bad(part, f"begins again after a failure: {failure}")
            if not ending.is_set():
                await asyncio.sleep(AGAIN_SECONDS)
            # another replica may have the key by now, and answers for it
            context.health.good(part)


def bearable(health: Health, running: Mapping[str, Collection[str]], part: str, *, meanwhile: str) -> str | None:
    """Returns `meanwhile` for a part that is a key of `running` while another of them does not fail; else None.

    Args:
        running: keys by the word for them.
    """
    if part.partition(" ")[0] not in running:
        return None
    failing = {problem.partition(":")[0] for problem in health.problems}
    return meanwhile if any(f"{what} {key}" not in failing for what, keys in running.items() for key in keys) else None


class _Running(Generic[D]):
    def __init__(self, definition: D, worker: Worker[D], ending: asyncio.Event, task: asyncio.Task[None]) -> None:
        self.definition = definition
        self.worker = worker
        self.ending = ending
        self.task = task


async def _while_held(worker: Worker[D], lease: Lease, ending: asyncio.Event) -> None:
    """Lets a worker work; cancels it when its lease is lost.

    Raises:
        Fenced: the lease is lost.
    """
    working = asyncio.ensure_future(worker.work(lease, ending))
    lost = asyncio.ensure_future(lease.lost.wait())
    try:
        await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Fenced(f"the lease {lease.name} is lost")
        await working
    finally:
        for task in (working, lost):
            task.cancel()
        await asyncio.gather(working, lost, return_exceptions=True)


async def _raise_when_free(ending: asyncio.Event, free: asyncio.Event) -> None:
    await ending.wait()
    # only the wait for the lease is cut short; a worker that has it ends in order
    await free.wait()
    raise _EndingError


class _EndingError(Exception):
    """Raised in a worker that was told to end and holds nothing."""


async def keep_on(health: Health, what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Does `work`; does it again a moment after any failure, and tells the failure in `/ready` meanwhile.

    A value in a bucket that is damaged or of a later release is such a failure; code that follows values leaves out each one it cannot
    read, so that this is the last net and not the first.

    Args:
        what: the part of the service, for people.
    """
    while True:
        try:
            return await work()
        except Exception as exc:
            log.exception("unexpected error of a keeper", extra={"what": what})
            health.warn(what, f"begins again after a failure: {type(exc).__name__}: {exc}")
        await asyncio.sleep(KEEPER_AGAIN_SECONDS)
        health.good(what)
