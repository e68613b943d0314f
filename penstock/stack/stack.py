"""The local stack: nats-server and one process for each service, in one home, supervised.

`Stack.run` starts the broker, then the services, says when all of them are ready, keeps them running until it is told to stop,
and stops them in the order of the path, so that each can hand on what it holds: connectors, ingest, router, functions, loader, broker. What it runs
stands in `home/stack.json`, from which every other command learns where to look.

It keeps processes running and nothing else: whether events flow is `penstock status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp

from penstock.stack.home import DRAIN_SECONDS, SERVICES, Home, Phase, ProcessState, StackState, stack_environment, start_time
from penstock.stack.logfile import rotate
from penstock.stack.ports import ADMIN_PORT, BROKER_PORT, INGEST_PORT, MONITOR_PORT, PortPicker
from penstock.stack.processes import Program, Supervised
from shared.errors import SetupError
from shared.jetstream.nats_server import config_text, find_nats_server
from shared.jetstream.topology import MORE_ROOM
from shared.tasks import first_of, task_group, timeout

START_SECONDS = 120.0
ROTATE_EVERY_SECONDS = 5.0
WATCH_EVERY_SECONDS = 2.0
TRIES_AT_START = 3


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the stack listens."""

    ingest: int
    broker: int
    monitor: int
    admin: tuple[int, ...]
    host: str = "127.0.0.1"
    """Interface that takes events; everything else listens on the local one."""


def choose_ports(base: int | None = None, events: int | None = None) -> Ports:
    """Returns free ports: those asked for, and for the others the well-known ones or the next free ones behind them.

    Args:
        base: `--port-base`: all ports, one after the other.
        events: `--port`: where events go.

    Raises:
        SetupError: one that was asked for is taken, or none is free.
    """
    picker = PortPicker()
    ingest = None if events is None else picker.demand(events, "events", "--port")
    if base is not None:
        names = ("events", "the broker", "the broker's monitor", *(f"{name}'s admin page" for name in SERVICES))
        wanted = [
            ingest if ingest is not None and not offset else picker.demand(base + offset, whose, "--port-base")
            for offset, whose in enumerate(names)
        ]
        return Ports(wanted[0], wanted[1], wanted[2], tuple(wanted[3:]))
    return Ports(
        picker.pick(INGEST_PORT) if ingest is None else ingest,
        picker.pick(BROKER_PORT),
        picker.pick(MONITOR_PORT),
        tuple(picker.pick(ADMIN_PORT) for _ in SERVICES),
    )


class Stack:
    """A stack in a home whose lock the caller holds. `on_change` is called whenever the state of a process changes."""

    def __init__(self, home: Home, ports: Ports, on_change: Callable[[], None] = lambda: None) -> None:
        self.home = home
        self.ports = ports
        self.phase: Phase = "starting"
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        """Set: stop without waiting for anybody."""
        self.problems: dict[str, str] = {}
        """Why a process is not ready, by name."""
        self._on_change = on_change
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.broker = Supervised(self._broker_program(), self._changed)
        self.services = [Supervised(self._service_program(index), self._changed) for index in range(len(SERVICES))]

    @property
    def processes(self) -> list[Supervised]:
        """Every process, in the order they start."""
        return [self.broker, *self.services]

    @property
    def broker_url(self) -> str:
        """Address of the broker."""
        return f"nats://127.0.0.1:{self.ports.broker}"

    @property
    def ingest_url(self) -> str:
        """Where events go."""
        return f"http://{local_address(self.ports.host)}:{self.ports.ingest}"

    @property
    def state(self) -> StackState:
        """What `stack.json` says."""
        return StackState(
            home=str(self.home.folder),
            phase=self.phase,
            supervisor=ProcessState(name="supervisor", pid=os.getpid(), started=start_time(os.getpid())),
            broker_url=self.broker_url,
            ingest_url=self.ingest_url,
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
        self._configure_broker()
        try:
            async with task_group() as group:
                rotation = group.create_task(self._rotate_logs())
                try:
                    group.create_task(self.broker.keep_running())
                    if await self._until_ready([self.broker]):
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
        *path, connectors = self.services
        for process in (connectors, *path, self.broker):
            await process.stop(at_once=self.hurry)

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

    def _configure_broker(self) -> None:
        text = config_text(self.home.store, port=self.ports.broker, monitor_port=self.ports.monitor)
        (self.home.folder / "nats.conf").write_text(text)

    def _broker_program(self) -> Program:
        return Program(
            name="nats",
            command=(find_nats_server(), "-c", str(self.home.folder / "nats.conf")),
            environment=dict(os.environ),
            log=self.home.logs / "nats.log",
            ready_url=f"http://127.0.0.1:{self.ports.monitor}/healthz",
            stop_seconds=15,
        )

    def _service_program(self, index: int) -> Program:
        name, admin = SERVICES[index], f"http://127.0.0.1:{self.ports.admin[index]}"
        return Program(
            name=name,
            command=(sys.executable, "-P", "-m", name),
            environment={
                "PENSTOCK_DRAIN_PERIOD": f"{DRAIN_SECONDS}s",
                **os.environ,
                **stack_environment(self.home),
                "PENSTOCK_NATS_URL": self.broker_url,
                "PENSTOCK_ADMIN_HOST": "127.0.0.1",
                "PENSTOCK_ADMIN_PORT": str(self.ports.admin[index]),
                "PENSTOCK_CACHE_DIR": str(self.home.cache / name),
                "PENSTOCK_LOADER_SCRATCH_DIR": str(self.home.scratch),
                "PENSTOCK_INGEST_HOST": self.ports.host,
                "PENSTOCK_INGEST_PORT": str(self.ports.ingest),
                "PENSTOCK_INGEST_SPOOL_DIR": str(self.home.spool),
            },
            log=self.home.logs / f"{name}.log",
            ready_url=f"{admin}/ready",
            admin_url=admin,
            stop_seconds=DRAIN_SECONDS + 5,
        )


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
