"""The budget of one request for slow work. Pure.

Reading almost-JSON builds every value, at about 0.1 µs a byte. So all events of a request together may have a bounded number of
bytes of it. An event beyond the budget is rejected, not lost: a replay judges it again with a new budget.
"""

from __future__ import annotations

LENIENT_BYTES = 512 * 1024
"""More than the largest batch that Segment's own SDKs send."""


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
