"""Exports the lines of the log: the same fields as on standard error, with the trail of the span they were written in."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from shared.telemetry.logs import fields_of
from shared.telemetry.otlp.values import MOST_STACK, sent_text, sent_value
from shared.telemetry.tracing.spans import Trail, Value, current_trail

_SEVERITIES = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARNING": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
    "CRITICAL": SeverityNumber.FATAL,
}
_scope = lru_cache(256)(InstrumentationScope)


class Line(NamedTuple):
    """A line of the log, of values that can be sent: the queue holds no object that changes, and none that is large."""

    at_ns: int
    level: str
    logger: str
    message: str
    fields: dict[str, Value]
    trail: Trail | None


class Handler(logging.Handler):
    """Puts every line into a queue; neither waits nor raises."""

    def __init__(self, put: Callable[[Line], None]) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        try:
            fields = {name: sent_value(value) for name, value in fields_of(record).items() if value is not None}
            if record.exc_info and record.exc_info[0] is not None:
                fields["exception.type"] = record.exc_info[0].__name__
                fields["exception.message"] = sent_text(str(record.exc_info[1]))
                stack = "".join(traceback.format_exception(*record.exc_info))
                fields["exception.stacktrace"] = sent_text(stack[-MOST_STACK:], MOST_STACK)
            line = Line(
                at_ns=int(record.created * 1e9),
                level=record.levelname,
                logger=record.name,
                message=sent_text(record.getMessage(), MOST_STACK),
                fields=fields,
                trail=current_trail(),
            )
            self._put(line)
        except Exception:  # noqa: BLE001  # standard error has the line
            self.handleError(record)


def log_export(resource: Resource, exporter: LogRecordExporter) -> Callable[[list[Line]], bool]:
    """Returns a function that exports lines; it returns whether the collector took them."""

    def export(lines: list[Line]) -> bool:
        batch = [ReadableLogRecord(_record(line), resource, _scope(line.logger)) for line in lines]
        return exporter.export(batch) is LogRecordExportResult.SUCCESS

    return export


def _record(line: Line) -> LogRecord:
    trail = line.trail
    flags = TraceFlags(TraceFlags.SAMPLED if trail is not None and trail.sampled else TraceFlags.DEFAULT)
    context = SpanContext(trail.trace_id, trail.span_id, is_remote=False, trace_flags=flags) if trail else _NOWHERE
    return LogRecord(
        timestamp=line.at_ns,
        observed_timestamp=line.at_ns,
        context=set_span_in_context(NonRecordingSpan(context)),
        severity_text=line.level.lower(),
        severity_number=_SEVERITIES.get(line.level, SeverityNumber.UNSPECIFIED),
        body=line.message,
        attributes=line.fields,
    )


_NOWHERE = SpanContext(0, 0, is_remote=False)
