"""The local stack: nats-server and one process for each service, in one home, supervised; or a cluster with two of each service.

`Stack.run` starts the broker, then the services, says when all of them are ready, keeps them running until it is told to stop,
and stops them in the order of the path, so that each can hand on what it holds: connectors, ingest, router, functions, loader, broker. What it runs
stands in `home/stack.json`, from which every other command learns where to look.

It keeps processes running and nothing else: whether events flow is `penstock status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import aiohttp

from penstock.stack.home import SERVICES, Home, Phase, ProcessState, StackState, start_time
from penstock.stack.logfile import rotate
from penstock.stack.nodes import NodePorts
from penstock.stack.ports import ADMIN_PORT, BROKER_PORT, INGEST_PORT, MONITOR_PORT, PROMETHEUS_PORT, ROUTE_PORT, PortPicker
from penstock.stack.processes import Supervised
from penstock.stack.programs import Cluster, OneBroker, Ports
from shared.errors import SetupError
from shared.jetstream.topology import MORE_ROOM
from shared.tasks import first_of, task_group, timeout

START_SECONDS = 120.0
ROTATE_EVERY_SECONDS = 5.0
WATCH_EVERY_SECONDS = 2.0
TRIES_AT_START = 3


def choose_ports(base: int | None = None, events: int | None = None, nodes: int = 0) -> Ports:
    """Returns free ports: those asked for, and for the others the well-known ones or the next free ones behind them.

    Args:
        base: `--port-base`: all ports, one after the other.
        events: `--port`: where events go.
        nodes: of a cluster, in which each service has a second process; 0: one broker.

    Raises:
        SetupError: one that was asked for is taken, or none is free.
    """
    picker = PortPicker()
    ingest = None if events is None else picker.demand(events, "events", "--port")
    copies = 2 if nodes else 1
    # what listens, and the first port to try; in the order of --port-base
    wanted = [("events", INGEST_PORT), ("the broker", BROKER_PORT), ("the broker's monitor", MONITOR_PORT)]
    wanted += [(f"{name}'s admin page", ADMIN_PORT) for name in SERVICES * copies]
    if nodes:
        wanted += [("the second edge", INGEST_PORT)]
        wanted += [("a broker", BROKER_PORT), ("a broker's monitor", MONITOR_PORT)] * (nodes - 1)
        wanted += [("the routes of a broker", ROUTE_PORT)] * nodes
        wanted += [("Prometheus", PROMETHEUS_PORT)]
    found: list[int] = []
    for offset, (whose, first) in enumerate(wanted):
        if not offset and ingest is not None:
            found.append(ingest)
        else:
            found.append(picker.pick(first) if base is None else picker.demand(base + offset, whose, "--port-base"))
    admin_end = 3 + len(SERVICES) * copies
    admin, rest = tuple(found[3:admin_end]), found[admin_end:]
    if not nodes:
        return Ports(found[0], found[1], found[2], admin)
    second, pairs, routes = (
        rest[0],
        [found[1:3], *zip(rest[1 : 2 * nodes - 1 : 2], rest[2 : 2 * nodes - 1 : 2], strict=True)],
        rest[2 * nodes - 1 : -1],
    )
    of_nodes = tuple(NodePorts(broker, monitor, route) for (broker, monitor), route in zip(pairs, routes, strict=True))
    return Ports(found[0], found[1], found[2], admin, nodes=of_nodes, second_ingest=second, prometheus=rest[-1])


class Stack:
    """A stack in a home whose lock the caller holds. `on_change` is called whenever the state of a process changes."""

    def __init__(self, home: Home, ports: Ports, on_change: Callable[[], None] = lambda: None, *, tls: bool = False) -> None:
        """
        Args:
            tls: between all and the brokers; only a cluster has it.

        Raises:
            SetupError: the home is another kind of stack's, or cannot be written.
        """
        self.home = home
        self.ports = ports
        self._plan = Cluster(home, ports, tls=tls) if ports.nodes else OneBroker(home, ports)
        self._plan.prepare()
        self.phase: Phase = "starting"
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        """Set: stop without waiting for anybody."""
        self.problems: dict[str, str] = {}
        """Why a process is not ready, by name."""
        self._on_change = on_change
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.brokers = [Supervised(program, self._changed) for program in self._plan.brokers()]
        self._path = [[Supervised(program, self._changed) for program in copies] for copies in self._plan.services()]
        self.services = [process for copies in self._path for process in copies]
        self.watchers = [Supervised(program, self._changed) for program in self._plan.watchers()]

    @property
    def processes(self) -> list[Supervised]:
        """Every process, in the order they start."""
        return [*self.brokers, *self.services, *self.watchers]

    @property
    def broker_url(self) -> str:
        """Address of the broker, without a password."""
        return self._plan.shown_address

    @property
    def ingest_url(self) -> str:
        """Where events go."""
        return f"http://{local_address(self.ports.host)}:{self.ports.ingest}"

    @property
    def more_ingest_urls(self) -> list[str]:
        """Further edges, for a balancer."""
        second = self.ports.second_ingest
        return [] if second is None else [f"http://{local_address(self.ports.host)}:{second}"]

    @property
    def state(self) -> StackState:
        """What `stack.json` says."""
        return StackState(
            home=str(self.home.folder),
            phase=self.phase,
            supervisor=ProcessState(name="supervisor", pid=os.getpid(), started=start_time(os.getpid())),
            broker_url=self.broker_url,
            ingest_url=self.ingest_url,
            more_ingest_urls=self.more_ingest_urls,
            monitor_url=f"http://127.0.0.1:{self.ports.monitor}",
            started_at=self._started_at,
            processes=[process.snapshot for process in self.processes],
            problem="; ".join(f"{name}: {why}" for name, why in self.problems.items()),
        )

    async def run(self, prepare: Callable[[], Awaitable[None]] | None = None) -> None:
        """Runs the stack until `stopping` is set.

        Args:
            prepare: awaited when all processes are ready, before the stack counts as ready (a project is applied, say).

        Raises:
            SetupError: a process cannot start; says why and where its log is. Nothing is left running.
        """
        try:
            async with task_group() as group:
                rotation = group.create_task(self._rotate_logs())
                try:
                    for broker in self.brokers:
                        group.create_task(broker.keep_running())
                    for watcher in self.watchers:
                        group.create_task(watcher.keep_running())
                    if await self._until_ready(self.brokers):
                        for service in self.services:
                            group.create_task(service.keep_running())
                        if await self._until_ready(self.services):
                            if prepare is not None:
                                await prepare()
                            self.phase = "ready"
                            self.ready.set()
                            self._changed()
                            await self._watch()
                finally:
                    await self._stop_all()
                    rotation.cancel()
        except BaseExceptionGroup as failed:
            raise first_of(failed) from failed
        finally:
            for process in self.processes:
                process.kill()
            self.home.forget()

    async def _until_ready(self, processes: list[Supervised]) -> bool:
        """Waits until they answer; False when the stack is told to stop meanwhile."""
        ends_at = asyncio.get_running_loop().time() + START_SECONDS
        waiting = list(processes)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while waiting:
                if self.stopping.is_set():
                    return False
                for process in list(waiting):
                    name = process.program.name
                    is_ready, why = await _ask_ready(session, process.program.ready_url)
                    self.problems[name] = why
                    if is_ready:
                        del self.problems[name]
                        waiting.remove(process)
                        process.state = "ready"
                        self._changed()
                        continue
                    ending = process.ending
                    if ending is not None and (ending.code == os.EX_CONFIG or process.restarts >= TRIES_AT_START):
                        raise SetupError(f"{name} {ending}; its log is {process.program.log}")
                    if MORE_ROOM in why:  # the broker's answer is final: nothing that runs here makes room
                        raise SetupError(f"{name}: {why}; its log is {process.program.log}")
                    if asyncio.get_running_loop().time() >= ends_at:
                        raise SetupError(
                            f"{name} was not ready within {START_SECONDS:g} s: {why}; its log is {process.program.log}"
                        )
                self._on_change()
                with contextlib.suppress(TimeoutError):
                    async with timeout(0.1):
                        await self.stopping.wait()
        return True

    async def _watch(self) -> None:
        """Keeps naming the services that are not up, until the stack is told to stop."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while not self.stopping.is_set():
                for process in self.processes:
                    is_ready, why = await _ask_ready(session, process.program.ready_url)
                    self._note(process, is_ready, why)
                with contextlib.suppress(TimeoutError):
                    async with timeout(WATCH_EVERY_SECONDS):
                        await self.stopping.wait()

    def _note(self, process: Supervised, is_ready: bool, why: str) -> None:
        name = process.program.name
        if not process.running:
            return  # its state says when it starts again
        state = "ready" if is_ready else "not ready"
        before = (process.state, self.problems.get(name, ""))
        process.state = state
        if why:
            self.problems[name] = why
        else:
            self.problems.pop(name, None)
        if before != (state, why):
            self._changed()

    async def _stop_all(self) -> None:
        self.phase = "stopping"
        self._changed()
        *path, connectors = self._path
        for copies in (connectors, *path, [*self.brokers, *self.watchers]):
            async with task_group() as group:
                for process in copies:
                    group.create_task(process.stop(at_once=self.hurry))

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_EVERY_SECONDS)
            for process in self.processes:
                rotate(process.program.log)

    def _changed(self) -> None:
        # a full disk must not end the supervisor; the next change writes again
        with contextlib.suppress(OSError):
            self.home.write(self.state)
        self._on_change()


def local_address(host: str) -> str:
    """Returns how this machine reaches what listens on `host`, as a URL writes it."""
    address = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


async def _ask_ready(session: aiohttp.ClientSession, url: str) -> tuple[bool, str]:
    """Returns whether it is, and its problem all the same: of several processes one may be down."""
    try:
        async with session.get(url) as answer:
            is_ready = answer.status == 200
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False, "does not answer yet"
    except ValueError:
        return is_ready, "" if is_ready else "answers in an unknown form"
    body = body if isinstance(body, dict) else {}
    problems = body.get("problems")
    if isinstance(problems, dict):
        return is_ready, "; ".join(f"{part}: {why}" for part, why in problems.items())
    return is_ready, "" if is_ready else str(body.get("error") or body.get("status") or "is not ready")
