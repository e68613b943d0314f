"""The range of a replay, noted in the bucket `state` under its id.

The loader remembers how far it loaded each lane, and an id names a lane. It would take frames of another range under a used id
for repeats, and leave them out without a word. So an id stands for one range from its first use on; frames that came later are
not in it.
"""

from __future__ import annotations

import contextlib
import hashlib
from datetime import datetime

import msgspec

from shared.errors import ConfigError, Conflict, Problem
from shared.jetstream.kv import Bucket, value_of

Bound = datetime | int | None
"""A time, a sequence of EVENTS, or no bound."""


class ReplayRange(msgspec.Struct, frozen=True):
    """A value of the bucket: the requested range, and the newest frame of the site at that time.

    `stream`: the incarnation of EVENTS whose frames these are; None: the present one.
    """

    site: str
    start: str | None
    end: str | None
    connection: str | None
    where: str | None
    last: int
    stream: str | None = None

    @property
    def words(self) -> str:
        """Returns it in words for people."""
        bounds = f"{self.start or 'the oldest frame'} to {self.end or 'the newest'}"
        to = f", to {self.connection}" if self.connection else ""
        conditions = f", where {self.where}" if self.where else ""
        stream = f" of the lost stream {self.stream}" if self.stream else ""
        return f"site {self.site}, {bounds}{stream}{to}{conditions}"


def range_of(
    *, site: str, start: Bound, end: Bound, connection: str | None, where: object, last: int, stream: str | None = None
) -> ReplayRange:
    """Returns the range that a replay asks for."""
    conditions = None if where is None else msgspec.json.encode(where, order="sorted").decode()
    return ReplayRange(
        site=site, start=_text(start), end=_text(end), connection=connection, where=conditions, last=last, stream=stream
    )


async def note_range(bucket: Bucket, replay_id: str, wanted: ReplayRange) -> ReplayRange:
    """Notes the range of a replay; returns the range that was noted when its id was used first.

    Raises:
        ConfigError: the id stands for another range; says which.
        NotConnected, Transient, QueueFull: the broker did not answer.
    """
    key = _key(replay_id)
    while True:
        entry = await bucket.get(key)
        noted = value_of(entry, ReplayRange)
        if noted is not None:
            if msgspec.structs.replace(noted, last=wanted.last) != wanted:
                raise ConfigError(
                    [Problem("id", f"replay {replay_id!r} is of {noted.words}; give the same range, or choose another id")]
                )
            return noted
        with contextlib.suppress(Conflict):  # the same replay may be begun twice at once
            await bucket.put(key, msgspec.json.encode(wanted), revision=0)
            return wanted


def _key(replay_id: str) -> str:
    return f"replay.{hashlib.sha256(replay_id.encode()).hexdigest()[:32]}"


def _text(bound: Bound) -> str | None:
    return None if bound is None else bound.isoformat() if isinstance(bound, datetime) else str(bound)


def bound_of(text: str | None) -> Bound:
    """Returns a bound as the caller gave it."""
    return None if text is None else int(text) if text.isdecimal() else datetime.fromisoformat(text)


async def noted_range(bucket: Bucket, replay_id: str) -> ReplayRange | None:
    """Returns the noted range of a replay; None: it was not a replay of EVENTS.

    Raises:
        NotConnected: the broker does not answer.
    """
    return value_of(await bucket.get(_key(replay_id)), ReplayRange)
