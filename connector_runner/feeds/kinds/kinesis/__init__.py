"""Feed from Amazon Kinesis, by aioboto3: every shard of a stream, through splits and merges.

A shard is read once its parents are read to their ends, so the records of a partition key keep their order. Positions stand in the bucket
`state` under `feed.<name>.shards`: of each shard the last sequence number, and whether it is read to its end.

Known traps: a shard answers five calls a second at most; an iterator is good for five minutes; a call may give nothing although more
records follow. Records that Amazon's producer library packed into one (KPL) are taken apart; their offsets are `<sequence>.<number>`.

https://docs.aws.amazon.com/streams/latest/dev/developing-consumers-with-sdk.html
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from connector_runner.feeds.contract import Chunk, Environment, Feed, Lag, Record, start_time
from connector_runner.feeds.kinds.kinesis.packed import unpack
from shared.errors import NotConnected, PenstockError, SetupError, Transient
from shared.jetstream.kv import value_of

CALL_SECONDS = 0.25
"""Between two calls for a shard."""
SLOW_SECONDS = 1.0
"""The same, after Kinesis asked for a pause."""
LIST_SECONDS = 30.0
CALL_RECORDS = 5_000
REQUEST_SECONDS = 20.0
_LOGIN = frozenset(
    {
        "UnrecognizedClientException", "InvalidSignatureException", "AccessDeniedException", "MissingAuthenticationTokenException",
        "ExpiredTokenException", "InvalidClientTokenId", "IncompleteSignature", "OptInRequired",
    }
)  # fmt: skip
_PAUSE = frozenset({"ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException"})

log = logging.getLogger(__name__)


class KinesisOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the feed."""

    stream: Annotated[str, Meta(min_length=1, description="name of the stream")]
    region: Annotated[str, Meta(min_length=1, description="its region, such as eu-central-1")]
    start: Annotated[
        str, Meta(description="where it is read from at the first time: earliest, latest, or a time with its zone")
    ] = "earliest"
    access_key_id: Annotated[str | None, Meta(description="key; default: as Amazon's tools find one")] = None
    secret_access_key: Annotated[str | None, Meta(description="secret of the key", extra={"secret": True})] = None
    session_token: Annotated[str | None, Meta(description="token of a temporary key", extra={"secret": True})] = None
    endpoint_url: Annotated[str | None, Meta(description="address of another server that speaks Kinesis")] = None

    def __post_init__(self) -> None:
        start_time(self.start)
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id, secret_access_key: expected both or neither")


OPTIONS = KinesisOptions


class _Position(msgspec.Struct):
    """How far a shard is read: `at` is the sequence number of its last record, empty before the first.

    `first`: the number at which the shard begins. A shard of a stream that was deleted and made again has the same name and another one.
    """

    at: str = ""
    done: bool = False
    first: str = ""


class _State(msgspec.Struct):
    """The entry in the bucket. `since_ms`: from when on shards without a position are read; 0: from their beginning."""

    stream: str = ""
    since_ms: int = 0
    shards: dict[str, _Position] = {}


class _Shard:
    """A shard that is read."""

    def __init__(self, name: str, first: str, at: str) -> None:
        self.name = name
        self.first = first
        self.at = at
        self.iterator = ""
        self.due = 0.0
        self.behind_ms = 0


async def open_feed(name: str, options: KinesisOptions, environment: Environment) -> Feed:
    """Finds the shards."""
    what = f'reading feed "{name}"'
    try:
        import aioboto3
        from aiobotocore.config import AioConfig
    except ImportError as error:
        raise SetupError(f"{what}: the driver is not installed ({error}); pip install 'penstock[s3]'") from error
    stack = contextlib.AsyncExitStack()
    config = AioConfig(connect_timeout=10, read_timeout=REQUEST_SECONDS, retries={"mode": "standard", "total_max_attempts": 2})
    try:
        client = await stack.enter_async_context(
            aioboto3.Session().client(
                "kinesis",
                region_name=options.region,
                endpoint_url=options.endpoint_url,
                aws_access_key_id=options.access_key_id,
                aws_secret_access_key=options.secret_access_key,
                aws_session_token=options.session_token,
                config=config,
            )
        )
        feed = KinesisFeed(client=client, stack=stack, what=what, name=name, options=options, environment=environment)
        await feed.begin()
    except BaseException as error:
        await stack.aclose()
        if isinstance(error, PenstockError) or not isinstance(error, Exception):
            raise
        raise _translate(error, what, options, environment) from error
    return feed


class KinesisFeed(Feed):
    """An open stream."""

    def __init__(
        self,
        client: Any,
        stack: contextlib.AsyncExitStack,
        what: str,
        name: str,
        options: KinesisOptions,
        environment: Environment,
    ) -> None:
        self._client = client
        self._stack = stack
        self._what = what
        self._key = f"feed.{name}.shards"
        self._options = options
        self._environment = environment
        self._state = _State()
        self._revision = 0
        self._reading: dict[str, _Shard] = {}
        self._ended: set[str] = set()
        """Shards whose end was read; not all of it may be committed."""
        self._missing: set[str] = set()
        """Shards that the last list lacked."""
        self._listed_at = 0.0

    async def begin(self) -> None:
        """Reads the positions, and makes the first ones."""
        entry = await self._environment.state.get(self._key)
        state = value_of(entry, _State)
        if entry is not None and state is not None:
            self._state, self._revision = state, entry.revision
        place = f"{self._options.region}/{self._options.stream}"
        if not self._state.stream and self._revision:
            self._state.stream = place  # an earlier version noted no name
        if self._state.stream != place:
            self._state = _State(stream=place)
            if self._options.start != "earliest":
                moment = start_time(self._options.start) or datetime.now(UTC)
                self._state.since_ms = int(moment.timestamp() * 1000)
            await self._store()
        await self._list()

    async def read(self, wait_seconds: float) -> Sequence[Chunk]:
        """See `Feed.read`."""
        loop = asyncio.get_running_loop()
        try:
            if loop.time() >= self._listed_at + LIST_SECONDS:
                await self._list()
            now = loop.time()
            due = [shard for shard in self._reading.values() if shard.due <= now]
            if not due:
                first = min((shard.due for shard in self._reading.values()), default=now + wait_seconds)
                await asyncio.sleep(max(0.0, min(wait_seconds, first - now)))
                return ()
            chunks: list[Chunk] = []
            for shard in due:
                chunk = await self._read_shard(shard)
                if chunk is not None:
                    chunks.append(chunk)
            return chunks
        except PenstockError:
            raise
        except Exception as error:
            raise _translate(error, self._what, self._options, self._environment) from error

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """See `Feed.commit`."""
        finished = False
        for chunk in chunks:
            shard, first, at, done = cast("tuple[str, str, str, bool]", chunk.place)
            position = self._state.shards.setdefault(shard, _Position(first=first))
            if position.first and position.first != first:
                continue  # of a stream that was made again since
            position.first = first
            position.at = at or position.at
            position.done = position.done or done
            finished = finished or done
        await self._store()
        if finished:
            self._listed_at = float("-inf")  # its children may be read now

    async def lag(self) -> Mapping[str, Lag]:
        """See `Feed.lag`."""
        return {shard.name: Lag(seconds=shard.behind_ms / 1000) for shard in self._reading.values()}

    async def close(self) -> None:
        """See `Feed.close`."""
        with contextlib.suppress(Exception):
            await self._stack.aclose()

    async def _store(self) -> None:
        self._revision = await self._environment.state.put(self._key, msgspec.json.encode(self._state), revision=self._revision)

    async def _list(self) -> None:
        """Begins shards whose parents are read to their ends, and forgets shards that the stream no longer has."""
        shards: dict[str, Any] = {}
        given: dict[str, Any] = {"StreamName": self._options.stream}
        while given:
            page = await self._client.list_shards(**given)
            shards.update({each["ShardId"]: each for each in page["Shards"]})
            given = {"NextToken": page["NextToken"]} if page.get("NextToken") else {}
        self._listed_at = asyncio.get_running_loop().time()
        positions = self._state.shards
        missing = {name for name in positions if name not in shards} if shards else set()
        for name in (
            missing & self._missing
        ):  # one list may lack a shard for a moment, and a forgotten one is read from its beginning
            del positions[name]
        self._missing = missing
        for name, shard in shards.items():
            position = positions.get(name, _Position())
            first = shard.get("SequenceNumberRange", {}).get("StartingSequenceNumber", "")
            if position.first and first and position.first != first:
                log.warning("the stream was made again: it is read from its beginning", extra={"shard": name})
                position = positions[name] = _Position(first=first)
                self._reading.pop(name, None)
                self._ended.discard(name)
            parents = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
            waits = any(parent in shards and not positions.get(parent, _Position()).done for parent in parents if parent)
            if not position.done and not waits and name not in self._reading and name not in self._ended:
                self._reading[name] = _Shard(name, first, position.at)

    async def _read_shard(self, shard: _Shard) -> Chunk | None:
        """Returns the next records of a shard, or its end; None if there is nothing now."""
        from botocore.exceptions import ClientError

        loop = asyncio.get_running_loop()
        try:
            if not shard.iterator:
                shard.iterator = await self._iterator(shard)
            answer = await self._client.get_records(ShardIterator=shard.iterator, Limit=CALL_RECORDS)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "ExpiredIteratorException":
                shard.iterator, shard.due = "", loop.time() + CALL_SECONDS
                return None
            if code in _PAUSE:
                shard.due = loop.time() + SLOW_SECONDS
                return None
            raise
        shard.due = loop.time() + CALL_SECONDS
        shard.behind_ms = answer.get("MillisBehindLatest") or 0
        shard.iterator = answer.get("NextShardIterator") or ""
        done = not shard.iterator
        records = [record for each in answer["Records"] for record in self._records(shard.name, each)]
        if answer["Records"]:
            shard.at = str(answer["Records"][-1]["SequenceNumber"])
        if done:
            del self._reading[shard.name]
            self._ended.add(shard.name)
        return Chunk(records, (shard.name, shard.first, shard.at, done)) if answer["Records"] or done else None

    async def _iterator(self, shard: _Shard) -> str:
        given: dict[str, Any] = {"StreamName": self._options.stream, "ShardId": shard.name}
        if shard.at:
            given |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": shard.at}
        elif self._state.since_ms:
            given |= {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": self._state.since_ms / 1000}
        else:
            given["ShardIteratorType"] = "TRIM_HORIZON"
        return str((await self._client.get_shard_iterator(**given))["ShardIterator"])

    def _records(self, shard: str, each: Any) -> Iterator[Record]:
        whole = Record(
            topic=self._options.stream,
            partition=shard,
            offset=each["SequenceNumber"],
            value=each["Data"],
            key=each["PartitionKey"].encode(),
            timestamp_ms=int(each["ApproximateArrivalTimestamp"].timestamp() * 1000),
        )
        packed = unpack(each["Data"])
        if packed is None:
            yield whole
        else:
            for number, (key, value) in enumerate(packed):
                yield whole._replace(offset=f"{whole.offset}.{number}", key=key, value=value)


def _translate(error: Exception, what: str, options: KinesisOptions, environment: Environment) -> PenstockError:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        words = error.response.get("Error", {}).get("Message", "")
        if code == "ResourceNotFoundException":
            return SetupError(f'{what}: there is no stream "{options.stream}" in {options.region}; check `stream` and `region`')
        if code in _LOGIN:
            return SetupError(f"{what}: the login is refused ({code}: {words}); check the key, and its permissions")
        return Transient(f"{what}: Kinesis answers {code}: {words}")
    if isinstance(error, NoCredentialsError):
        return SetupError(f"{what}: no credentials were found; set access_key_id and secret_access_key")
    if isinstance(error, HTTPClientError | OSError | TimeoutError):
        return NotConnected(f"{what}: Kinesis does not answer: {error}")
    if not isinstance(error, BotoCoreError):
        environment.unknown_error(error)
    return Transient(f"{what}: {error}")
