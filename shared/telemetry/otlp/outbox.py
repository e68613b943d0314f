"""A bounded queue and a thread that empties it: a collector cannot slow down the code that puts something in.

What does not fit, and what the collector did not take, is dropped and counted. The log says once that a signal cannot be exported, and
once that it is again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from shared.telemetry.names import CounterName, GaugeName

T = TypeVar("T")

MOST_ITEMS = 4096
BATCH = 512
HANGS_SECONDS = 30.0
"""An export that takes longer is told as one that fails; the exporters give up after 10, unless told otherwise."""

log = logging.getLogger(__name__)


class Tally(Protocol):
    """The part of `Telemetry` that this module counts with."""

    def count(self, name: CounterName, amount: float = 1, **labels: str) -> None: ...

    def gauge(self, name: GaugeName, value: float, **labels: str) -> None: ...


class Reports:
    """What became of the exports of one signal: metrics, and one line a change.

    The lock is never held while a line is written: the line goes into the queue of lines, which tells its own `Reports` of it.
    """

    def __init__(self, signal: str, tally: Tally, said: Callable[[], str]) -> None:
        self._signal = signal
        self._tally = tally
        self._said = said
        self._failing = False
        self._refused = 0
        """Of the batch that is being sent."""
        self._refuses = False
        """Whether the last batch was refused in part."""
        self._ended = False
        self._lock = threading.Lock()

    def sent(self, items: int) -> None:
        """A batch was taken, but for what `refused` said of it."""
        with self._lock:
            refused, self._refused = min(self._refused, items), 0
            self._tally.count("telemetry_exported_total", items - refused, signal=self._signal)
            if refused:
                self._tally.count("telemetry_dropped_total", refused, signal=self._signal, reason="refused")
            self._refuses = refused > 0
            was = self._turn(failing=False)
        self._say(was, failing=False)

    def refused(self, items: int, words: str) -> None:
        """The collector does not take some of the batch that is being sent; called before `sent`, in the same thread."""
        self._refused += items
        if not self._refuses:
            self._refuses = True
            log.warning("the collector refuses a part", extra={"signal": self._signal, "items": items, "words": words[:500]})

    def failed(self, items: int) -> None:
        """A batch was not taken, and is gone."""
        with self._lock:
            self._refused = 0
            self._tally.count("telemetry_dropped_total", items, signal=self._signal, reason="failed")
            was = self._turn(failing=True)
        self._say(was, failing=True)

    def hangs(self) -> None:
        """An export does not end."""
        with self._lock:
            was = self._failing or self._turn(failing=True)
        self._say(was, failing=True, why=f"an export takes longer than {HANGS_SECONDS:.0f} s")

    def dropped(self, reason: str, items: int = 1) -> None:
        """Something was not put into a batch."""
        with self._lock:
            self._tally.count("telemetry_dropped_total", items, signal=self._signal, reason=reason)

    def end(self) -> None:
        """The process ends: an export that hangs says nothing more."""
        self._ended = True

    def _turn(self, *, failing: bool) -> bool:
        """Notes whether exports fail; returns whether they failed before."""
        was, self._failing = self._failing, failing
        self._tally.gauge("telemetry_export_failing", int(failing), signal=self._signal)
        return was

    def _say(self, was: bool, *, failing: bool, why: str = "") -> None:
        if self._ended:
            return
        if failing and not was:
            log.warning("telemetry cannot be exported", extra={"signal": self._signal, "error": why or self._said()})
        elif was and not failing:
            log.info("telemetry is exported again", extra={"signal": self._signal})


class Outbox(Generic[T]):
    """The queue of one signal.

    Args:
        export: sends a batch, in the thread; returns whether it was taken. It has a time limit of its own.
        shut: makes `export` return soon.
        period_seconds: the longest wait of an item, while the collector takes batches.
    """

    def __init__(
        self,
        reports: Reports,
        export: Callable[[list[T]], bool],
        shut: Callable[[], None],
        *,
        name: str,
        period_seconds: float,
        most: int = MOST_ITEMS,
    ) -> None:
        self._reports = reports
        self._export = export
        self._shut = shut
        self._period_seconds = period_seconds
        self._most = most
        self._items: deque[T] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._began = 0.0
        """When the present export began; 0 between two."""
        self._thread = threading.Thread(target=self._run, name=f"otlp-{name}", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Takes an item, or drops it; called from any thread."""
        if (began := self._began) and time.monotonic() - began > HANGS_SECONDS:
            self._reports.hangs()
        if self._closing or len(self._items) >= self._most:
            self._reports.dropped("full")
            return
        self._items.append(item)
        if len(self._items) >= BATCH:
            self._wake.set()

    def close(self) -> None:
        """Begins to send the rest; `wait` for it."""
        self._closing = True
        self._wake.set()

    def wait(self, ends_at: float) -> None:
        """Waits for the rest until a time of the monotonic clock, at the latest."""
        self._thread.join(max(0.0, ends_at - time.monotonic()))
        self._reports.end()
        self._shut()
        if left := len(self._items):
            self._items.clear()
            self._reports.dropped("stopped", left)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._period_seconds)
            self._wake.clear()
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._items:
            batch = [self._items.popleft() for _ in range(min(BATCH, len(self._items)))]
            self._began = time.monotonic()
            try:
                taken = self._export(batch)
            except Exception:  # an exporter must not end the thread
                log.debug("an exporter raised", exc_info=True)
                taken = False
            self._began = 0.0
            if taken:
                self._reports.sent(len(batch))
            else:
                self._reports.failed(len(batch))
