"""The ingest service: puts the parts together, listens, and drains in the order that loses nothing.

Order at the end: not ready, listener closed, requests under way answered, connections closed, frames sent, journal closed. The
next start sends what the journal then holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ingest.browser.pages import paths_of
from ingest.clients.address import Proxies, parse_networks
from ingest.clients.sender import agent_reader, location_reader
from ingest.http.routes import Routes
from ingest.http.server import EdgeServer
from ingest.http.sockets import Sockets
from ingest.intake.hooks import REREAD_SECONDS, Known, are_same, read_hooks, refers
from ingest.intake.intake import Intake, Start
from ingest.intake.lookup import stored_ids
from ingest.intake.outlet import Outlet
from ingest.intake.packer import Packer, open_packer
from ingest.journal.spool import Spool, open_spool
from ingest.limits.bounds import Bounds
from ingest.limits.guard import Guard, places_for
from ingest.limits.rate import RateLimiter
from ingest.listen import BACKLOG, described, inherited, open_listeners
from ingest.readiness import Readiness
from ingest.registry import http_protocols, socket_protocols
from ingest.settings import PREFIX, IngestSettings
from ingest.trackers.micro import Micro
from ingest.webhooks.hook import BuiltHook
from shared.errors import ConfigError
from shared.jetstream.broker import Broker
from shared.project.snapshot import ConfigSnapshot
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.streams.dead_log import LostLetters
from shared.tasks import task_group, timeout
from shared.workers import keep_on

HEADROOM_BYTES = 256 * 1024
"""Size of a frame beside the body of its one largest event."""

GRACE = 0.6
"""The requests' part of the drain period; the rest is for frames and the journal."""

log = logging.getLogger(__name__)


async def run(context: ServiceContext, settings: IngestSettings | None = None) -> None:
    """Serves until the context drains.

    Args:
        settings: None: from the environment.

    Raises:
        ConfigError: a setting is wrong, or the port is taken.
    """
    settings = settings or read_settings(IngestSettings, PREFIX)
    context.health.bad("ingest", "does not listen yet")
    proxies = Proxies(parse_networks(settings.trusted_proxies, f"{PREFIX}TRUSTED_PROXIES"), settings.address_header)
    async with contextlib.AsyncExitStack() as stack:
        read_location = stack.enter_context(location_reader(settings.geo_file))
        spool = await stack.enter_async_context(_spool(settings))
        outlet = Outlet(
            context.broker.publisher,
            spool,
            context.telemetry,
            deadline_seconds=float(settings.deadline),
            spool_after_seconds=float(settings.spool_after),
        )
        start = await stack.enter_async_context(_background())
        if settings.spool_dir is not None:
            folder_of_journal = settings.spool_dir
            context.health.write_to(lambda: {"the journal": folder_of_journal})
        if spool is not None:
            start(spool.empty(outlet.publish_stored, partial(stored_ids, context.broker)), "ingest-spool")
            for folder in _orphans(settings):
                start(_empty_orphan(folder, outlet, context.broker), f"ingest-spool-{folder.name}")
        lost = LostLetters(context.telemetry, context.health)
        holder: list[Intake] = []
        packer = await stack.enter_async_context(open_packer(outlet.send_frame, lambda: holder[0].frame_id(), settings.packer()))
        intake = Intake(
            packer,
            outlet,
            context.telemetry,
            instance=context.instance,
            start=start,
            read_agent=agent_reader(),
            read_location=read_location,
            proxies=proxies,
            keep_headers=settings.keep_headers,
            largest_event=context.broker.nc.max_payload - HEADROOM_BYTES if context.broker.nc.is_connected else None,
            clock=context.clock,
            rates=RateLimiter(settings.rates_fd),
            forgotten=context.forgotten,
            micro=Micro() if settings.micro else None,
            on_lost_letters=lambda site, letters: lost.note("refused", "ingest", site, letters),
        )
        holder.append(intake)
        routes = Routes(http_protocols())
        start(
            keep_on(context.health, "following the project", lambda: _follow_project(context, intake, routes)), "ingest-project"
        )
        start(_measure(context, packer), "ingest-gauges")
        readiness = Readiness(context=context, outlet=outlet, spool=spool, lost=lost, refusals=intake.refusals)
        await readiness.look()  # before `/ready` answers 200
        start(keep_on(context.health, "looking at streams", readiness.keep), "ingest-readiness")
        await _serve(context=context, settings=settings, intake=intake, routes=routes, start=start)


async def _serve(context: ServiceContext, settings: IngestSettings, intake: Intake, routes: Routes, start: Start) -> None:
    guard = Guard(
        max_connections=places_for(settings.max_connections),
        max_per_address=settings.max_connections_per_address,
        max_sockets=settings.max_websockets,
        proxies=intake.proxies,
        expects_proxy_header=settings.proxy_protocol,
    )
    server = EdgeServer(
        intake,
        routes,
        {
            protocol.PATH: Sockets(
                intake,
                protocol,
                credit=settings.websocket_credit,
                ping_seconds=float(settings.websocket_ping),
                key_seconds=float(settings.read_timeout),
            )
            for protocol in socket_protocols()
        },
        read_timeout_seconds=float(settings.read_timeout),
        keepalive_seconds=float(settings.keepalive),
        max_requests=settings.max_requests,
        max_body_bytes=2 * int(settings.inflight_bytes),
        quick_bytes=int(settings.quick_bytes),
        guard=guard,
        is_ready=lambda: not context.health.problems,
        public_url=settings.public_url,
    )
    start(_measure_connections(context, guard, server.bounds), "ingest-connections")
    loop = asyncio.get_running_loop()
    bound = inherited(settings.listen_fds) or open_listeners(settings.host, settings.port, settings.unix_socket, PREFIX)
    listeners = [
        await (loop.create_unix_server if each.family == socket.AF_UNIX else loop.create_server)(
            server.connections, sock=each, backlog=BACKLOG
        )
        for each in bound
    ]
    log.info("listening", extra={"on": described(bound), "number": settings.process})
    context.health.good("ingest")
    try:
        await context.draining.wait()
    finally:
        context.health.bad("ingest", "draining")
        for listener in listeners:
            listener.close()
        await server.drain(float(context.settings.drain_period) * GRACE)
    log.info("requests answered, sending the remaining events")


async def _follow_project(context: ServiceContext, intake: Intake, routes: Routes) -> None:
    current = context.config.current
    if not context.config.loaded.is_set():
        current = await context.config.changed(current)
    routes.use_paths(paths_of(current.project))
    intake.use_project(current.project)  # at once: a vault may be slow
    known: Known = {}
    used: tuple[ConfigSnapshot | None, Mapping[str, BuiltHook]] = None, {}
    while True:
        hooks = await read_hooks(current.project, context.health, known)
        if used[0] is not current or not are_same(used[1], hooks):  # each minute nearly always the same
            routes.use_paths(paths_of(current.project))
            intake.use_project(current.project, hooks)
            used = current, hooks
        try:
            async with timeout(REREAD_SECONDS if refers(current.project) else None):
                current = await context.config.changed(current)
        except TimeoutError:
            pass  # the project is the same, a secret may be another one


async def _measure(context: ServiceContext, packer: Packer) -> None:
    while True:
        context.telemetry.gauge("ingest_inflight_bytes", packer.held_bytes)
        await asyncio.sleep(2)


async def _measure_connections(context: ServiceContext, guard: Guard, bounds: Bounds) -> None:
    told = 0
    while True:
        context.telemetry.gauge("ingest_connections", guard.connections)
        context.telemetry.gauge("ingest_unfinished_bytes", bounds.body_bytes + guard.head_bytes)
        context.telemetry.gauge("ingest_tasks", len(asyncio.all_tasks()))
        context.telemetry.count("ingest_connections_refused_total", guard.refused - told)
        told = guard.refused
        await asyncio.sleep(2)


@contextlib.asynccontextmanager
async def _spool(settings: IngestSettings) -> AsyncIterator[Spool | None]:
    if not settings.spool_dir:
        yield None
        return
    folder = Path(settings.spool_dir) / f"{settings.process}"
    async with open_spool(folder, int(settings.spool_max_bytes), patience_seconds=float(settings.spool_after)) as spool:
        yield spool


def _orphans(settings: IngestSettings) -> list[Path]:
    """Returns the journals of processes that no longer exist because there are fewer now; the first process empties them."""
    if settings.process or not settings.spool_dir:
        return []
    folders = [path for path in Path(settings.spool_dir).iterdir() if path.name.isdigit()]
    return [path for path in folders if int(path.name) >= settings.processes and next(path.glob("*.journal"), None)]


async def _empty_orphan(folder: Path, outlet: Outlet, broker: Broker) -> None:
    try:
        async with open_spool(folder, 0) as spool:
            log.info("emptying the journal of a process that no longer exists", extra={"folder": str(folder)})
            await spool.empty(outlet.publish_stored, partial(stored_ids, broker), once=True)
    except ConfigError as exc:  # its owner still runs
        log.warning("journal left alone", extra={"folder": str(folder), "error": str(exc)})


@contextlib.asynccontextmanager
async def _background() -> AsyncIterator[Start]:
    """Yields a function that starts tasks for the life of the service; if one fails, the service ends and is started again."""
    try:
        async with task_group() as group:
            tasks: set[asyncio.Task[None]] = set()

            def start(work: Coroutine[Any, Any, None], name: str) -> None:
                task = group.create_task(work, name=name)
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            try:
                yield start
            finally:
                for task in list(tasks):
                    task.cancel()
    except BaseExceptionGroup as failures:
        if len(failures.exceptions) > 1:
            raise
        raise failures.exceptions[0] from None
