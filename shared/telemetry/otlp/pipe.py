"""All that leaves a process by OTLP. A collector cannot slow down the work of the process.

Each signal has a thread of its own. Spans and lines wait in bounded queues; metrics are sums, so the next interval has what the last one
could not send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource

from shared.settings import ServiceSettings
from shared.telemetry.otlp.exporters import exporters
from shared.telemetry.otlp.of_logs import Handler, Line, log_export
from shared.telemetry.otlp.of_metrics import metric_reader
from shared.telemetry.otlp.of_spans import span_export
from shared.telemetry.otlp.outbox import Outbox, Reports, Tally
from shared.telemetry.tracing.spans import Span

_LOUD = ("opentelemetry.exporter", "opentelemetry.sdk")
"""Loggers that write a line for each batch that fails."""


class _Words(logging.Handler):
    """Keeps the last words of the exporters, which `Reports` says once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()[:500]
        if record.exc_info and record.exc_info[1] is not None:
            self.last += f": {record.exc_info[1]}"[:500]


class Pipe:
    """The exports of a process.

    Raises:
        ConfigError: the package that speaks the protocol is not installed.
    """

    def __init__(self, resource: Resource, settings: ServiceSettings, tally: Tally) -> None:
        self._words = _Words()
        self._silenced = [logging.getLogger(name) for name in _LOUD]
        for logger in self._silenced:
            logger.addHandler(self._words)
            logger.propagate = False
        seconds = float(settings.otlp_period)
        reports = {signal: self._reports(signal, tally) for signal in ("spans", "metrics", "logs")}
        made = exporters(settings, lambda signal, items, words: reports[signal].refused(items, words))
        of_spans, of_metrics = reports["spans"], reports["metrics"]
        self._spans: Outbox[Span] = Outbox(
            of_spans, span_export(resource, made.spans), made.spans.shutdown, name="spans", period_seconds=seconds
        )
        self.send_span: Callable[[Span], None] = self._spans.put
        self.lose_span: Callable[[], None] = lambda: of_spans.dropped("limited")
        self.metrics: MetricReader = metric_reader(made.metrics, of_metrics)
        self._logs: Outbox[Line] | None = None
        self._handler: Handler | None = None
        if settings.otlp_logs:
            self._logs = Outbox(
                reports["logs"],
                log_export(resource, made.logs),
                made.logs.shutdown,
                name="logs",
                period_seconds=seconds,
            )
            self._handler = Handler(self._logs.put)
            logging.getLogger().addHandler(self._handler)

    def close(self) -> None:
        """Begins to send the rest."""
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
        for outbox in (self._spans, self._logs):
            if outbox is not None:
                outbox.close()

    def wait(self, ends_at: float) -> None:
        """Waits for the rest, no longer than to a time of the monotonic clock."""
        for outbox in (self._spans, self._logs):
            if outbox is not None:
                outbox.wait(ends_at)
        for logger in self._silenced:  # an export that hangs may have last words
            logger.addHandler(logging.NullHandler())
            logger.removeHandler(self._words)

    def _reports(self, signal: str, tally: Tally) -> Reports:
        return Reports(signal, tally, lambda: self._words.last or "no reason given")
