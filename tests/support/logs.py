"""Logs of the processes that tests start. A test that fails reports how those end that were written to while it ran.

`note` tells of a log when its process starts; `tests/conftest.py` puts `told` into the report of a test that fails, first `gist`, which is short
enough to be read where only a part of the output is kept.
"""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

GIST = "last trouble in the logs"
LINES = 30
GIST_LINES = 12
GIST_WIDTH = 240
MOST_FILES = 300
_BYTES = 64_000
_TROUBLE = re.compile(
    r"\b(warning|WARNING|error|ERROR|critical|FATAL|PANIC|panic)\b|\[(WRN|ERR|FTL)\]|^[\w.]+(Error|Exception|Lost)\b"
)
_USUAL = re.compile(r"\[WRN\] (Maximum payloads|Healthcheck failed)")
"""Said at each start of a broker."""
_TIME = re.compile(r"\b(\d\d:\d\d:\d\d)")
_files: dict[Path, str] = {}


def note(name: str, path: Path) -> None:
    """Tells where a process writes its log; of a folder, all logs in it."""
    _files.pop(path, None)
    _files[path] = name
    if len(_files) > MOST_FILES:
        del _files[next(iter(_files))]


def end_of(path: Path, lines: int = LINES) -> str:
    """Returns the last lines of a file, an empty text if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _BYTES))
            return "\n".join(deque(file.read().decode(errors="replace").splitlines(), lines))
    except OSError:
        return ""


def told(since: float) -> list[tuple[str, str]]:
    """Returns the gist, and the end of each log that was written to.

    Args:
        since: epoch seconds.
    """
    files = [found for path, name in reversed(_files.items()) for found in _logs_of(name, path)]
    ends = [(name, str(path), end_of(path)) for name, path in files if _written_since(path, since)]
    found = [(f"end of the log of {name}, {path}", text) for name, path, text in ends if text]
    return [(GIST, short), *found] if (short := gist([(name, text) for name, _, text in ends])) else found


def gist(ends: list[tuple[str, str]]) -> str:
    """Returns the last lines of all logs that tell of trouble, by their time, each once."""
    lines: dict[str, str] = {}
    for name, text in ends:
        at = ""
        for line in text.splitlines():
            clock = _TIME.search(line)
            at = clock[1] if clock else at
            if _TROUBLE.search(line) and not _USUAL.search(line):
                lines[f"{name}: {line}"[:GIST_WIDTH]] = at
    return "\n".join(sorted(lines, key=lines.__getitem__)[-GIST_LINES:])


def _logs_of(name: str, path: Path) -> list[tuple[str, Path]]:
    return [(each.stem, each) for each in sorted(path.glob("*.log"))] if path.is_dir() else [(name, path)]


def _written_since(path: Path, since: float) -> bool:
    try:
        return path.stat().st_mtime >= since
    except OSError:
        return False
