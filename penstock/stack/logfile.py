"""Log files of the stack's processes: rotated by size while they are written to, and read for the last thing a process said.

A process holds its log open for appending, so the file cannot be renamed under it: it is copied and emptied, and the next line
lands at its start. A line written in the instant between copy and emptying is lost; logs are for people.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import msgspec

MAX_BYTES = 10 * 1024 * 1024
KEEP = 3


def rotate(log: Path, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> bool:
    """Moves the content of a log that has grown beyond `max_bytes` to `<log>.1`, older ones one further; True if it did."""
    try:
        if log.stat().st_size <= max_bytes:
            return False
        for number in range(keep, 1, -1):
            older = log.with_name(f"{log.name}.{number - 1}")
            if older.exists():
                older.replace(log.with_name(f"{log.name}.{number}"))
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        with log.open("r+b") as file:
            file.truncate(0)
    except OSError:  # a full disk must not end the supervisor
        return False
    return True


def last_words(log: Path) -> str:
    """Returns the message of the last line of a log, with its error where it has one; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    for line in reversed(lines):
        if not line:
            continue
        with contextlib.suppress(msgspec.MsgspecError):
            fields = msgspec.json.decode(line)
            if isinstance(fields, dict):
                if fields.get("level") == "info" and fields.get("message") in ("draining", "stopped"):
                    continue
                return ": ".join(str(fields[key]) for key in ("message", "error") if fields.get(key))
        return line
    return ""
