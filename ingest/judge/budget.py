"""What one request may cost beyond the fast path. Pure.

Reading almost-JSON builds every value, at about 0.1 µs a byte; so a request may ask for a bounded number of bytes of it, all its
events together. An event beyond the budget is rejected, not lost: a replay judges it again with a budget of its own.
"""

from __future__ import annotations

LENIENT_BYTES = 512 * 1024
"""More than the largest batch that Segment's own SDKs send."""


class Budget:
    """The slow work one request has left."""

    __slots__ = ("lenient_bytes",)

    def __init__(self) -> None:
        self.lenient_bytes = LENIENT_BYTES

    def takes(self, size: int) -> bool:
        """Spends `size` bytes of lenient reading; False where the request has too little left, which spends nothing."""
        if size > self.lenient_bytes:
            return False
        self.lenient_bytes -= size
        return True
