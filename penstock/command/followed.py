"""How a run of a sync is shown while it goes on: on a terminal a bar for each stream, else a line when something changes.

A bar has the rows read, their speed, and where the source tells how many to expect, the share and the time that is left. All goes to
standard error; the result goes to standard output.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from penstock.control.wording import counted
from penstock.terminal.screen import SPEAK_EVERY_SECONDS, Screen
from shared.syncs.records import LOADER, RunRecord, StreamRecord

if TYPE_CHECKING:
    from rich.console import RenderableType

SPEED_SECONDS = 10.0
"""The speed is that of so long."""
SHOWN_ERROR = 60

Seen = Callable[[RunRecord, str], None]
"""Is told how a run is now, and what keeps it from going on beside what its record says; empty: nothing."""


class Speed:
    """Rows a second of one stream, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, at: float, rows: int) -> None:
        """Takes how many rows were read at a time (seconds on any clock)."""
        while self._seen and (self._seen[-1][1] > rows or self._seen[0][0] < at - SPEED_SECONDS):
            if self._seen[-1][1] > rows:  # another attempt began
                self._seen.clear()
            else:
                self._seen.popleft()
        self._seen.append((at, rows))

    @property
    def rows_a_second(self) -> float:
        """The speed now."""
        (began, first), (ends, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ends - began) if ends > began else 0.0


def state_of(record: RunRecord, trouble: str) -> str:
    """Returns what the run as a whole does, for people."""
    if trouble:
        return trouble
    if record.again_at:
        return f"try {record.attempts} begins in {max(0.0, record.again_at - time.time()):.0f} s, after: {record.error}"
    if record.waits not in ("", LOADER):
        return f"held: {record.waits}"
    if record.silent_since:
        return f"nothing came from the connector for {time.time() - record.silent_since:.0f} s"
    return (
        record.status.replace("_", " ") if record.streams or record.status != "running" else "asks the connector for its streams"
    )


def line_of(name: str, of: StreamRecord) -> str:
    """Returns where a stream is, on one line."""
    expected = f" of {of.estimate}" if of.estimate else ""
    parts = [f"{name}: {of.status}", f"{of.rows}{expected} rows read, {of.loaded} loaded"]
    if of.filtered:
        parts.append(f"{of.filtered} filtered")
    if of.dead:
        parts.append(f"{of.dead} dead")
    return ", ".join(parts) + (f": {of.error}" if of.error else "")


@contextlib.contextmanager
def followed(screen: Screen, name: str) -> Iterator[Seen]:
    """Shows a run while the context is open; yields what is told of it."""
    if screen.err.is_terminal:
        with _bars(screen, name) as seen:
            yield seen
    else:
        yield _lines(screen, name)


def _lines(screen: Screen, name: str) -> Seen:
    states: dict[str, str] = {}
    rows: dict[str, int] = {}
    run, spoke = 0, 0.0
    said: object = None

    def seen(record: RunRecord, trouble: str) -> None:
        nonlocal run, said, spoke
        if record.number != run:
            run, spoke = record.number, time.monotonic()
            states.clear()
            rows.clear()
        held = record.waits if record.waits != LOADER else ""
        now = (run, trouble, held, record.again_at, record.silent_since > 0, not record.streams)
        if now != said and record.status == "running":
            said = now
            screen.note(f"{name}: run {record.number}: {state_of(record, trouble)}")
        due = time.monotonic() - spoke >= SPEAK_EVERY_SECONDS
        for stream, of in record.streams.items():
            if of.status != states.get(stream) or (due and of.rows != rows.get(stream)):
                if of.status != "waiting":
                    screen.note(f"{name}: {line_of(stream, of)}")
                states[stream], rows[stream] = of.status, of.rows
        if due:
            spoke = time.monotonic()

    return seen


@contextlib.contextmanager
def _bars(screen: Screen, name: str) -> Iterator[Seen]:
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    speeds: dict[str, Speed] = {}
    styles = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "waiting": "dim"}

    def drawn(record: RunRecord, trouble: str) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for stream, of in record.streams.items():
            speed = speeds.setdefault(stream, Speed())
            speed.note(time.monotonic(), of.rows)
            ends = of.status in ("succeeded", "failed", "cancelled", "read")
            total = float(of.estimate) if of.estimate else (max(1.0, float(of.rows)) if ends else None)
            pulses = total is None and of.status == "running"
            bar = ProgressBar(total=total, completed=min(of.rows, total or 0), width=24, pulse=pulses, style="grey23")
            table.add_row(
                Text(stream), bar, Text(f"{of.rows:,}{f' of {of.estimate:,}' if of.estimate else ''} rows", justify="right"),
                Text("" if ends else f"{speed.rows_a_second:,.0f}/s", justify="right"), Text(f"{of.loaded:,} loaded", justify="right"),
                Text(of.status, style=styles.get(of.status, "")), Text(_left(of, speed) or of.error[:SHOWN_ERROR]),
            )  # fmt: skip
        whole = Table.grid()
        whole.add_row(Text(f"{name}, run {record.number}: {state_of(record, trouble)}", style="bold"))
        whole.add_row(table)
        return whole

    with Live(console=screen.err.console(), auto_refresh=True, refresh_per_second=8, transient=True) as live:

        def seen(record: RunRecord, trouble: str) -> None:
            live.update(drawn(record, trouble))

        yield seen


def _left(of: StreamRecord, speed: Speed) -> str:
    """Returns how long a stream takes still, where the source told how many rows to expect."""
    rate = speed.rows_a_second
    if of.status != "running" or not of.estimate or not rate or of.estimate <= of.rows:
        return ""
    seconds = (of.estimate - of.rows) / rate
    return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def sum_of(record: RunRecord) -> str:
    """Returns how a run ended, in one sentence."""
    why = f": {record.error}" if record.error else ""
    ended = record.status.replace("_", " ")
    return f"run {record.number} {ended} in {record.seconds:.1f} s, {counted(record.rows, 'row')} read{why}"
