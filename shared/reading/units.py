"""Durations and sizes as people write them: `5m`, `1h30m`, `250ms`, `64MiB`, `2 MB`, or a bare number.

A `Duration` is a float of seconds and a `ByteSize` an int of bytes, so that code computes with them directly; they exist as
types so that the project file can be decoded and its JSON Schema generated (`shared/reading/decode.py`).
"""

from __future__ import annotations

import re

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", re.IGNORECASE)
_SIZE_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


class Duration(float):
    """Seconds."""

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Reads `"1h30m"` or a number of seconds.

        Raises:
            ValueError: not a duration; says what one looks like.
        """
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str):
            parts = list(_DURATION_PART.finditer(value.strip()))
            if not parts or "".join(part.group(0) for part in parts) != value.strip():
                raise ValueError(f"expected a duration like 500ms, 30s, 5m, 1h30m or 7d, got {value!r}")
            seconds = sum(float(part.group(1)) * _DURATION_UNITS[part.group(2).lower()] for part in parts)
        else:
            raise ValueError(f"expected a duration like 500ms, 30s, 5m, 1h30m or 7d, got {value!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"expected a duration of zero or more, got {value!r}")
        return cls(seconds)


class ByteSize(int):
    """Bytes."""

    @classmethod
    def parse(cls, value: object) -> ByteSize:
        """Reads `"64MiB"` or a number of bytes.

        Raises:
            ValueError: not a size; says what one looks like.
        """
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        unit = _SIZE_UNITS.get(match.group(2).lower()) if match else None
        if match is None or unit is None:
            raise ValueError(f"expected a size like 512KiB, 64MiB or 1GB, got {value!r}")
        return cls(int(float(match.group(1)) * unit))
