"""The time of an event, in the forms that services want. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from shared.events.event import JSON, micros, read_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def happened(event: JSON, at: float) -> datetime:
    """Returns the event's time, else the time of receipt, else `at` (epoch seconds)."""
    for key in ("timestamp", "receivedAt"):
        value = event.get(key)
        found = value if isinstance(value, datetime) else read_time(value)
        if found is not None:
            return found
    return _EPOCH + timedelta(seconds=at)


def iso(moment: datetime) -> str:
    """Returns RFC 3339 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(moment: datetime) -> int:
    """Returns whole seconds since 1970."""
    return micros(moment) // 1_000_000


def millis(moment: datetime) -> int:
    """Returns milliseconds since 1970."""
    return micros(moment) // 1_000


def age(moment: datetime, at: float) -> float:
    """Returns the seconds from a moment to `at` (epoch seconds)."""
    return at - micros(moment) / 1e6


def as_ulid(moment: datetime, key: str) -> str:
    """Returns a ULID of a moment and an id, the same for the same (https://github.com/ulid/spec)."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:10]
    whole = (millis(moment) & (1 << 48) - 1) << 80 | int.from_bytes(digest, "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[whole >> shift & 31] for shift in range(125, -1, -5))
