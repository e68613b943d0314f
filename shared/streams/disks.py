"""How full the disks are that a process writes to. Every process says it in its report, because no other may see them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

PATIENCE_SECONDS = 2.0


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk: the part that is taken, of its bytes or of its files (the larger part), and what is kept there."""

    ratio: float
    free_bytes: int
    used_for: list[str] = []


class DiskWatch:
    """Looks at disks without waiting for one that hangs, such as a network's: what was known of them before stays."""

    def __init__(self) -> None:
        self._known: dict[str, Disk] = {}
        self._looking: asyncio.Future[dict[str, Disk]] | None = None

    async def look(self, folders: Mapping[str, str]) -> dict[str, Disk]:
        """Returns the disks of folders, as `disks_of` does."""
        if not folders:
            return {}
        if self._looking is None:
            self._looking = asyncio.get_running_loop().run_in_executor(None, disks_of, dict(folders))
        await asyncio.wait([self._looking], timeout=PATIENCE_SECONDS)
        if self._looking.done():
            self._known, self._looking = self._looking.result(), None
        return self._known


def disks_of(folders: Mapping[str, str]) -> dict[str, Disk]:
    """Returns the disks of folders, by the place where they are mounted. Blocks. A folder that is not there yet is on its parent's.

    Args:
        folders: by the purpose that each serves.
    """
    found: dict[str, Disk] = {}
    for purpose, folder in folders.items():
        try:
            place = _mount(Path(folder))
            told = os.statvfs(place)
        except OSError:
            continue
        before = found.get(str(place))
        used_for = sorted({*(before.used_for if before is not None else ()), purpose})
        # as `df` counts: what only root may use is taken
        taken = told.f_blocks - told.f_bfree
        room = taken + told.f_bavail
        ratio = taken / room if room else 0.0
        if told.f_files:
            ratio = max(ratio, 1 - told.f_favail / told.f_files)
        found[str(place)] = Disk(ratio=round(ratio, 3), free_bytes=told.f_bavail * told.f_frsize, used_for=used_for)
    return found


def _mount(folder: Path) -> Path:
    place = Path(os.path.realpath(folder))
    while not place.exists() or not os.path.ismount(place):
        if place == place.parent:
            break
        place = place.parent
    return place
