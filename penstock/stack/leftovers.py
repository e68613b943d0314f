"""Ends what a stack left behind whose supervisor was killed.

On Linux its processes end by themselves (`tether.py`), but they take their time to drain, may be frozen, and hold ports and the
store. Their ids stand in the state file; a process counts only if it started when the file says.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from penstock.stack.home import Home, ProcessState, is_alive

PATIENCE_SECONDS = 5.0
"""Short: a process without a broker has nothing to hand on, and being killed loses nothing."""


def clean_up(home: Home, patience_seconds: float = PATIENCE_SECONDS) -> list[ProcessState]:
    """Ends the processes that the state file of a dead stack names, and removes the file; returns the ones that still ran.

    The caller holds the home's lock, or knows that it is free.
    """
    state = home.read()
    left = [process for process in state.processes if is_alive(process)] if state else []
    for number, seconds in ((signal.SIGTERM, patience_seconds), (signal.SIGKILL, 5.0)):
        for process in left:
            if is_alive(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        ends_at = time.monotonic() + seconds
        while any(is_alive(process) for process in left) and time.monotonic() < ends_at:
            time.sleep(0.05)
    home.forget()
    return left
