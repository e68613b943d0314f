"""What a collector did not take of a batch although it took the rest (https://opentelemetry.io/docs/specs/otlp/#partial-success)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Refused = Callable[[str, int, str], None]
"""Called with a signal, how many of its items the collector did not take, and the collector's words."""

_COUNTS = {"spans": "rejected_spans", "metrics": "rejected_data_points", "logs": "rejected_log_records"}


def note_refused(signal: str, response: Any, refused: Refused) -> None:
    """Tells what a collector did not take of a batch, by its response; the exporters of the SDK leave that unread."""
    partial = response.partial_success
    if count := getattr(partial, _COUNTS[signal]):
        refused(signal, count, partial.error_message)
