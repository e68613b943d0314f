"""Refused clients: counted by site and key, logged now and then, and told when to come back.

Labels are names of the project's sites and masked ids of its keys, so their number is bounded. For each kind of refusal (code,
site and key) the log has one line in `LOG_EVERY_SECONDS`, with the number since the line before: so a client that is refused all
the time shows in the log and fills no disk.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter

from ingest.contract import Refusal
from shared.telemetry.metrics import Telemetry

LOG_EVERY_SECONDS = 30.0
RECENT_SECONDS = 60.0
SHOWN = 3

log = logging.getLogger(__name__)


def jittered(seconds: int) -> int:
    """Returns a time to come back, with up to half as much added at random, so that refused clients do not all return at once."""
    return seconds + random.randint(0, (seconds + 1) // 2)


class Refusals:
    """Counts refusals of one process."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}
        """By kind: the time of the last line, and the number since."""
        self._recent: Counter[tuple[str, str, str]] = Counter()
        self._before: Counter[tuple[str, str, str]] = Counter()
        """The refusals of the minute before."""
        self._since = 0.0

    def note(self, refusal: Refusal, peer: str | None, request_id: bytes) -> None:
        """Counts a refusal."""
        kind = (refusal.code, refusal.site or "", refusal.key)
        self._telemetry.count("ingest_requests_refused_total", code=kind[0], site=kind[1], key=kind[2])
        now = time.monotonic()
        self._turn(now)
        self._recent[kind] += 1
        at, since = self._told.get(kind, (-LOG_EVERY_SECONDS, 0))
        if now - at < LOG_EVERY_SECONDS:
            self._told[kind] = (at, since + 1)
            return
        self._told[kind] = (now, 0)
        log.warning(
            "refused",
            extra={
                "code": kind[0],
                "site": kind[1],
                "key": kind[2],
                "address": peer or "",
                "request": request_id.decode(),
                "why": refusal.message[:200],
                "more": since,
            },
        )

    def recent(self) -> str:
        """Returns who was refused in the last minute or two, and why; empty: no client."""
        self._turn(time.monotonic())
        kinds = self._recent + self._before
        if not kinds:
            return ""
        some = [f"{count} {_named(kind)}" for kind, count in kinds.most_common(SHOWN)]
        rest = sum(kinds.values()) - sum(count for _, count in kinds.most_common(SHOWN))
        return (
            f"requests are refused: {', '.join(some)}{f', and {rest} more' if rest else ''} in the last two minutes; "
            "lines `refused` of the log have addresses and the words of the answer"
        )

    def _turn(self, now: float) -> None:
        """Begins another minute when this one is over."""
        passed = now - self._since
        if passed >= RECENT_SECONDS:
            self._before = self._recent if passed < 2 * RECENT_SECONDS else Counter()
            self._recent, self._since = Counter(), now


def _named(kind: tuple[str, str, str]) -> str:
    code, site, key = kind
    where = ", ".join(part for part in (f"site {site}" if site else "", f"key {key}" if key else "") if part)
    return f"{code} ({where})" if where else code
