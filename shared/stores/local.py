"""A directory as an object store: only the newest holder puts files in place, each whole.

    <root>/_penstock/<owner>/epoch      the newest epoch
    <root>/_penstock/<owner>/<epoch>/   its files on their way; removed by the next

A file is written aside, synced, and renamed into its place. A holder whose directory was removed finds nothing to rename. That is
the fence. It holds even for a holder that was frozen between its last look at the epoch and the rename; only renames that it had
begun can still happen.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from shared.errors import NotConnected, PenstockError, SetupError, unknown
from shared.stores.contract import PRIVATE, Entry, KeyRefused, Place, fenced, is_private
from shared.threads import Stop, ThreadGate

P = ParamSpec("P")
T = TypeVar("T")

_OF_A_KEY = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
"""Raised for a fault of one directory below the root."""


class LocalStore:
    """A directory.

    Args:
        root: made by the first writer.
        gate: for all that blocks.
        what: its name in messages, such as `local destination "lake"`.
    """

    def __init__(self, root: Path, gate: ThreadGate, what: str) -> None:
        self._root = root
        self._gate = gate
        self._what = what

    async def put(self, key: str, data: bytes) -> None:
        def put() -> None:
            home = self._root / PRIVATE
            home.mkdir(parents=True, exist_ok=True)
            target = self._root / key
            folders = _make(target.parent, self._root)
            aside = home / f"{os.getpid()}-{id(data)}.part"
            with _create(aside) as output:
                output.write(data)
            aside.rename(target)
            for folder in folders:
                _sync_folder(folder)

        await self._run(f"writing {key}", put)

    async def get(self, key: str) -> bytes | None:
        def get() -> bytes | None:
            try:
                return (self._root / key).read_bytes()
            except FileNotFoundError:
                return None

        return await self._run(f"reading {key}", get)

    async def list(self, prefix: str) -> list[Entry]:
        def list_() -> list[Entry]:
            files = (path for path in (self._root / prefix.rpartition("/")[0]).rglob("*") if path.is_file())
            keys = ((path.relative_to(self._root).as_posix(), path) for path in files)
            wanted = [(key, path) for key, path in keys if key.startswith(prefix) and not is_private(key)]
            return sorted(entry for key, path in wanted if (entry := _entry(key, path)) is not None)

        return await self._run(f"listing {prefix}", list_)

    async def walk(self, prefix: str) -> AsyncIterator[builtins.list[Entry]]:
        """Yields the files of one directory after the other."""
        folders = os.walk(self._root / prefix.rpartition("/")[0])
        while (found := await self._run(f"listing {prefix}", next, folders, None)) is not None:
            keys = [
                ((Path(found[0]) / name).relative_to(self._root).as_posix(), Path(found[0]) / name) for name in sorted(found[2])
            ]
            entries = await self._run(
                f"listing {prefix}", lambda keys: [entry for key, path in keys if (entry := _entry(key, path))], keys
            )
            yield [entry for entry in entries if entry.key.startswith(prefix) and not is_private(entry.key)]

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes objects, and directories that are then empty."""

        def delete() -> None:
            for key in keys:
                file = self._root / key
                file.unlink(missing_ok=True)
                folder = file.parent
                while folder != self._root and folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
                    folder = folder.parent

        await self._run("removing files", delete)

    async def claim(self, owner: str, epoch: int) -> LocalArea:
        aside = await self._run("opening it", _claim, self._root, owner, epoch)
        return LocalArea(root=self._root, aside=aside, owner=owner, epoch=epoch, gate=self._gate, what=self._what)

    def locate(self, key: str) -> Place:
        """Returns where other programs on this machine find an object."""
        path = self._root / key
        return Place(path.as_uri(), str(path))

    async def forget(self, owner: str) -> None:
        await self._run("removing its notes", shutil.rmtree, self._root / PRIVATE / owner, True)

    async def close(self) -> None:
        """Closes nothing: no file is open between calls."""

    async def _run(self, doing: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._gate.run(call, *args, **kwargs)
        except OSError as error:
            raise translate(error, f"{self._what}: {doing}") from error


class LocalArea:
    """A holder's directory of files on their way. See `Area`."""

    def __init__(self, root: Path, aside: Path, owner: str, epoch: int, gate: ThreadGate, what: str) -> None:
        self._root = root
        self._aside = aside
        self._owner = owner
        self._epoch = epoch
        self._gate = gate
        self._what = what
        self._staged: list[tuple[Path, Path]] = []
        self._folders: list[Path] = []

    async def stage(self, key: str, write: Callable[[IO[bytes]], object]) -> int:
        aside, target = self._aside / f"{len(self._staged)}.part", self._root / key
        self._staged.append((aside, target))
        try:
            return await self._gate.run(self._stage, aside, target, write)
        except OSError as error:
            raise translate(error, f"{self._what}: writing") from error

    async def publish(self) -> None:
        stop = Stop()
        try:
            await self._gate.run_interruptible(stop.set, self._place, stop)
        except OSError as error:
            raise translate(error, f"{self._what}: publishing") from error
        self._staged, self._folders = [], []

    async def discard(self) -> None:
        staged, self._staged, self._folders = self._staged, [], []

        def discard() -> None:
            for aside, _ in staged:
                try:
                    aside.unlink(missing_ok=True)
                except OSError:
                    continue  # the next holder removes the whole directory

        if staged:
            await self._gate.run(discard)

    def _stage(self, aside: Path, target: Path, write: Callable[[IO[bytes]], object]) -> int:
        try:
            with _create(aside) as output:
                write(output)
            size = aside.stat().st_size
        except FileNotFoundError as error:
            if self._aside.is_dir():
                raise
            raise self._gone(error) from error
        try:
            self._folders += _make_room(target, self._root)
        except OSError as error:
            if error.errno not in _OF_A_KEY or not os.access(self._root, os.W_OK | os.X_OK):
                raise
            raise KeyRefused(
                f"{error.strerror} ({error.filename}); let this user write there, and remove files that are in the way"
            ) from error
        return size

    def _place(self, stop: Stop) -> None:
        stop.check()
        if _noted_epoch(self._root, self._owner) > self._epoch:
            raise fenced(self._owner, self._epoch)
        for aside, target in self._staged:
            try:
                aside.rename(target)
            except FileNotFoundError as error:
                raise self._gone(error) from error
        for folder in dict.fromkeys(self._folders):
            _sync_folder(folder)

    def _gone(self, error: FileNotFoundError) -> PenstockError:
        """Returns why a directory is not there any more: a newer holder removed this one's, or a person did."""
        if _noted_epoch(self._root, self._owner) > self._epoch:
            return fenced(self._owner, self._epoch)
        return NotConnected(
            f"{self._what}: a directory was removed while files were written ({error.filename2 or error.filename}); it is made again. "
            "If a disk belongs there, mount it"
        )


def translate(error: BaseException, what: str) -> PenstockError:
    """Returns our error for an error of the file system."""
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return SetupError(f"{what}: {error.strerror or error}{where}; check `path`, its permissions and the space on its disk")
    return unknown(error, f"{what}: {type(error).__name__}: {error}")


def _entry(key: str, path: Path) -> Entry | None:
    """Returns an object of a list; None if another process has removed it meanwhile."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Entry(key, found.st_size, found.st_mtime)


def _claim(root: Path, owner: str, epoch: int) -> Path:
    home = root / PRIVATE / owner
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = _noted_epoch(root, owner)
        if newest > epoch:
            raise fenced(owner, epoch, newest)
        note = home / "epoch.new"
        with _create(note) as output:
            output.write(str(epoch).encode())
        note.rename(home / "epoch")
        _sync_folder(home)
        for entry in home.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
        aside = home / str(epoch)
        aside.mkdir()
    return aside


def _noted_epoch(root: Path, owner: str) -> int:
    """Returns the newest epoch of an owner, -1 if it never had one.

    Raises:
        SetupError: the note is damaged.
    """
    note = root / PRIVATE / owner / "epoch"
    try:
        text = note.read_bytes()
    except FileNotFoundError:
        return -1
    if not text.isdigit():
        raise SetupError(f"{note} is damaged, so no loader can tell who may write here; remove it if no other loader writes here")
    return int(text)


@contextmanager
def _create(path: Path) -> Iterator[IO[bytes]]:
    """Opens a new file for writing; on leaving it is on the disk."""
    with path.open("wb") as output:
        yield output
        output.flush()
        os.fsync(output.fileno())


def _make_room(target: Path, root: Path) -> list[Path]:
    """Makes the directory of a new file; returns the directories to sync once the file is there.

    Raises:
        OSError: the file cannot be put there.
    """
    folders = _make(target.parent, root)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target.parent))
    return folders


def _make(folder: Path, root: Path) -> list[Path]:
    """Makes a directory and returns the directories whose names must be synced: itself, and the parents of new ones."""
    touched = [folder]
    while folder != root and not folder.exists():
        folder = folder.parent
        touched.append(folder)
    touched[0].mkdir(parents=True, exist_ok=True)
    return touched


def _sync_folder(folder: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
