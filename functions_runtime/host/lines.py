"""What functions log, for people who watch: lines in the stream LIVE, bounded in size and rate."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import nats.errors

from shared.jetstream import topology
from shared.jetstream.broker import Broker

STAGE = "functions"
LINES_A_SECOND = 50
AT_ONCE = 200
SHOW_SECONDS = 0.25


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of LIVE. `at`: epoch seconds."""

    at: float
    level: str
    message: str


class Lines:
    """The lines of one connection. `say` never waits; lines beyond the rate are counted, and the next one says how many."""

    def __init__(self, broker: Broker, connection: str, clock: Callable[[], float] = time.time) -> None:
        self._broker = broker
        self._subject = topology.live_subject(STAGE, connection)
        self._clock = clock
        self._allowed = float(AT_ONCE)
        self._looked_at = clock()
        self._left_out = 0
        self._waiting: list[bytes] = []

    def say(self, level: str, message: str) -> None:
        """Takes a line."""
        now = self._clock()
        self._allowed = min(AT_ONCE, self._allowed + max(0.0, now - self._looked_at) * LINES_A_SECOND)
        self._looked_at = now
        if self._allowed < 1:
            self._left_out += 1
            return
        self._allowed -= 1
        if self._left_out:
            message, self._left_out = f"({self._left_out} lines before this one were left out) {message}", 0
        self._waiting.append(msgspec.json.encode(Line(at=now, level=level, message=message)))

    async def keep_sent(self) -> None:
        """Sends lines, until it is cancelled."""
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            lines, self._waiting = self._waiting, []
            for line in lines:
                with contextlib.suppress(nats.errors.Error, OSError):  # a lost line is no fault
                    await self._broker.nc.publish(self._subject, line)
