"""The contract of feeds, between the worker that runs one and the plug-ins in `kinds/`.

A feed is an endless source: a topic, a stream, a queue. The plug-in reads records and commits positions; it knows no events. The
worker calls `read` again and again, turns the records into events, publishes these, and calls `commit` once they are durable. So a
record that was read and not committed must come again after the next `open_feed`, whoever opened it; one that was committed should
not.

`read` gives *chunks*. A chunk holds records of one partition in their order, and chunks of a partition follow one another. The
worker commits chunks in the order in which it got them, each once, and none before all chunks that came earlier.

Errors: `SetupError` if a person must act (login, topic, permission), `NotConnected` or `Transient` for everything that may pass.
After any error the worker closes the feed and opens it again, later each time. Cancellation may come at any await.

A record that cannot be read (an unknown schema, say) is no error: it is a `Record` with its `fault`, and becomes a dead letter.

Every plug-in is a module that names itself by its module name and defines:

    OPTIONS: type[msgspec.Struct]      what the user may write beside the fields of `FeedRules`; unknown keys refused
    async def open_feed(name: str, options: OPTIONS, environment: Environment) -> Feed

and imports its driver inside `open_feed` or below. `connector_runner/feeds/registry.py` finds it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from shared.jetstream.kv import Bucket

Format = Literal["json", "text", "raw"]

MOST_RECORDS = 500
"""Records that one `read` should give at most: as many as a frame holds."""


class Record(NamedTuple):
    """One record. With its topic, partition and offset it is known for ever: `read` gives it the same ones each time."""

    topic: str
    partition: int | str
    offset: int | str
    value: bytes | None
    """None: a tombstone, by which a key is deleted."""
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: int | None = None
    """Milliseconds since 1970, as the source keeps them."""
    fault: str = ""
    """Why the value cannot be read; it then holds the original bytes."""


class Chunk(NamedTuple):
    """Records of one partition, and the plug-in's own note of the place behind them."""

    records: Sequence[Record]
    place: object


class Lag(NamedTuple):
    """How far a feed is behind its source in a partition; None: the source does not tell."""

    records: int | None = None
    seconds: float | None = None


class FeedRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every feed: its site, and how a record becomes an event."""

    site: Annotated[str, Meta(description="name of the site whose events the records become")]
    enabled: Annotated[bool, Meta(description="false: nothing is read; the position stays")] = True
    format: Annotated[
        Format, Meta(description="what a value is. json: any JSON value; text: UTF-8; raw: any bytes, written as base64")
    ] = "json"
    events: Annotated[
        bool,
        Meta(description="true: a JSON value that is an event already (type, its name or ids, userId or anonymousId) stays one"),
    ] = True
    event_type: Annotated[
        str, Meta(min_length=1, description="`type` of the events, with places such as {header.kind} or {value.type}")
    ] = "track"
    event: Annotated[
        str, Meta(min_length=1, description="name of the events, with the same places; where it comes out empty: the topic")
    ] = "{topic}"
    user_id: Annotated[str | None, Meta(description="`userId` of the events, such as {value.customer.id} or {key}")] = None
    message_id: Annotated[
        str | None,
        Meta(
            description="`messageId` of the events, such as {value.id}; where it comes out empty, and by default: the record's position"
        ),
    ] = None


def start_time(start: str) -> datetime | None:
    """Returns the time that an option `start` names; None for `earliest` and `latest`.

    Raises:
        ValueError: it is neither.
    """
    if start in ("earliest", "latest"):
        return None
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(start)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    raise ValueError(f"start: expected earliest, latest, or a time with its zone such as 2026-03-01T00:00:00Z, got {start!r}")


@dataclass(frozen=True, slots=True)
class Environment:
    """What the worker lends a plug-in."""

    state: Bucket
    """The bucket `state`; keys of a feed begin with `feed.<name>.`"""
    settle: Callable[[], Awaitable[None]]
    """Waits until all chunks given so far are committed, or cannot be: before a partition goes to another reader."""
    unknown_error: Callable[[BaseException], None]
    """Counts an error of the driver that the plug-in does not know and takes as transient."""
    lost: Callable[[int, str], None]
    """Counts records that the source gave and that are gone, with a reason: of sources that keep nothing."""


class Feed(ABC):
    """An open feed."""

    linger_seconds: ClassVar[float] = 0.05
    """How long a record waits for others in its frame."""

    @abstractmethod
    async def read(self, wait_seconds: float) -> Sequence[Chunk]:
        """Returns the next chunks, about `MOST_RECORDS` records; none if nothing came within `wait_seconds`."""

    @abstractmethod
    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """Notes that the records of these chunks are durable: the next reader goes on behind them."""

    @abstractmethod
    async def lag(self) -> Mapping[str, Lag]:
        """Returns the lag of each partition that this reader has, by a short name. Called every five seconds; raises if the source is away."""

    @abstractmethod
    async def close(self) -> None:
        """Closes it; returns within a few seconds, and raises nothing."""
