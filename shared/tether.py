"""Runs a program that must not outlive its supervisor: `python -I -S tether.py <supervisor pid> <program> [argument ...]`.

The kernel is asked to send SIGTERM to this process when its parent ends, however it ends, and then the program takes this
process over; the wish survives that. A process of its own does this, because code between fork and exec in a process with threads
may hang. Without `prctl` (anything but Linux) the program runs untied and the next `penstock up` ends what was left behind.

Imports nothing of Penstock: it runs before every process of the stack and must start at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent and becomes the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the wish was made
            raise SystemExit(1)
    os.execvp(program[0], program)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main()
