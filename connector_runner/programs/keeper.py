"""Runs a program of others and ends all that it started: `python -I -S keeper.py <parent pid> <seconds> <bytes> <folder> <program> [argument ...]`.

A process of its own, so that it also does its work when the runner is killed. On Linux it adopts the program's orphans, also those
that left the process group, so nothing that the program started is out of its sight. It ends them all when the program ends, when
it gets SIGTERM, and when its parent ends; the program gets `seconds` to end by itself. If the parent is gone, it also removes
`folder` and the one that it runs in. SIGUSR1 asks the program for its stacks (SIGABRT). It ends as the program did.

The program gets at most `bytes` of data a process, by the kernel: a bound for what grows faster than the runner looks.

Imports nothing of Penstock: it runs before every program and must start at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SIGNALS = (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM)
ROUNDS = 200
"""Times that all descendants are killed: what forks meanwhile is found in the next round."""


def main() -> None:
    """Starts the program and stays until nothing of it runs."""
    parent, patience, most, folder, program = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _wish(PR_SET_CHILD_SUBREAPER, 1)
    _wish(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the wish was made
        raise SystemExit(1)
    first = os.fork()
    if first == 0:
        _become(program, most)
    for output in (1, 2):  # the program's own: they end when the program's processes do
        os.close(output)
    status = _stay(first, patience)
    _end_all(first)
    if os.getppid() != parent:
        import shutil

        for each in (folder, os.getcwd()):
            shutil.rmtree(each, ignore_errors=True)
    _leave(status)


def _become(program: list[str], most: int) -> NoReturn:
    try:
        _wish(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(ValueError, OSError):  # a lower bound is set already
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.execv(program[0], program)  # noqa: S606  # no shell is wanted
    except OSError as exc:
        os.write(2, f"{program[0]}: {exc.strerror}\n".encode())
    finally:
        os._exit(127)


def _stay(first: int, patience: float) -> int:
    """Waits for the end of the program, or for the word to end it; returns its status as `os.waitpid` gives it."""
    ending = False
    while True:
        heard = signal.sigwait(SIGNALS)
        if heard == signal.SIGALRM:
            return signal.SIGKILL
        if heard == signal.SIGUSR1:
            _send(first, signal.SIGABRT)
        elif heard == signal.SIGTERM and not ending:
            ending = True
            signal.setitimer(signal.ITIMER_REAL, max(patience, 0.001))
            for each in (first, *_descendants()):
                _send(each, signal.SIGTERM)
        while True:  # several children may have ended under one signal
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return signal.SIGKILL
            if ended == first:
                return status
            if ended == 0:
                break


def _end_all(group: int) -> None:
    """Kills what is left, until nothing is."""
    for _ in range(ROUNDS):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)  # all at once: none forks meanwhile
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        alive = _descendants()
        if not alive:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none forks while the others are killed
            for each in alive:
                _send(each, number)
        time.sleep(0.01)


def _descendants() -> list[int]:
    """Returns the processes below this one."""
    children: dict[int, list[int]] = {}
    try:
        found = [int(each) for each in os.listdir("/proc") if each.isdigit()]
    except OSError:  # not Linux: the runner kills the process group
        return []
    for pid in found:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, parent = file.read().rpartition(b") ")[2].split()[:2]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if state != b"Z":
            children.setdefault(int(parent), []).append(pid)
    below, waiting = [], [os.getpid()]
    while waiting:
        mine = children.get(waiting.pop(), [])
        below += mine
        waiting += mine
    return below


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _leave(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _wish(name: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(name, value, 0, 0, 0)


if __name__ == "__main__":
    main()
