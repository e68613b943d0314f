"""How many events a key may send at once under a rate. Pure."""

from __future__ import annotations

BURST_SECONDS = 2.0
LEAST_BURST = 100
"""Events that may always come at once: SDKs send batches of up to 100, and a slow key must take these too."""


def burst_of(rate: int) -> int:
    """Returns the most events that a key may send at once; a larger request could never pass."""
    return max(int(rate * BURST_SECONDS), LEAST_BURST)
