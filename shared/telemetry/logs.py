"""Structured logs: one event a line, a constant message and fields beside it, on standard error.

`log.info("batch loaded", extra={"connection": "shop-wh", "rows": 100})` becomes one JSON object, or a readable line when
`log_format` is text. info = life cycle, warning = recovered, error = a person must act. Nothing per event above debug.
`bind` adds fields to every line that the current task and its children write. A line that is written in a span names its trace and span.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime

import msgspec

from shared.telemetry.tracing.spans import current_trail

OWN = ("connector_runner", "functions_runtime", "ingest", "loader", "penstock", "router", "shared")
"""Packages whose loggers follow the level that an operator chooses; others say nothing below info."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_bound: ContextVar[dict[str, object] | None] = ContextVar("log_fields", default=None)


def configure(service: str, level: str, form: str) -> None:
    """Sends all logs of this process to standard error in the chosen form (`json` or `text`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if form == "text" else _Json(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    own = logging.getLevelNamesMapping()[level.upper()]
    # below info, drivers tell what they send: botocore the session token, for one
    root.setLevel(max(own, logging.INFO))
    for package in OWN:
        logging.getLogger(package).setLevel(own)
    # nats-py logs each failed attempt to connect with a traceback; our broker says once that the connection is gone
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


@contextlib.contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Adds fields to every line written inside."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Returns the fields of a line, bound ones among them."""
    own = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return {**(_bound.get() or {}), **own}


class _Json(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if (trail := current_trail()) is not None:
            line["trace_id"], line["span_id"] = f"{trail.trace_id:032x}", f"{trail.span_id:016x}"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return self._encode(line).decode()
        except (UnicodeEncodeError, OverflowError):  # half a surrogate pair, which a client may send escaped
            return json.dumps(line, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{key}={value}" for key, value in fields_of(record).items())
        line = f"{at} {record.levelname.lower():7} {record.name}: {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
