"""The meaning of the driver's errors for the records of a batch. Pure.

| error | what it means |
| --- | --- |
| MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE | the batch is halved; a record alone is a dead letter |
| INVALID_RECORD, INVALID_TIMESTAMP, CORRUPT_MESSAGE | the same |
| numbers out of order, an unknown or fenced producer id, a closed producer | a new session sends the batch again |
| no topic, not allowed, an illegal name, an old form of records | all events wait for a person; if events choose their topics, these events alone |
| any other | tried again |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loader.queues.kafka.records import Record
from shared.driving.kafka import words_of
from shared.events.outcome import Dead, DeadReason, Outcome, Retry

SIZE = frozenset({"MessageSizeTooLargeError", "RecordListTooLargeError", "RecordTooLargeError"})
RECORDS = frozenset({"InvalidRecordError", "InvalidTimestampError", "CorruptRecordException"})
SESSION = frozenset(
    {
        "OutOfOrderSequenceNumber",
        "UnknownProducerId",
        "InvalidProducerEpoch",
        "InvalidProducerIdMapping",
        "ProducerFenced",
        "ProducerClosed",
    }
)
TOPIC = frozenset(
    {
        "UnknownTopicOrPartitionError",
        "TopicAuthorizationFailedError",
        "InvalidTopicError",
        "PolicyViolationError",
        "UnsupportedForMessageFormatError",
    }
)
EVERYONE = frozenset(
    {
        "ClusterAuthorizationFailedError",
        "SaslAuthenticationFailed",
        "KafkaConnectionError",
        "NoBrokersAvailable",
        "KafkaTimeoutError",
        "RequestTimedOutError",
        "NotEnoughReplicasError",
    }
)
MEANINGS = {
    "InvalidRecordError": "the topic refuses the record (INVALID_RECORD); a compacted topic wants a key",
    "InvalidTimestampError": (
        "the topic refuses the time of the record; raise its message.timestamp.before.max.ms and message.timestamp.after.max.ms, "
        "or set `timestamp: received`"
    ),
    "UnsupportedForMessageFormatError": (
        "the topic keeps records in a form without headers; set its message.format.version to 0.11 or later, or remove that setting"
    ),
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What an error means. `records`: a record is at fault; `size`: for its size; `session`: the session is spent, no record is."""

    words: str
    records: bool = False
    size: bool = False
    session: bool = False
    topic: bool = False
    everyone: bool = False

    def outcome(self, record: Record) -> Outcome:
        """Returns the outcome of a record that failed alone, or with all others."""
        if self.size:
            words = f'topic "{record.topic}" takes no record of {record.size} bytes; raise its max.message.bytes'
            return Dead(DeadReason.TOO_LARGE, words)
        if self.records:
            return Dead(DeadReason.REJECTED_BY_DESTINATION, self.words)
        return Retry(self.words, everyone=self.everyone, denied=self.topic and not self.everyone)


def fate_of(error: Exception, given: Mapping[str, Any], topic: str, fixed: str) -> Fate:
    """Returns what an error means.

    Args:
        given: arguments of the driver.
        topic: of the records.
        fixed: the topic as the options have it; the same where events do not choose theirs.
    """
    name = type(error).__name__
    words = f'topic "{topic}": {MEANINGS.get(name) or words_of(error, given)}'
    about_topic = name in TOPIC
    return Fate(
        words,
        records=name in SIZE or name in RECORDS,
        size=name in SIZE,
        session=name in SESSION,
        topic=about_topic,
        everyone=name in EVERYONE or isinstance(error, OSError | TimeoutError) or (about_topic and topic == fixed),
    )
