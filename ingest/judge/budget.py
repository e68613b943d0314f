"""The budget of one request for slow work, and how many events it may have. Pure.

Reading almost-JSON builds every value, at about 0.1 µs a byte. So all events of a request together may have a bounded number of
bytes of it. An event beyond the budget is rejected, not lost: a replay judges it again with a new budget.
"""

from __future__ import annotations

LENIENT_BYTES = 512 * 1024
"""More than the largest batch that Segment's own SDKs send."""

BURST_SECONDS = 2.0
LEAST_BURST = 100
"""Events that may always come at once: SDKs send batches of up to 100, and a slow key must take these too."""


def burst_of(rate: int) -> int:
    """Returns the most events that a key may send at once; a larger request could never pass."""
    return max(int(rate * BURST_SECONDS), LEAST_BURST)


class Budget:
    """The remaining budget of one request."""

    __slots__ = ("lenient_bytes",)

    def __init__(self) -> None:
        self.lenient_bytes = LENIENT_BYTES

    def takes(self, size: int) -> bool:
        """Spends `size` bytes of lenient reading; False, and spends nothing, if the request has too little left."""
        if size > self.lenient_bytes:
            return False
        self.lenient_bytes -= size
        return True
