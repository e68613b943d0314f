"""Private folders of running connectors: one on disk, for what they write, and one in memory, for files with their secrets.

Both are of this user alone and go when the connector is closed. If this process is killed, the keeper of its program removes what
that run used. If both are killed, as by the kernel for want of memory, the folders stay: the next runner sweeps them. The process
that uses a folder holds a lock in it, so nothing that is alive is swept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "penstock-connector-"
HELD = ".held"
"""The file with the lock, in each folder."""
IN_MEMORY = Path("/dev/shm")  # noqa: S108  # the folder in it is private
YOUNG_SECONDS = 3600.0
"""A folder without a lock is left alone for so long: its process may have just made it, or is of an older version."""


@contextlib.contextmanager
def private_folders() -> Iterator[tuple[Path, Path]]:
    """Makes both folders, and removes them at the end; yields the one on disk and the one in memory.

    Where the machine has no folder in memory, both are the one on disk.

    Raises:
        OSError: there is no room.
    """
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(_folder(None))
        secret = disk
        if IN_MEMORY.is_dir():
            with contextlib.suppress(OSError):
                secret = stack.enter_context(_folder(IN_MEMORY))
        yield disk, secret


@contextlib.contextmanager
def _folder(where: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))  # for this user alone
    try:
        lock = os.open(folder / HELD, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> list[str]:
    """Removes folders whose processes are gone; returns their paths. Blocks for as long as that takes."""
    removed: list[str] = []
    for where in {Path(tempfile.gettempdir()), IN_MEMORY}:
        with contextlib.suppress(OSError):
            removed += [str(each) for each in where.glob(f"{PREFIX}*") if _is_left(each) and _remove(each)]
    return removed


def _is_left(folder: Path) -> bool:
    """Whether a folder is ours and its process is gone."""
    try:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            return False
        try:
            lock = os.open(folder / HELD, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return time.time() - facts.st_mtime > YOUNG_SECONDS
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(lock)
    except OSError:  # held, or gone meanwhile
        return False
    return True


def _remove(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
