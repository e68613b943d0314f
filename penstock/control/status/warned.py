"""Reads the warnings of all services from the stream WARNINGS, added up by site, connection and reason."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from nats.js.errors import NotFoundError

from shared.errors import Permanent
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.reader import StreamReader
from shared.warnings.declared import BY_REASON
from shared.warnings.events import read_warnings
from shared.warnings.tally import Warning_

SILENCE_SECONDS = 10.0
MOST_IDS = 100_000
"""Ids of events that are remembered: the broker may have stored a message twice."""
DOCS = "docs/reasons.md"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Selects warnings; None matches all. `since` and `until` are epoch seconds."""

    site: str | None = None
    connection: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None

    def matches(self, warning: Warning_) -> bool:
        """Whether all conditions hold."""
        return (
            self.site in (None, warning.site)
            and self.connection in (None, warning.connection)
            and self.reason in (None, warning.reason)
            and (self.since is None or warning.last_at >= self.since)
            and (self.until is None or warning.first_at <= self.until)
        )


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A warning as people see it; times are epoch seconds."""

    site: str
    connection: str | None
    reason: str
    count: int
    unit: str
    first_seen: float
    last_seen: float
    sample: str | None
    meaning: str
    what_to_do: str


def show(warning: Warning_) -> Shown:
    """Returns a warning with what it means and what to do; a later version may tell reasons that this one does not know."""
    declared = BY_REASON.get(warning.reason)
    return Shown(
        site=warning.site,
        connection=warning.connection,
        reason=warning.reason,
        count=warning.count,
        unit=warning.unit,
        first_seen=warning.first_at,
        last_seen=warning.last_at,
        sample=warning.sample,
        meaning=declared.meaning if declared else "",
        what_to_do=declared.advice if declared else f"{DOCS} of a later version has this reason",
    )


async def read_all(broker: Broker, wanted: Wanted) -> list[Warning_]:
    """Returns the warnings that match, the newest first.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: dict[tuple[str, str | None, str], Warning_] = {}
    seen: set[str] = set()
    async for payload in _payloads(broker, wanted.since):
        with contextlib.suppress(Permanent):  # of a later version
            for id_, warning in read_warnings(payload):
                if id_ in seen or not wanted.matches(warning):
                    continue
                if len(seen) < MOST_IDS:
                    seen.add(id_)
                held = found.get(warning.key)
                found[warning.key] = warning if held is None else held.plus(warning)
    return sorted(found.values(), key=lambda each: -each.last_at)


async def _payloads(broker: Broker, since: float | None) -> AsyncIterator[bytes]:
    with asking("cannot look at the warnings"):
        try:
            newest = await broker.js.get_last_msg(topology.WARNINGS, topology.warnings_subject("*"))
        except NotFoundError:  # none yet, or a broker of an earlier version
            return
    if since is not None and newest.time is not None and newest.time.timestamp() < since:
        return
    async with StreamReader(broker, topology.WARNINGS, start_seconds=since) as reader:
        while (message := await reader.next(SILENCE_SECONDS)) is not None:
            yield message.payload
            if message.waiting == 0:
                return
