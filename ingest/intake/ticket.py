"""A submission to the packer, and how its submitter hears of its end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from shared.telemetry.tracing.spans import Trail


class Ticket(ABC):
    """A submission. `settle` is called once: when all its events are durable, or when one of its frames is not."""

    __slots__ = ("frames", "over", "trail")

    def __init__(self, trail: Trail | None = None) -> None:
        self.frames = 0
        """Number of unsent frames with its events."""
        self.over = False
        self.trail = trail
        """Its request's place in a trace that is sampled."""

    @abstractmethod
    def settle(self, failure: Exception | None) -> None:
        """Tells the submitter. Called from the loop for hundreds in a row, so it neither waits nor raises."""


class FutureTicket(Ticket):
    """A submission that a task awaits."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None], trail: Trail | None = None) -> None:
        super().__init__(trail)
        self.future = future

    def settle(self, failure: Exception | None) -> None:
        if self.future.done():  # cancelled
            return
        if failure is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(failure)
