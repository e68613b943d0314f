"""Values as OTLP can carry them: none that the encoder refuses, because one such value costs the whole batch, and none that is too long."""

from __future__ import annotations

import msgspec

from shared.telemetry.tracing.spans import Value

MOST_CHARACTERS = 1024
"""Of an attribute. A longer one is cut, so that a batch stays below the 4 MiB that a collector takes by default over gRPC."""
MOST_STACK = 4096
"""Of a traceback: its end."""
_LARGEST = 1 << 63


def sent_text(text: str, most: int = MOST_CHARACTERS) -> str:
    """Returns a text that can be sent: cut, and with `?` for half a surrogate pair, which UTF-8 does not have."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def sent_value(value: object) -> Value:
    """Returns a value that can be sent: a simple one as it is, any other one as JSON, or as Python writes it."""
    if isinstance(value, str):
        return sent_text(value)
    if isinstance(value, bool | float) or (isinstance(value, int) and -_LARGEST <= value < _LARGEST):
        return value
    try:
        return sent_text(msgspec.json.encode(value, enc_hook=str).decode())
    except (UnicodeEncodeError, ValueError, TypeError, OverflowError, RecursionError):
        return sent_text(repr(value))
