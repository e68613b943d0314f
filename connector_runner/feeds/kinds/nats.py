"""Feed from NATS: a stream of another JetStream through a durable consumer, or plain subjects.

A stream is read in order; a message is acknowledged once its event is durable. The consumer is named `penstock-<feed>-<number>`. A
reader that finds messages which a former reader took and did not acknowledge makes the next consumer behind the last acknowledged
message, so these come at once and in order, and then deletes the former one.

Plain subjects keep nothing: messages that come while no reader is there are gone, and so are messages that a reader held when it died.

https://docs.nats.io/nats-concepts/jetstream/consumers
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import nats.errors
from msgspec import Meta, field
from nats.js import api
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from connector_runner.feeds.contract import MOST_RECORDS, Chunk, Environment, Feed, Lag, Record, start_time
from shared.driving.network import tls_context, translate_socket
from shared.errors import NotConnected, PenstockError, SetupError, Transient
from shared.jetstream.client import HearingClient
from shared.tasks import timeout

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.js import JetStreamContext

OPEN_SECONDS = 10.0
ACK_WAIT_SECONDS = 6 * 3600.0
"""A reader that dies is followed by one that makes the next consumer; waiting for this to pass never matters."""
MOST_HELD = 20_000
_TOO_LARGE = "Message Size Exceeds MaxBytes"
_ENDS = ("Batch Completed", _TOO_LARGE)
"""Words of a pull that ended in order."""
PULL_MESSAGES = 1_000
PULL_BYTES = 8 * 1024 * 1024
"""Bytes of one pull, at most; a larger message is asked for alone."""
PULL_SECONDS = 5.0
SILENT_SECONDS = 5.0
"""How long after its end the end of a pull may be missing."""
PLAIN_HELD = 100_000
"""Messages of plain subjects that wait to be read; further ones are lost."""


class NatsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the feed."""

    servers: Annotated[str, Meta(description="addresses such as nats://nats.example.com:4222, with commas between them")]
    stream: Annotated[str | None, Meta(description="JetStream stream to read; without it `subjects` are plain ones")] = None
    subjects: Annotated[
        list[str], Meta(description="subjects to read, wildcards too; of a stream: only these, by default all")
    ] = field(default_factory=list)
    queue: Annotated[str | None, Meta(description="queue group that readers of plain subjects share")] = None
    start: Annotated[
        str,
        Meta(description="where a stream is read from at the first time: earliest, latest, or a time with its zone"),
    ] = "earliest"
    user: Annotated[str | None, Meta(description="user name")] = None
    password: Annotated[
        str | None, Meta(description="password; write ${NAME} and set the environment variable", extra={"secret": True})
    ] = None
    token: Annotated[str | None, Meta(description="token, in place of a user", extra={"secret": True})] = None
    credentials: Annotated[str | None, Meta(description="file with a user's JWT and seed (.creds)")] = None
    ssl: Annotated[bool, Meta(description="true: TLS, also where an address says nats://")] = False
    ssl_root_certificate: Annotated[str | None, Meta(description="file with the certificate authority that is trusted")] = None

    def __post_init__(self) -> None:
        if self.stream is None and not self.subjects:
            raise ValueError("stream: expected a stream, or `subjects` for plain subjects")
        if self.stream is not None and self.queue is not None:
            raise ValueError("queue: means nothing for a stream; take it out")
        if self.stream is None and self.start != "earliest":
            raise ValueError("start: plain subjects keep nothing; take it out, or name a stream")
        start_time(self.start)


OPTIONS = NatsOptions


async def open_feed(name: str, options: NatsOptions, environment: Environment) -> Feed:
    """Connects, and makes the consumer of a stream."""
    what = f'reading feed "{name}"'
    client = await _connect(what, options, environment.lost)
    try:
        if options.stream is None:
            return await _PlainFeed.open(client, what, options)
        return await _StreamFeed.open(client, what, name, options)
    except BaseException:
        await _close(client)
        raise


async def _connect(what: str, options: NatsOptions, lost: Callable[[int, str], None]) -> HearingClient:
    client = HearingClient()
    tls: ssl.SSLContext | None = None
    if options.ssl or options.ssl_root_certificate:
        tls = tls_context(what, options.ssl_root_certificate, proven=True, named=True)
    errors: deque[Exception] = deque(maxlen=10)

    async def failed(error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            lost(1, "slow")
        errors.append(error)

    given: dict[str, Any] = {"user": options.user, "password": options.password, "token": options.token, "tls": tls}
    if options.credentials is not None:
        given["user_credentials"] = options.credentials
    try:
        async with timeout(OPEN_SECONDS):
            await client.connect(
                servers=[each.strip() for each in options.servers.split(",")],
                name="penstock",
                error_cb=failed,
                allow_reconnect=False,
                connect_timeout=5,
                ping_interval=5,
                max_outstanding_pings=3,
                **{key: value for key, value in given.items() if value is not None},
            )
    except Exception as exc:
        await _close(client)
        raise _translate(errors[-1] if errors else exc, what) from exc
    return client


def _translate(error: BaseException, what: str) -> PenstockError:
    text = str(error).strip().removeprefix("nats: ")
    if isinstance(error, nats.errors.AuthorizationError) or "authorization" in text.lower():
        return SetupError(f"{what}: the server refuses the login; check user, password, token or credentials")
    if "permissions violation" in text.lower():
        return SetupError(f"{what}: the user lacks a permission: {text}; docs/feeds/nats.md lists them")
    if isinstance(error, ServiceUnavailableError | nats.errors.NoRespondersError):
        return SetupError(f"{what}: the server has no JetStream; enable it, or read plain `subjects` without `stream`")
    if isinstance(error, ValueError | FileNotFoundError):
        return SetupError(f"{what}: {text}; check servers and credentials")
    if isinstance(error, BadRequestError):
        return SetupError(f"{what}: the server refuses: {error.description}; check stream and subjects")
    found = translate_socket(error, what)
    if found is not None:
        return found
    if isinstance(error, APIError):
        return Transient(f"{what}: the server answers: {error.description or error.code}")
    return NotConnected(f"{what}: {text or type(error).__name__}")


async def _close(client: HearingClient) -> None:
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with timeout(2):
            await client.close()
    await client.end_tasks()


class _StreamFeed(Feed):
    """Pulls in steps over one subscription, one pull under way at a time.

    The client's own `fetch` is not used: it swallows cancellations on Python 3.11.
    """

    def __init__(self, client: HearingClient, js: JetStreamContext, what: str, stream: str, consumer: str) -> None:
        self._client = client
        self._js = js
        self._what = what
        self._stream = stream
        self._consumer = consumer
        self._inbox = client.new_inbox()
        self._buffer: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._pulls = 0
        self._outstanding = 0
        """Messages that the present pull may still bring."""
        self._pull_ends_at = 0.0
        self._pulled = 0
        """Messages that the present pull brought."""
        self._alone = False
        """Whether the next message is larger than a pull."""
        self._refused = ""

    @classmethod
    async def open(cls, client: HearingClient, what: str, name: str, options: NatsOptions) -> _StreamFeed:
        js = client.jetstream(timeout=OPEN_SECONDS)
        stream = str(options.stream)
        try:
            try:
                info = await js.stream_info(stream)
            except NotFoundError as exc:
                text = f'{what}: the server has no stream "{stream}"; create it, or check `stream`'
                raise SetupError(text) from exc
            queue = info.config.retention == api.RetentionPolicy.WORK_QUEUE
            consumer = await _take_over(js, stream, f"penstock-{name}-", options, queue=queue)
            feed = cls(client, js, what, stream, consumer)
            await client.subscribe(f"{feed._inbox}.*", cb=feed._take, pending_msgs_limit=-1, pending_bytes_limit=-1)
        except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
            raise _translate(exc, what) from exc
        return feed

    async def read(self, wait_seconds: float) -> Sequence[Chunk]:
        if self._client.is_closed or not self._client.is_connected:
            raise NotConnected(f"{self._what}: the connection is lost")
        await self._pull()
        if not self._buffer:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with timeout(wait_seconds):
                    await self._arrived.wait()
        if self._refused:
            raise Transient(f"{self._what}: the server ends the consumer: {self._refused}")
        messages = [self._buffer.popleft() for _ in range(min(len(self._buffer), MOST_RECORDS))]
        await self._pull()
        return (Chunk([self._record(message) for message in messages], messages),) if messages else ()

    async def _pull(self) -> None:
        """Asks for more, if nothing is asked for and little waits."""
        now = asyncio.get_running_loop().time()
        if self._outstanding and now > self._pull_ends_at + SILENT_SECONDS:
            raise NotConnected(f"{self._what}: the server is silent")
        if self._outstanding or len(self._buffer) > MOST_RECORDS:
            return
        wanted: dict[str, int] = {"batch": 1 if self._alone else PULL_MESSAGES, "expires": int(PULL_SECONDS * 1e9)}
        if not self._alone:
            wanted["max_bytes"] = PULL_BYTES
        self._outstanding, self._pull_ends_at, self._pulled, self._alone = wanted["batch"], now + PULL_SECONDS, 0, False
        self._pulls += 1
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        try:
            await self._client.publish(subject, msgspec.json.encode(wanted), reply=f"{self._inbox}.{self._pulls}")
        except (nats.errors.Error, OSError) as exc:
            raise _translate(exc, self._what) from exc

    async def _take(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status") if not message.data else None
        if status is not None and not message.reply.startswith("$JS.ACK."):
            said = (message.headers or {}).get("Description", "")
            # the end of a pull may come behind the beginning of the next one
            if message.subject == f"{self._inbox}.{self._pulls}":
                self._outstanding = 0
                self._alone = said == _TOO_LARGE and not self._pulled
            if status not in ("404", "408") and said not in _ENDS:
                self._refused = said or f"status {status}"
        else:
            self._buffer.append(message)
            self._outstanding -= 1
            self._pulled += 1
        self._arrived.set()

    def _record(self, message: Msg) -> Record:
        told = message.metadata
        return Record(
            topic=message.subject,
            partition=self._stream,
            offset=told.sequence.stream,
            value=message.data,
            headers=_headers(message),
            timestamp_ms=int(told.timestamp.timestamp() * 1000),
        )

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        try:
            for chunk in chunks:
                messages: Any = chunk.place
                for message in messages:
                    await self._client.publish(message.reply, b"+ACK")
        except (nats.errors.Error, OSError) as exc:
            raise _translate(exc, self._what) from exc

    async def lag(self) -> Mapping[str, Lag]:
        try:
            info = await self._js.consumer_info(self._stream, self._consumer)
        except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
            raise _translate(exc, self._what) from exc
        return {self._stream: Lag(records=(info.num_pending or 0) + (info.num_ack_pending or 0))}

    async def close(self) -> None:
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            # behind the acknowledgements: the server has them when it answers
            await self._client.flush(timeout=2)
        await _close(self._client)


async def _take_over(js: JetStreamContext, stream: str, prefix: str, options: NatsOptions, *, queue: bool) -> str:
    """Returns the name of the consumer to read: that of a former reader if it acknowledged all that it took, else a new one.

    Args:
        queue: whether the stream is a work queue, which takes one consumer for a subject at a time and forgets nothing without it.
    """
    former: dict[int, api.ConsumerInfo] = {}
    offset = 0
    while page := await js.consumers_info(stream, offset):
        offset += len(page)
        for info in page:
            number = info.name.removeprefix(prefix)
            if info.name.startswith(prefix) and number.isdecimal():
                former[int(number)] = info
    newest = max(former, default=0)
    wanted = sorted(options.subjects)
    last = former.get(newest)
    if last is not None and len(former) == 1 and not last.num_ack_pending and _filters(last.config) == wanted:
        return last.name
    config = api.ConsumerConfig(
        durable_name=f"{prefix}{newest + 1}",
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_SECONDS,
        max_ack_pending=MOST_HELD,
        max_deliver=-1,
        filter_subject=wanted[0] if len(wanted) == 1 else None,
        filter_subjects=wanted if len(wanted) > 1 else None,
    )
    floors = [info.ack_floor.stream_seq for info in former.values() if info.ack_floor is not None]
    if queue:
        for info in former.values():
            await js.delete_consumer(stream, info.name)
        config.deliver_policy = api.DeliverPolicy.ALL
    elif floors:
        config.deliver_policy, config.opt_start_seq = api.DeliverPolicy.BY_START_SEQUENCE, max(floors) + 1
    elif (moment := start_time(options.start)) is not None:
        config.deliver_policy, config.opt_start_time = api.DeliverPolicy.BY_START_TIME, moment
    else:
        config.deliver_policy = api.DeliverPolicy.ALL if options.start == "earliest" else api.DeliverPolicy.NEW
    await js.add_consumer(stream, config)
    if not queue:
        for info in former.values():
            await js.delete_consumer(stream, info.name)
    return f"{prefix}{newest + 1}"


def _filters(config: api.ConsumerConfig) -> list[str]:
    return sorted(config.filter_subjects or ([config.filter_subject] if config.filter_subject else []))


class _PlainFeed(Feed):
    def __init__(self, client: HearingClient, what: str) -> None:
        self._client = client
        self._what = what
        self._waiting: asyncio.Queue[Msg] = asyncio.Queue(PLAIN_HELD)
        self._life = uuid.uuid4().hex
        self._number = 0
        self._subscriptions: list[Subscription] = []

    @classmethod
    async def open(cls, client: HearingClient, what: str, options: NatsOptions) -> _PlainFeed:
        feed = cls(client, what)

        async def take(message: Msg) -> None:
            await feed._waiting.put(message)

        try:
            for subject in options.subjects:
                subscribed = await client.subscribe(subject, queue=options.queue or "", cb=take, pending_msgs_limit=PLAIN_HELD)
                feed._subscriptions.append(subscribed)
            await client.flush(timeout=5)
        except (nats.errors.Error, OSError, TimeoutError) as exc:
            raise _translate(exc, what) from exc
        return feed

    async def read(self, wait_seconds: float) -> Sequence[Chunk]:
        records: list[Record] = []
        if self._waiting.empty():
            with contextlib.suppress(TimeoutError):
                async with timeout(wait_seconds):
                    records.append(self._record(await self._waiting.get()))
        while len(records) < MOST_RECORDS and not self._waiting.empty():
            records.append(self._record(self._waiting.get_nowait()))
        if not records and self._client.is_closed:
            raise NotConnected(f"{self._what}: the connection is lost")
        return (Chunk(records, None),) if records else ()

    def _record(self, message: Msg) -> Record:
        self._number += 1
        return Record(
            topic=message.subject,
            partition=self._life,
            offset=self._number,
            value=message.data,
            headers=_headers(message),
        )

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """Plain subjects have no position."""

    async def lag(self) -> Mapping[str, Lag]:
        return {"waiting": Lag(records=self._waiting.qsize())}

    async def close(self) -> None:
        await _close(self._client)


def _headers(message: Msg) -> list[tuple[str, bytes]]:
    return [(name, value.encode("utf-8", "surrogateescape")) for name, value in (message.headers or {}).items()]
