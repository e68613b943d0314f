"""Stops a stack that another process supervises: `penstock down`. Imports little, so that it acts at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from penstock.stack.home import DRAIN_SECONDS, SERVICES, is_alive
from penstock.stack.leftovers import clean_up
from penstock.terminal.options import Setting
from shared.errors import SetupError

POLL_SECONDS = 0.02
STOP_SECONDS = (len(SERVICES) + 1) * (DRAIN_SECONDS + 5) + 10.0


def stop_running(setting: Setting) -> bool:
    """Stops the stack of a home and waits until it is gone; False if none ran.

    Raises:
        SetupError: it does not stop in time.
    """
    home, screen = setting.home, setting.screen
    state = home.read()
    if not home.is_running():
        left = clean_up(home) if state else []
        for process in left:
            screen.say(f"ended {process.name} (process {process.pid}), left behind by a stack that was killed")
        if not left:
            screen.say(f"no stack runs in {home.folder}")
        return bool(left)
    if state is None or not is_alive(state.supervisor):
        raise SetupError(f"a stack starts or stops in {home.folder} right now; try again in a moment")
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.supervisor.pid, signal.SIGTERM)
    ends_at = time.monotonic() + STOP_SECONDS
    with screen.progress("stopping", total=len(state.processes)) as advance:
        # the lock is given back a moment before the process ends, and "stopped" is about the process
        while home.is_running() or is_alive(state.supervisor):
            if time.monotonic() > ends_at:
                raise SetupError(
                    f"the stack in {home.folder} did not stop within {STOP_SECONDS:g} s; see {home.logs}, or end process {state.supervisor.pid}"
                )
            advance(sum(not is_alive(process) for process in state.processes))
            time.sleep(POLL_SECONDS)
        advance(len(state.processes))
    screen.say(f"stopped the stack in {home.folder}")
    return True
