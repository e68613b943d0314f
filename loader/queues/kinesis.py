"""Events to a stream of Amazon Kinesis, by PutRecords. https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html

A record is the full event as JSON; its partition key is the user, so that the events of a user are in one shard.

Known traps: a call may be taken in part; the answer says of each record what became of it. Kinesis keeps no order within a call, so with `ordered` a
call holds one event of each user. It knows no id of a record: readers tell repeats by `messageId`.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from loader.calls import fields
from loader.calls.answers import quoted, words_of
from loader.calls.aws import Keys, signed
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.options import Batching, address, require, send_limits
from loader.calls.verdicts import alike, held_up, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Ok, Outcome, Retry

BATCH = Batch(events=500, bytes=5_000_000, event_bytes=1_390_000)
"""A record may hold 1 MiB, which base64 makes a third longer."""
TARGET = "Kinesis_20131202.PutRecords"
JSON_TYPE = "application/x-amz-json-1.1"
THROTTLED = frozenset(
    {"ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException", "ThrottlingException"}
)
WRONG = frozenset({"InvalidArgumentException", "ValidationException", "SerializationException"})
"""Errors that speak of the records; all others with 400 speak of credentials, permissions or the stream."""
FULL_SECONDS = 1.0
"""A shard takes so much a second."""


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a stream."""

    stream: Annotated[str, Meta(description="name of the stream; it must exist")]
    region: Annotated[str, Meta(description="region of the stream, such as eu-central-1")]
    access_key_id: Annotated[str, Meta(min_length=1, description="key that may put records")]
    secret_access_key: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="secret of the key")]
    session_token: Annotated[str | None, Meta(extra={"secret": True}, description="token of a temporary key")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require("stream", self.stream, "[a-zA-Z0-9_.-]{1,128}", "the name of a stream")
        require("region", self.region, "[a-z0-9-]+", "a region such as eu-central-1")


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Kinesis(options)


class Kinesis(Service):
    """One stream."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._ordered = options.ordered
        self._region = options.region
        self._keys = Keys(options.access_key_id, options.secret_access_key, options.session_token or "")
        self._url = address(options, f"https://kinesis.{options.region}.amazonaws.com") + "/"
        self._head = encode({"StreamName": options.stream})[:-1] + b',"Records":'

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        """See `EventDestination.calls`."""

        def make(event: JSON) -> Piece:
            user = fields.person(event) or fields.text(event.get("messageId"))
            record = {"Data": b64encode(encode(event)).decode(), "PartitionKey": user[:256] or "-"}
            return Piece("records", encode(record), once=user if self._ordered else "")

        def wrap(_target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            return self._call(pieces, places, at)

        return batched(events, make, wrap, BATCH)

    def trial(self) -> Call | str:
        """A call without a record, which Kinesis refuses; a wrong key or stream it refuses by another error."""
        return self._call((), (0,), time.time())

    def _call(self, pieces: Sequence[Piece], places: Sequence[int], at: float) -> Call:
        body = self._head + array(pieces) + b"}"
        headers = {"Content-Type": JSON_TYPE, "X-Amz-Target": TARGET}
        headers = signed(self._url, headers, body, keys=self._keys, region=self._region, service="kinesis", at=at)
        return post(self._url, headers, body, places)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        """See `EventDestination.answer`."""
        answered = said(response)
        if response.status == 200:
            records = fields.objects(answered.get("Records"))
            if len(records) != len(call.events):
                return alike(call, Retry(f"an answer that does not say what became of each record: {words_of(response)}"))
            return [_outcome(record) for record in records]
        error = fields.text(answered.get("__type")).rpartition("#")[2]
        if error in THROTTLED:
            return alike(call, Retry(words_of(response), everyone=True))
        if response.status == 400 and error and error not in WRONG:
            return alike(call, held_up(words_of(response)))
        return alike(call, verdict(response))


def _outcome(record: JSON) -> Outcome:
    error = fields.text(record.get("ErrorCode"))
    if not error:
        return Ok()
    return Retry(f"{error}: {quoted(fields.text(record.get('ErrorMessage')))}", FULL_SECONDS)
