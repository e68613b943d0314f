"""Scratch space: a private directory of this process for what does not fit into its memory; bounded, and gone with the process.

Each process has a directory of its own below a home that many may share, made at its first use. It holds a lock on a file in it. What a
killed process left there has no lock any more: `clean` removes it, and so does the next process that makes a directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from shared.errors import SetupError

PREFIX = "penstock-scratch-"
"""Names of the directories begin so."""
LOCK = "lock"
GIB = 1024**3
MOST_BYTES = 10 * GIB
LEAST_FREE_BYTES = 64 * 1024**2
"""A disk with less than this is about to fail for every other writer too."""


class Scratch:
    """The scratch space of one process. All calls block.

    Args:
        home: where the directories of processes are; None: the system's directory for temporary files.
        most_bytes: what a user of it may keep there; users hold to it themselves.
    """

    def __init__(self, home: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._home = home
        self._root: Path | None = None
        self._end: weakref.finalize[[int, Path], Scratch] | None = None
        self.most_bytes = most_bytes

    def folder(self, name: str) -> Path:
        """Returns a directory of this process; the same for the same name.

        Args:
            name: of its user, one segment of a path.

        Raises:
            SetupError: there can be none, or its disk is nearly full.
        """
        try:
            root = self._root or self._make()
            free = shutil.disk_usage(root).free
            if free < LEAST_FREE_BYTES:
                raise SetupError(
                    f"scratch space {root}: its disk has {free} bytes left and needs {LEAST_FREE_BYTES}; free space there, "
                    "or name a directory on another disk in PENSTOCK_LOADER_SCRATCH_DIR"
                )
            folder = root / name
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"scratch space {error.filename or self._home}: {error.strerror or error}; name a directory that this user may write in "
                "PENSTOCK_LOADER_SCRATCH_DIR"
            ) from error
        return folder

    def clean(self) -> None:
        """Removes what processes left that ended without removing it themselves. Never raises."""
        home = self._home or Path(tempfile.gettempdir())
        try:
            left = [path for path in home.glob(f"{PREFIX}*") if path != self._root and not path.is_symlink()]
        except OSError:
            return
        for path in left:
            _remove_if_dead(path)

    def close(self) -> None:
        """Removes the directory and all in it. Never raises."""
        self._root = None
        if self._end is not None:
            self._end()

    def _make(self) -> Path:
        if self._home is not None:
            self._home.mkdir(parents=True, exist_ok=True)
        self.clean()
        root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._home))
        lock = os.open(root / f"{LOCK}.new", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # another process must never see it without its lock
        (root / f"{LOCK}.new").rename(root / LOCK)
        # also without `close`: when the last reference is gone, or the interpreter ends
        self._end = weakref.finalize(self, _end, lock, root)
        self._root = root
        return root


def _end(lock: int, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    os.close(lock)


def _remove_if_dead(path: Path) -> None:
    try:
        lock = os.open(path / LOCK, os.O_RDWR)
    except OSError:
        return  # another user's, or a process is making it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # its process lives
    finally:
        os.close(lock)
