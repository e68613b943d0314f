"""Events to topics of Apache Kafka, or of a broker that speaks its protocol. https://kafka.apache.org/protocol

A record is the full event as JSON. Its key is the user, so that the events of a user are in one partition; its headers bear the
message id, by which readers tell repeats. The producer is idempotent and waits for all in-sync replicas: within its session the
brokers store each record once and in order, whatever they must be sent again (`session.py`).

Known traps: a record that brokers refuse leaves a gap in the session's numbers, after which they take nothing more for its
partition; a batch is refused as a whole; a key that several users share needs one order for all (`SendLimits.one_line`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from loader.contract.events import EventCapabilities, EventDestination, Link, SendLimits, Way
from loader.contract.warehouse import CheckResult, Environment
from loader.queues.kafka.link import kafka_link
from loader.queues.kafka.options import USER, Options
from loader.queues.kafka.records import Batches, Maker
from loader.queues.kafka.session import AwayError, Session
from shared.driving.kafka import arguments, words_of
from shared.events.event import JSON
from shared.reading.mask import Mask

__all__ = ["CAPABILITIES", "OPTIONS", "open_destination"]

OPTIONS = Options
CAPABILITIES = EventCapabilities()
REQUEST_SECONDS = 30.0


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet.

    Raises:
        SetupError: aiokafka is not installed, or a certificate cannot be read.
    """
    what = f'kafka destination "{name}"'
    given = arguments(options, what, min(REQUEST_SECONDS, float(options.timeout)))
    given |= {"compression_type": None if options.compression == "none" else options.compression}
    return Kafka(options, given | {"max_batch_size": options.batch_bytes, "max_request_size": 2 * options.batch_bytes})


class Kafka:
    """Topics of one cluster."""

    capabilities = CAPABILITIES

    def __init__(self, options: Options, given: dict[str, Any]) -> None:
        self._options = options
        self._given = given
        self._maker = Maker(options)
        self.limits = SendLimits(
            events_per_call=options.batch_events,
            calls_at_once=options.calls_at_once,
            ordered=options.ordered,
            one_line=options.ordered and options.key not in (USER, "none"),
            calls_a_second=options.rate,
            timeout_seconds=float(options.timeout),
            retry_seconds=float(options.retry_delay),
            max_age_seconds=float(options.max_age),
        )

    def calls(self, events: Sequence[JSON], at: float) -> Batches:
        """See `EventDestination.calls`."""
        return self._maker.calls(events, at)

    def link(self, way: Way) -> AbstractAsyncContextManager[Link]:
        """See `EventDestination.link`."""
        return kafka_link(self._options, self._given, way)

    async def check(self, mask: Mask) -> Sequence[CheckResult]:
        """See `EventDestination.check`."""
        try:
            session = await Session.open(self._given)
        except AwayError as error:
            return [CheckResult("reach", ok=False, message=mask.text(str(error)))]
        try:
            topic = self._maker.topic
            if topic is None:
                return [
                    CheckResult("reach", ok=True),
                    CheckResult("topic", ok=True, message="not tried: an event chooses its topic"),
                ]
            try:
                found = await session.partitions(topic)
            except Exception as error:  # noqa: BLE001 - any error is the answer
                words = words_of(error, self._given)
                return [
                    CheckResult("reach", ok=True),
                    CheckResult("topic", ok=False, message=f'topic "{topic}": {mask.text(words)}'),
                ]
            return [CheckResult("reach", ok=True), CheckResult("topic", ok=True, message=f"{len(found)} partitions")]
        finally:
            await session.end()

    async def close(self) -> None:
        """See `EventDestination.close`."""
