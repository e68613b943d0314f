"""The logs of a local stack for people: lines of all its processes in the order of time, and new ones as they come."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shared.errors import ConfigError, Problem

POLL_SECONDS = 0.2
LEVELS = ("debug", "info", "warning", "error")
SUPERVISOR = "supervisor"
"""Its log holds what `penstock up` prints; what concerns processes begins with time and level (`penstock/command/foreground.py`)."""
_OWN = ("at", "level", "message", "service", "logger", "exception")
_NATS = re.compile(r"\[\d+\] (\d{4})/(\d\d)/(\d\d) ([\d:.]+) \[(\w+)\] (.*)", re.DOTALL)
_TOLD = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) (info|warning|error) +(.*)", re.DOTALL)
_NATS_LEVELS = {"ERR": "error", "FTL": "error", "WRN": "warning", "DBG": "debug", "TRC": "debug"}


class Line(NamedTuple):
    """One line of a log. `at`: ISO 8601 in UTC; empty where the line does not say."""

    at: str
    process: str
    level: str
    text: str


def logs_of(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Returns the log files of processes by name; all where none is named.

    Raises:
        ConfigError: a name has no log.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.log"))}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError([Problem("logs", f"no log of {unknown[0]!r} in {folder}; there are: {', '.join(known) or 'none'}")])
    return {name: known[name] for name in names or known}


def last_lines(logs: dict[str, Path], count: int, least: str) -> list[Line]:
    """Returns the newest `count` lines of all logs together that are at least of level `least`, the oldest first."""
    found: list[list[Line]] = []
    for name, path in logs.items():
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        lines = [read_line(name, line) for line in text.splitlines() if line.strip()]
        found.append(_timed([line for line in lines if reaches(line, least)])[-count:])
    return list(heapq.merge(*found, key=lambda line: line.at))[-count:] if count else []


def follow(logs: dict[str, Path], least: str, ended: Callable[[], bool]) -> Iterator[Line]:
    """Yields new lines until `ended`; a log that was rotated is read on from its new beginning."""
    places = {name: path.stat().st_size if path.exists() else 0 for name, path in logs.items()}
    rests = dict.fromkeys(logs, b"")
    while not ended():
        quiet = True
        for name, path in logs.items():
            size = path.stat().st_size if path.exists() else 0
            if size < places[name]:
                places[name], rests[name] = 0, b""
            if size == places[name]:
                continue
            with path.open("rb") as file:
                file.seek(places[name])
                fresh = rests[name] + file.read()
                places[name] = file.tell()
            *whole, rests[name] = fresh.split(b"\n")
            for raw in whole:
                line = read_line(name, raw.decode(errors="replace"))
                if raw.strip() and reaches(line, least):
                    quiet = False
                    yield line
        if quiet:
            time.sleep(POLL_SECONDS)


def read_line(process: str, raw: str) -> Line:
    """Returns a line as people read it: JSON of our services in words, all else as it is."""
    if process == SUPERVISOR and (told := _TOLD.fullmatch(raw)):
        day, clock, level, text = told.groups()
        return Line(f"{day}T{clock}Z", process, level.lower(), text)
    try:
        fields: Any = msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        found = _NATS.fullmatch(raw)
        if found is None:
            return Line("", process, "info", raw)
        year, month, day, clock, mark, text = found.groups()
        return Line(f"{year}-{month}-{day}T{clock}Z", process, _NATS_LEVELS.get(mark, "info"), text)
    if not isinstance(fields, dict):
        return Line("", process, "info", raw)
    rest = " ".join(f"{key}={_shown(value)}" for key, value in fields.items() if key not in _OWN and value is not None)
    text = f"{fields.get('message', '')}  {rest}".strip()
    if fields.get("exception"):
        text += f"\n{fields['exception']}"
    return Line(str(fields.get("at", "")), process, str(fields.get("level", "info")), text)


def reaches(line: Line, least: str) -> bool:
    """Whether a line is at least of a level."""
    return LEVELS.index(line.level if line.level in LEVELS else "info") >= LEVELS.index(least)


def _timed(lines: list[Line]) -> list[Line]:
    """Gives a line without a time that of the line before it, so that a traceback stays with what it explains."""
    at = ""
    timed: list[Line] = []
    for line in lines:
        at = line.at or at
        timed.append(line._replace(at=at))
    return timed


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f'"{text}"' if " " in text else text
