"""A member of a consumer group, as a feed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from connector_runner.feeds.contract import MOST_RECORDS, Chunk, Environment, Feed, Lag, Record, start_time
from connector_runner.feeds.kinds.kafka.registry import Registry
from shared.driving.kafka import arguments, reason_of, words_of
from shared.errors import NotConnected, PenstockError, SetupError, Transient
from shared.jetstream.kv import value_of
from shared.tasks import timeout

if TYPE_CHECKING:
    from connector_runner.feeds.kinds.kafka import KafkaFeedOptions

OPEN_SECONDS = 30.0
REQUEST_SECONDS = 10.0
LAG_SECONDS = 4.0
TOPICS_SECONDS = 20.0
"""Between two looks whether the topics are still there: the driver waits for ever for one that is gone."""
CLOSE_SECONDS = 4.0
REBALANCE_SECONDS = 15.0
"""Longer than the worker takes to commit what it holds."""
MOST_POLL_SECONDS = 3600.0
"""A member that waits for our broker keeps its partitions for so long; one that dies loses them by its heartbeat."""

SETUP = frozenset(
    {
        "SaslAuthenticationFailed",
        "AuthenticationFailedError",
        "UnsupportedSaslMechanismError",
        "IllegalSaslStateError",
        "TopicAuthorizationFailedError",
        "GroupAuthorizationFailedError",
        "ClusterAuthorizationFailedError",
        "UnknownTopicOrPartitionError",
        "InvalidTopicError",
        "UnsupportedCodecError",
        "UnsupportedVersionError",
        "IncompatibleBrokerVersion",
        "InconsistentGroupProtocolError",
        "InvalidGroupIdError",
    }
)
_WORDS = {
    "GroupAuthorizationFailedError": "the user may not use the consumer group; allow it (an ACL on the group), or check `group`",
    "UnsupportedCodecError": "records are compressed by a codec that is not installed; pip install 'penstock[kafka]'",
    "InconsistentGroupProtocolError": "other members of the group share partitions in another way; give the feed a `group` of its own",
    "InvalidGroupIdError": "the brokers take no group of this name; check `group`",
}


class KafkaFeed(Feed):
    """An open feed; `open` makes one."""

    def __init__(
        self, name: str, what: str, options: KafkaFeedOptions, given: Mapping[str, Any], environment: Environment
    ) -> None:
        self._what = what
        self._options = options
        self._given = given
        self._environment = environment
        self._consumer: Any = None
        self._registry: Registry | None = None
        self._key = f"feed.{name}.since"
        self._group = options.group or f"penstock-{name}"
        self._topics_at = 0.0
        self._begun = asyncio.Event()
        self._begun.set()
        self._starts: dict[Any, int] = {}
        """Where partitions without a position begin."""
        self._beginnings = 0
        self._not_begun: Exception | None = None
        """Why partitions could not be given their start: the driver only logs what its listener raises."""

    @classmethod
    async def open(cls, name: str, options: KafkaFeedOptions, environment: Environment) -> KafkaFeed:
        """Joins the group; raises as `open_feed`."""
        what = f'reading feed "{name}"'
        given = arguments(options, what, REQUEST_SECONDS)
        from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

        feed = cls(name=name, what=what, options=options, given=given, environment=environment)

        class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
            async def on_partitions_revoked(self, revoked: Any) -> None:
                if revoked:
                    await environment.settle()

            async def on_partitions_assigned(self, assigned: Any) -> None:
                feed._begun.clear()
                feed._beginnings += 1
                feed._starts = {}
                try:
                    await feed._begin(assigned)
                except Exception as exc:  # noqa: BLE001  # `read` raises it
                    feed._not_begun = exc
                finally:
                    feed._begun.set()

        feed._consumer = AIOKafkaConsumer(
            **given,
            group_id=feed._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=int(options.session_timeout * 1000),
            heartbeat_interval_ms=int(options.session_timeout * 300),
            rebalance_timeout_ms=int(max(REBALANCE_SECONDS, options.session_timeout) * 1000),
            max_poll_interval_ms=int(MOST_POLL_SECONDS * 1000),
            fetch_max_bytes=16 * 1024 * 1024,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        try:
            async with timeout(OPEN_SECONDS):
                await feed._consumer.start()
                await feed._look_for_topics()
            feed._consumer.subscribe(options.topics, listener=Listener())
        except PenstockError:
            await feed.close()
            raise
        except Exception as exc:
            await feed.close()
            raise await feed._translate(exc) from exc
        except BaseException:
            await feed.close()
            raise
        if options.schema_registry is not None:
            feed._registry = Registry(
                options.schema_registry, options.schema_registry_user, options.schema_registry_password, what
            )
        return feed

    async def read(self, wait_seconds: float) -> Sequence[Chunk]:
        """See `Feed.read`."""
        await self._begun.wait()
        before = self._beginnings
        try:
            found = await self._consumer.getmany(timeout_ms=int(wait_seconds * 1000), max_records=MOST_RECORDS)
        except Exception as exc:
            raise await self._translate(exc) from exc
        await self._begun.wait()
        if self._beginnings != before:  # it may have fetched before it was told where to begin
            found = {place: kept for place, records in found.items() if (kept := self._behind_start(place, records))}
        if self._not_begun is not None:
            raise await self._translate(self._not_begun) from self._not_begun
        if self._registry is not None:
            return [Chunk(await self._decoded(records), (place, records[-1].offset + 1)) for place, records in found.items()]
        return [Chunk([_record(each) for each in records], (place, records[-1].offset + 1)) for place, records in found.items()]

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """See `Feed.commit`. The position of a partition that went to another reader is that reader's."""
        from aiokafka.errors import CommitFailedError, IllegalStateError

        mine = self._consumer.assignment()
        places: list[tuple[Any, int]] = [cast("Any", chunk.place) for chunk in chunks]
        offsets = {place: offset for place, offset in places if place in mine}
        if not offsets:
            return
        try:
            async with timeout(OPEN_SECONDS):
                await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError):
            return
        except Exception as exc:
            raise await self._translate(exc) from exc

    async def lag(self) -> Mapping[str, Lag]:
        """See `Feed.lag`. It also finds out that the brokers are away: the client itself tries for ever."""
        mine = list(self._consumer.assignment())
        try:
            async with timeout(LAG_SECONDS):
                ends = await self._consumer.end_offsets(mine) if mine else {}
                if not mine or time.monotonic() >= self._topics_at + TOPICS_SECONDS:
                    await self._look_for_topics()
                lags = {}
                for place in mine:
                    with contextlib.suppress(TimeoutError):  # it has no position before its first fetch
                        async with timeout(0.5):
                            at = await self._consumer.position(place)
                            lags[f"{place.topic}-{place.partition}"] = Lag(records=max(0, ends[place] - at))
        except Exception as exc:
            raise await self._translate(exc) from exc
        return lags

    async def close(self) -> None:
        """See `Feed.close`."""
        if self._registry is not None:
            await self._registry.close()
        if not await _end(self._consumer.stop()):
            await _end(self._consumer._client.close())

    async def _look_for_topics(self) -> None:
        missing = set(self._options.topics) - await self._consumer.topics()
        self._topics_at = time.monotonic()
        if missing:
            names = ", ".join(sorted(missing))
            raise SetupError(
                f"{self._what}: the brokers have no topic {names}; create it, or check `topics` and the user's permissions"
            )

    async def _begin(self, assigned: Any) -> None:
        """Gives partitions without a position the one that `start` names, and commits it: a reader that dies must not begin later.

        A partition that was added since the feed first read its topic is read from that time on: `latest` counts at the first time.
        """
        if self._options.start == "earliest":
            return
        fresh = [place for place in assigned if await self._consumer.committed(place) is None]
        if not fresh:
            return
        since = await self._since({place.topic for place in fresh})
        ends = await self._consumer.end_offsets(fresh)
        starts: dict[Any, int] = dict(ends)
        wanted = {place: since[place.topic] for place in fresh if since[place.topic]}
        if wanted:
            found = await self._consumer.offsets_for_times(wanted)
            starts.update({place: each.offset for place, each in found.items() if each is not None})
        self._starts = starts
        await self._consumer.commit(starts)
        for place, offset in starts.items():
            self._consumer.seek(place, offset)

    def _behind_start(self, place: Any, records: Sequence[Any]) -> Sequence[Any]:
        start = self._starts.get(place, 0)
        return records if records[0].offset >= start else [each for each in records if each.offset >= start]

    async def _since(self, topics: set[str]) -> dict[str, int]:
        """Returns from when on fresh partitions of topics are read, in ms since 1970; 0: from their ends."""
        moment = start_time(self._options.start)
        if moment is not None:
            return dict.fromkeys(topics, int(moment.timestamp() * 1000))
        entry = await self._environment.state.get(self._key)
        known = value_of(entry, dict[str, int]) or {}
        now = int(time.time() * 1000)
        names = {topic: f"{self._group}:{topic}" for topic in topics}
        added = dict.fromkeys((name for name in names.values() if name not in known), now)
        if added:
            await self._environment.state.put(
                self._key, msgspec.json.encode(known | added), revision=entry.revision if entry is not None else 0
            )
        return {topic: known.get(name, 0) for topic, name in names.items()}

    async def _decoded(self, records: Sequence[Any]) -> list[Record]:
        registry = self._registry
        assert registry is not None  # noqa: S101  # for the type checker
        made: list[Record] = []
        for each in records:
            record = _record(each)
            value, fault = (record.value, "") if record.value is None else await registry.decode(record.value)
            key = record.key
            if key is not None:
                read, wrong = await registry.decode(key)
                key = key if wrong else read
            made.append(record._replace(value=value, key=key, fault=fault))
        return made

    async def _translate(self, error: BaseException) -> PenstockError:
        """Returns our error for one of the driver's, with the reason where the driver only says that it cannot connect."""
        if isinstance(error, PenstockError):
            return error
        name = type(error).__name__
        if name in ("KafkaConnectionError", "NoBrokersAvailable", "KafkaTimeoutError", "TimeoutError"):
            with contextlib.suppress(TimeoutError):
                async with timeout(LAG_SECONDS):
                    reason = await reason_of(self._given)
                    if reason:
                        made = SetupError if "refuses the login" in reason or "takes no login" in reason else NotConnected
                        return made(f"{self._what}: {reason}")
            return NotConnected(f"{self._what}: {words_of(error, self._given)}")
        words = f"{self._what}: {_WORDS.get(name) or words_of(error, self._given)}"
        if name in SETUP or isinstance(error, KeyError):
            return SetupError(words)
        if getattr(error, "retriable", None) is None and not isinstance(error, OSError):
            self._environment.unknown_error(error)
        return Transient(words)


async def _end(closing: Coroutine[Any, Any, None]) -> bool:
    """Returns whether it closed; in a task of its own, because the driver's `stop` ends as cancelled while brokers are away."""
    task = asyncio.ensure_future(closing)
    done, _ = await asyncio.wait({task}, timeout=CLOSE_SECONDS)
    if not done:
        task.cancel()
        return False
    return not task.cancelled() and task.exception() is None


def _record(each: Any) -> Record:
    return Record(
        topic=each.topic,
        partition=each.partition,
        offset=each.offset,
        value=each.value,
        key=each.key,
        headers=[(name, value or b"") for name, value in each.headers],  # a header may be null
        timestamp_ms=each.timestamp if each.timestamp is not None and each.timestamp >= 0 else None,
    )
