"""A directory as an object store: files made aside, put in place whole, by the newest holder of a connection only. Blocking.

    <root>/_penstock/<connection>/epoch      the newest epoch
    <root>/_penstock/<connection>/<epoch>/   its files on their way; removed by the next

A holder whose directory was removed finds nothing to rename: that is the fence, and it holds even for one that was frozen between
its last look at the epoch and the rename.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import Fenced

PRIVATE = "_penstock"
"""Readers of data directories pass over names that start with an underscore."""


def claim(root: Path, connection: str, epoch: int) -> Path:
    """Notes the epoch, removes what older holders left, and returns the directory for files on their way.

    Raises:
        Fenced: a newer epoch is noted.
        OSError
    """
    home = root / PRIVATE / connection
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if noted_epoch(root, connection) > epoch:
            raise fenced(connection, epoch)
        note = home / "epoch.new"
        with create(note) as output:
            output.write(str(epoch).encode())
        note.rename(home / "epoch")
        sync_folder(home)
        for entry in home.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
        aside = home / str(epoch)
        aside.mkdir()
    return aside


def noted_epoch(root: Path, connection: str) -> int:
    """Returns the newest epoch of a connection, -1 if it never had one."""
    try:
        return int((root / PRIVATE / connection / "epoch").read_text())
    except FileNotFoundError:
        return -1


@contextmanager
def create(path: Path) -> Iterator[IO[bytes]]:
    """Opens a new file for writing; on leaving it is on the disk."""
    with path.open("wb") as output:
        yield output
        output.flush()
        os.fsync(output.fileno())


def make_room(target: Path, root: Path) -> list[Path]:
    """Makes the directory of a file to come; returns the directories to sync once the file is there.

    Raises:
        OSError: the file cannot be put there.
    """
    folders = _make(target.parent, root)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target.parent))
    return folders


def place(root: Path, connection: str, epoch: int, files: Sequence[tuple[Path, Path]], folders: Iterable[Path]) -> None:
    """Renames files to where readers look, durably, replacing older ones of the same name.

    Args:
        files: where they are, and where they go.
        folders: what `make_room` returned for all of them.

    Raises:
        Fenced: a newer holder exists.
        OSError
    """
    if noted_epoch(root, connection) != epoch:
        raise fenced(connection, epoch)
    for aside, target in files:
        try:
            aside.rename(target)
        except FileNotFoundError as error:
            raise fenced(connection, epoch) from error
    for folder in dict.fromkeys(folders):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fenced(connection: str, epoch: int) -> Fenced:
    """Returns the error of a holder that is not the newest."""
    return Fenced(f'connection "{connection}": a loader with a newer epoch than {epoch} holds it; nothing was loaded')


def _make(folder: Path, root: Path) -> list[Path]:
    """Makes a directory and returns the directories whose names must be synced: itself, and the parents of new ones."""
    touched = [folder]
    while folder != root and not folder.exists():
        folder = folder.parent
        touched.append(folder)
    touched[0].mkdir(parents=True, exist_ok=True)
    return touched
