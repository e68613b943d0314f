"""The journal's files in their folder: appends, syncs, ends, reads and removes them. Blocks; for one thread at a time.

`00000001.journal` and so on hold records (`ingest/journal/records.py`). A `.published` beside each notes the published records.
The next file is opened early, as `ahead`, so that the journal takes records when the process has no descriptor left. A file ends
when it is large, when it must be emptied, and after a failed write; then it waits in `closed`, the oldest first.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from ingest.journal.records import (
    Contents,
    Record,
    encode_head,
    encode_mark,
    encode_record,
    frame_content,
    new_salt,
    read_marks,
    read_records,
)

AHEAD = "ahead"
PROBE = "probe"
PROBE_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class _Open:
    """The file in use; `size` is its synced part."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.salt = new_salt()
        self.size = 0


class Closed(NamedTuple):
    """A file that waits to be emptied."""

    path: Path
    size: int


class JournalFiles:
    """The files of one folder."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._number = max((int(path.stem) for path in folder.iterdir() if path.stem.isdecimal()), default=0)
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._active: _Open | None = None
        self._ahead: _Open | None = None
        self._published: dict[Path, set[int]] = {}
        """The published part of a file, also if noting it on disk failed."""
        self.attempted: dict[Path, float] = {}
        """Files that an earlier process began to publish, and the time of its last note (epoch)."""
        self.closed: deque[Closed] = deque()
        self._closed_bytes = 0
        for path in sorted(folder.glob("*.journal")):
            size = path.stat().st_size
            if size:
                self.closed.append(Closed(path, size))
                self._closed_bytes += size
            else:
                path.unlink()
        (folder / AHEAD).unlink(missing_ok=True)
        for path in folder.glob("*.published"):
            if path.with_suffix(".journal").exists():
                self.attempted[path.with_suffix(".journal")] = path.stat().st_mtime
            else:
                path.unlink()

    @property
    def active_bytes(self) -> int:
        """The size of the file in use."""
        active = self._active
        return active.size if active else 0

    @property
    def stored_bytes(self) -> int:
        """The size of all files."""
        return self.active_bytes + self._closed_bytes

    def probe(self) -> None:
        """Writes a file and removes it.

        Raises:
            OSError: the disk takes no bytes.
        """
        path = self._folder / PROBE
        try:
            with path.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)

    def open_ahead(self) -> None:
        """Opens the next file, if it is not open.

        Raises:
            OSError: it cannot be opened; records go to the file in use, if there is one.
        """
        if self._ahead is not None:
            return
        path = self._folder / AHEAD
        self._ahead = _Open(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600))

    def append(self, contents: Sequence[bytes]) -> None:
        """Appends encoded records and syncs them, or leaves the file as it was.

        Raises:
            OSError: nothing was stored.
        """
        active = self._active or self._begin()
        with contextlib.suppress(OSError):
            self.open_ahead()
        parts = [] if active.size else [encode_head(active.salt)]
        size = active.size + sum(map(len, parts))
        for content in contents:
            parts.append(frame_content(content, active.salt, size))
            size += len(parts[-1])
        try:
            view = memoryview(b"".join(parts))
            while view:
                view = view[os.write(active.descriptor, view) :]
            os.fsync(active.descriptor)
        except OSError:
            # after a failed sync the kernel may have dropped pages: this file takes no more
            with contextlib.suppress(OSError):
                os.ftruncate(active.descriptor, active.size)
                os.fsync(active.descriptor)
            self._end(active)
            raise
        active.size = size
        if size >= self._segment_bytes and self._ahead is not None:
            self._end(active)

    def end_active(self) -> None:
        """Ends the file that takes records, so that it can be emptied.

        Raises:
            OSError: the next one cannot be opened; this file stays in use.
        """
        if self._active is not None and self._active.size:
            self.open_ahead()
            self._end(self._active)

    def read(self, path: Path) -> tuple[Contents, Collection[int]]:
        """Returns the content of a file, and the offsets of its published records.

        Raises:
            OSError: it cannot be read.
        """
        contents = read_records(path.read_bytes())
        published = self._published.setdefault(path, set())
        with contextlib.suppress(FileNotFoundError):
            published |= read_marks(path.with_suffix(".published").read_bytes(), contents.salt)
        return contents, published

    def note_published(self, path: Path, salt: bytes, offsets: Sequence[int]) -> None:
        """Remembers durably that records are published.

        Raises:
            OSError: the note is lost when the process ends.
        """
        self._published.setdefault(path, set()).update(offsets)
        notes = path.with_suffix(".published")
        is_new = not notes.exists()
        _append(notes, b"".join(encode_mark(offset, salt) for offset in offsets))
        if is_new:
            os.fsync(self._descriptor)

    def note_begun(self, path: Path) -> None:
        """Remembers durably that records of a file may be published.

        Raises:
            OSError: the note is not on disk.
        """
        if not path.with_suffix(".published").exists():
            self.note_published(path, b"", [])

    def keep_refused(self, path: Path, record: Record) -> None:
        """Keeps a record that cannot be published, for an operator.

        Raises:
            OSError: it is not kept.
        """
        kept = path.with_suffix(".refused")
        data = kept.read_bytes() if kept.exists() else b""
        salt = read_records(data).salt
        if not salt:
            salt = new_salt()
            _append(kept, encode_head(salt))
            data = encode_head(salt)
        _append(kept, encode_record(record, salt, len(data)))

    def put_away(self, contents: Contents) -> None:
        """Removes the oldest file, once all of its records are published; keeps it under another name if it is damaged.

        Raises:
            OSError: it is still there.
        """
        path = self.closed[0].path
        if contents.damaged:
            log.error("journal file is damaged, kept for inspection", extra={"path": str(path), "bytes": contents.damaged})
            path.rename(path.with_suffix(".damaged"))
        else:
            path.unlink()
        self.forget_oldest()

    def forget_oldest(self) -> None:
        """Forgets the oldest file, which no longer exists."""
        path, size = self.closed.popleft()
        self._closed_bytes -= size
        self._published.pop(path, None)
        self.attempted.pop(path, None)
        # the notes go last: if a power failure brings the file back, they show that it is published
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
            path.with_suffix(".published").unlink()

    def close(self) -> None:
        """Closes the open files; stored records stay."""
        for each in (self._active, self._ahead):
            if each is not None:
                self._end(each)
        os.close(self._descriptor)

    def _begin(self) -> _Open:
        self.open_ahead()
        active = self._ahead
        assert active is not None  # noqa: S101  # for the type checker
        path = self._folder / f"{self._number + 1:08d}.journal"
        active.path.rename(path)
        active.path = path
        self._number += 1
        self._active, self._ahead = active, None
        try:
            os.fsync(self._descriptor)
        except OSError:
            self._end(active)
            raise
        return active

    def _end(self, file: _Open) -> None:
        os.close(file.descriptor)
        if file.size:  # first: a reader must not take the journal for empty meanwhile
            self.closed.append(Closed(file.path, file.size))
            self._closed_bytes += file.size
        else:
            with contextlib.suppress(OSError):
                file.path.unlink()
        if file is self._active:
            self._active = None
        else:
            self._ahead = None


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Makes a folder and the folders above it, so that they survive a power failure.

    Raises:
        OSError: it cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, *(each.parent for each in missing)):
        descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
