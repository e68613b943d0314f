"""`penstock up` in the foreground: supervises the stack, shows how the start goes, then stays until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.command.apply import apply_checked
from penstock.command.dotenv import with_dotenv
from penstock.control.moments import moment_of
from penstock.control.project.projects import check_document, read_text
from penstock.control.reach import local_reach, open_broker
from penstock.stack.home import StackState
from penstock.stack.leftovers import clean_up
from penstock.stack.stack import Stack, choose_ports
from penstock.terminal.options import Setting
from penstock.terminal.screen import Screen
from shared.project.snapshot import stored_project
from shared.reading.document import parse_document
from shared.tasks import end, together

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


NAME_WIDTH = len("functions_runtime")


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of `penstock up`."""

    port_base: int | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    project: Path | None = None
    demo: bool = False
    exit_after_demo: bool = False
    nodes: int = 0
    """Of a cluster; 0: one broker."""
    tls: bool = False


async def run_foreground(setting: Setting, wishes: Wishes) -> None:
    """Runs a stack until SIGINT or SIGTERM; a second signal stops it without waiting.

    Raises:
        SetupError: a stack runs in this home already, no port is free, or a process cannot start.
        ConfigError: the project file is wrong.
    """
    setting.home.prepare()
    with setting.home.lock():
        screen = setting.screen
        for process in clean_up(setting.home):
            screen.note(f"ended {process.name} (process {process.pid}), left behind by a stack that was killed")
        view = _StartView(screen)
        ports = dataclasses.replace(choose_ports(wishes.port_base, wishes.port, wishes.nodes), host=wishes.host)
        stack = Stack(setting.home, ports, lambda: view.refresh(stack), tls=wishes.tls)
        _stop_on_signals(stack, screen)

        async def prepare() -> None:
            view.close()
            if wishes.project is not None:
                await _apply(setting, stack.state, wishes.project)

        with view.shown():
            await together(stack.run(prepare), _accompany(setting, stack, wishes))
        screen.say("stopped")


async def show_addresses(setting: Setting, state: StackState) -> None:
    """Prints all addresses, the project that runs, and what to try next."""
    screen = setting.screen
    admin = {process.name: process.admin_url for process in state.processes if process.admin_url}
    screen.say("")
    screen.say("Penstock is up", "bold green")

    def told(name: str, text: str) -> None:
        screen.say(f"  {name:<{NAME_WIDTH}} {text}")

    told("events go to", f"{state.ingest_url}/v1/batch   (segment protocol; /v1/ws for WebSocket)")
    for url in state.more_ingest_urls:
        told("", f"{url}/v1/batch")
    told("broker", state.broker_url)
    for name, url in admin.items():
        told(name, f"{url}/ready   {url}/metrics")
    told("home", f"{state.home}   (logs in {state.home}/logs)")
    async with open_broker(local_reach(setting.home, state)) as broker:
        found = await stored_project(broker)
    if found is None:
        told("project", "none yet; write one with `penstock init`, then run `penstock apply`")
    else:
        told("project", f"revision {found[0]}, applied {moment_of(found[1].applied_at)} UTC")


async def _apply(setting: Setting, state: StackState, file: Path) -> None:
    reach = local_reach(setting.home, state)
    text = read_text(file)
    document = parse_document(text, str(file))
    resolved = check_document(document, with_dotenv(reach.environment, file.parent), file.parent)
    await apply_checked(reach, document, resolved, setting.screen, text=text, in_full=False, instead=_by_hand(file))


def _by_hand(file: Path) -> str:
    return f"start the stack without --project, then run `penstock apply {os.path.relpath(file)}`, which asks"


async def _accompany(setting: Setting, stack: Stack, wishes: Wishes) -> None:
    """Prints addresses, warnings and the demo once the stack is ready."""
    screen = setting.screen
    ready, stopping = asyncio.ensure_future(stack.ready.wait()), asyncio.ensure_future(stack.stopping.wait())
    await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        if stack.stopping.is_set():
            return
        screen.result(stack.state)
        await show_addresses(setting, stack.state)
        if wishes.demo:
            from penstock.demo.demo import show_demo  # pulls in duckdb, which a plain `up` does not need

            demo = asyncio.ensure_future(show_demo(setting, stack.state))
            await asyncio.wait({demo, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not demo.done():
                await end(demo)
                return
            await demo
            if wishes.exit_after_demo:
                stack.stopping.set()
        if not stack.stopping.is_set():
            screen.say("")
            screen.say("stays up until Ctrl-C", "bold")
    except BaseException:
        stack.stopping.set()
        raise
    finally:
        stopping.cancel()


def _stop_on_signals(stack: Stack, screen: Screen) -> None:
    def stop() -> None:
        if stack.stopping.is_set():
            stack.hurry.set()
            screen.note("stopping at once")
            return
        stack.stopping.set()
        screen.note("stopping in order; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)


class _StartView:
    """Shows the start: a table on a terminal, else a line for each change. Later it shows only processes that die."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live: Live | None = None
        self._told: dict[str, str] = {}
        self._restarts: dict[str, int] = {}
        self._lacks: dict[str, str] = {}

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        if self._screen.err.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._screen.err.console(), refresh_per_second=8, transient=True)
            self._live.start()
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Removes the table."""
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                live.stop()

    def refresh(self, stack: Stack) -> None:
        """Shows the stack as it is now."""
        for process in stack.processes:
            name = process.program.name
            if process.restarts > self._restarts.get(name, 0):
                self._restarts[name] = process.restarts
                log = os.path.relpath(process.program.log)
                self._tell(f"{name} {process.ending}; {process.state.partition(', ')[2]} (log: {log})", "warning")
            lacks = stack.problems.get(name, "") if stack.phase == "ready" and process.running else ""
            if lacks != self._lacks.get(name, ""):
                self._lacks[name] = lacks
                self._tell(f"{name}: {lacks}" if lacks else f"{name}: ready again", "warning" if lacks else "info")
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.update(self._table(stack))
        elif stack.phase != "ready" and not self._screen.err.is_terminal:
            for process in stack.processes:
                name = process.program.name
                if process.state in ("ready", "stopping", "stopped") and self._told.get(name) != process.state:
                    self._told[name] = process.state
                    self._tell(f"{name}: {process.state}", "info")

    def _tell(self, text: str, level: str) -> None:
        """Prints a line; into a file with time and level, for `penstock logs`."""
        if not self._screen.err.is_terminal:
            text = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {level} {text}"
        self._screen.note(text, "yellow" if level == "warning" else "")

    def _table(self, stack: Stack) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for process in stack.processes:
            name = process.program.name
            ready = process.state == "ready"
            style = "green" if ready else "yellow" if process.restarts == 0 else "red"
            table.add_row(name, Text(process.state, style=style), Text(stack.problems.get(name, ""), style="dim"))
        return table
