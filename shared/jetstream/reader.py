"""Reading a stream in strict order, without gaps and without repeats, whatever happens to the connection or the server.

`StreamReader` follows a stream (or a filter of it) from a sequence or a time. It acknowledges nothing; the caller remembers how
far it got. For work queues, whose messages are acknowledged, see `shared/jetstream/queue_reader.py`.

It pulls in bounded steps over one subscription. JetStream numbers what it delivers to a consumer; a hole in these numbers, a
missed heartbeat, a reconnection or a vanished consumer all lead to the same remedy: create the consumer again behind the last
message handed out. So no message overtakes one that was lost on the wire. All code that keeps a high-water mark depends on this.

Sequences mean something within one stream only. If the stream was created again under its name, or an older copy of it was put
back, the reader raises `StreamReplaced` instead of waiting for a sequence that comes much later.

Only one task may read from a reader at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Self

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from shared.errors import Transient
from shared.jetstream.broker import Broker
from shared.tasks import timeout

PULL_MESSAGES = 64
PULL_BYTES = 4 * 1024 * 1024
PULL_EXPIRES_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
STALLED_SECONDS = 2.5 * HEARTBEAT_SECONDS
REBUILD_SECONDS = 0.25
INACTIVE_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message: `seq` in its stream, `at_seconds` when it was stored (epoch), `waiting` how many are behind it."""

    subject: str
    payload: bytes
    headers: Mapping[str, str]
    seq: int
    at_seconds: float
    waiting: int


class StreamReplaced(Transient):
    """The messages so far came from another stream: forget its sequences and begin again."""


class StreamReader:
    """Follows a stream in order. Use as an async context manager; iterate, or call `next`.

    Args:
        stream: name of the stream.
        subject: filter, may hold wildcards; None: all of the stream.
        start_seq: first sequence to read. If it has expired, reading starts at the first sequence that the stream has.
        start_seconds: or the time (epoch) to start from. With `start_seq`: at the time, but not behind that sequence. If the broker's
            clock went back, the times of a stream jump; then it is read from its beginning.
        last_per_subject: or begin with the newest message of every subject.
        headers_only: leave out payloads; the header `Nats-Msg-Size` says how large they are.
    """

    def __init__(
        self,
        broker: Broker,
        stream: str,
        subject: str | None = None,
        *,
        start_seq: int | None = None,
        start_seconds: float | None = None,
        last_per_subject: bool = False,
        headers_only: bool = False,
        pull_messages: int = PULL_MESSAGES,
        pull_bytes: int = PULL_BYTES,
    ) -> None:
        self._broker = broker
        self._stream = stream
        self._subject = subject
        self._start_seq = start_seq
        self._start_seconds = start_seconds
        self._last_per_subject = last_per_subject
        self._headers_only = headers_only
        self._pull_messages = pull_messages
        self._pull_bytes = pull_bytes
        self._created: datetime | None = None
        self._consumer = ""
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._buffer: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._woken = False
        self._nudged = False
        self._broken = True
        self._delivered = 0
        self._last_seq = 0
        self._pull = 0
        self._outstanding = 0
        self._next_is_large = False
        self._heard_at = 0.0
        self._forget_reconnect: Callable[[], None] = _nothing

    @property
    def last_seq(self) -> int:
        """Sequence of the last message handed out; 0 before the first."""
        return self._last_seq

    async def __aenter__(self) -> Self:
        self._forget_reconnect = self._broker.on_reconnect(self._break)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._forget_reconnect()
        await self._drop_consumer()

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            message = await self.next()
            if message is not None:
                yield message

    def wake(self) -> None:
        """Ends the wait in `next`, now and from now on: it returns a message that is here, else None. For a caller that must end."""
        self._woken = True
        self._arrived.set()

    def nudge(self) -> None:
        """Ends the present wait in `next`, or the next one: it returns a message that is here, else None."""
        self._nudged = True
        self._arrived.set()

    async def next(self, timeout_seconds: float | None = None) -> Message | None:
        """Returns the next message; None if none came within `timeout_seconds` (None: wait for ever), or after `wake` or `nudge`.

        Raises:
            StreamReplaced: another stream has this name now.
        """
        loop = asyncio.get_running_loop()
        ends_at = None if timeout_seconds is None else loop.time() + timeout_seconds
        while True:
            if self._buffer:
                message = self._buffer.popleft()
                self._last_seq = message.seq
                if not self._broken and self._outstanding <= self._pull_messages // 4 and len(self._buffer) < self._pull_messages:
                    await self._request()
                return message
            if self._woken or self._nudged:
                self._nudged = False
                return None
            if self._broken and not await self._rebuild(ends_at):
                return None
            if self._buffer or self._woken or self._nudged:
                continue
            self._arrived.clear()
            wait = STALLED_SECONDS if ends_at is None else min(STALLED_SECONDS, ends_at - loop.time())
            if wait <= 0:
                return None
            with contextlib.suppress(TimeoutError):
                async with timeout(wait):
                    await self._arrived.wait()
            if not self._buffer and not self._broken:
                if loop.time() - self._heard_at >= STALLED_SECONDS:
                    log.info(
                        "reader hears nothing; starting it again", extra={"stream": self._stream, "consumer": self._consumer}
                    )
                    self._broker.suspicion.note(self._stream)
                    self._break()
                elif self._outstanding <= 0:
                    await self._request()

    def take_buffered(self, most: int) -> list[Message]:
        """Returns up to `most` messages that are here already, without waiting."""
        taken: list[Message] = []
        while self._buffer and len(taken) < most:
            taken.append(self._buffer.popleft())
        if taken:
            self._last_seq = taken[-1].seq
        return taken

    def _config(self, name: str) -> api.ConsumerConfig:
        config = api.ConsumerConfig(
            name=name,
            ack_policy=api.AckPolicy.NONE,
            replay_policy=api.ReplayPolicy.INSTANT,
            filter_subject=self._subject,
            inactive_threshold=INACTIVE_SECONDS,
            headers_only=self._headers_only or None,
            mem_storage=True,
            num_replicas=1,
            max_deliver=1,
        )
        if self._last_seq:
            config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = self._last_seq + 1
        elif self._start_seconds is not None:
            config.deliver_policy = api.DeliverPolicy.BY_START_TIME
            config.opt_start_time = datetime.fromtimestamp(self._start_seconds, UTC)
        elif self._start_seq is not None:
            config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = self._start_seq
        elif self._last_per_subject:
            config.deliver_policy = api.DeliverPolicy.LAST_PER_SUBJECT
        else:
            config.deliver_policy = api.DeliverPolicy.ALL
        return config

    async def _create(self) -> str:
        info = await self._broker.js.add_consumer(self._stream, self._config(f"r{uuid.uuid4().hex}"))
        if self._start_seconds is not None and self._start_seq is not None and not self._last_seq:
            begins = (info.delivered.stream_seq if info.delivered else 0) + 1
            if begins > self._start_seq:
                await self._delete(info.name)
                self._start_seconds, self._start_seq = None, 1
                return await self._create()
        return info.name

    async def _check_identity(self) -> None:
        info = await self._broker.js.stream_info(self._stream)
        if self._created is None:
            self._created = info.created
        if info.created != self._created or info.state.last_seq < self._last_seq:
            raise StreamReplaced(
                f"the stream {self._stream} is not the one that was read before: it was created again or went back"
            )

    def _break(self) -> None:
        self._broken = True
        self._arrived.set()

    async def _rebuild(self, ends_at: float | None) -> bool:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with timeout(None if ends_at is None else ends_at - loop.time()):
                    await self._broker.connected.wait()
            except TimeoutError:
                return False
            await self._drop_consumer()
            self._broken = False
            try:
                # The answer of a server that dies meanwhile never comes; the API call has its own timeout.
                self._inbox = self._broker.nc.new_inbox()
                self._delivered = 0
                self._outstanding = 0
                self._next_is_large = False
                await self._check_identity()
                self._consumer = await self._create()
                self._subscription = await self._broker.nc.subscribe(
                    f"{self._inbox}.*", cb=partial(self._on_message, self._inbox)
                )
                self._heard_at = loop.time()
                await self._request()
                if not self._broken:  # else a reconnection broke it while it was made: what it delivers would be thrown away
                    return True
                continue
            except NotFoundError as exc:
                failure: Exception = exc
            except (APIError, nats.errors.Error, OSError, TimeoutError) as exc:
                failure = exc
                self._broker.suspicion.note(self._stream)
            log.debug("reader cannot start yet", extra={"stream": self._stream, "error": str(failure)})
            self._broken = True
            if ends_at is not None and loop.time() + REBUILD_SECONDS >= ends_at:
                return False
            await asyncio.sleep(REBUILD_SECONDS)

    async def _drop_consumer(self) -> None:
        self._buffer.clear()
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        with contextlib.suppress(nats.errors.Error, APIError, OSError, TimeoutError):
            if subscription is not None:
                await subscription.unsubscribe()
            if consumer and self._broker.nc.is_connected:
                await self._delete(consumer)

    async def _delete(self, consumer: str) -> None:
        # No wait for an answer: an inactive consumer ends by itself.
        await self._broker.nc.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}")

    async def _request(self) -> None:
        self._pull += 1
        request = {
            "batch": self._pull_messages,
            "max_bytes": self._pull_bytes,
            "expires": int(PULL_EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
        }
        if self._next_is_large:
            self._next_is_large = False
            request.update(batch=1, max_bytes=0)
        self._outstanding += request["batch"]
        try:
            await self._broker.nc.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
                msgspec.json.encode(request),
                reply=f"{self._inbox}.{self._pull}",
            )
        except (nats.errors.Error, OSError):
            self._break()

    async def _on_message(self, inbox: str, message: Msg) -> None:
        if inbox != self._inbox:  # a late message of the consumer before this one
            return
        self._heard_at = asyncio.get_running_loop().time()
        if not message.reply.startswith("$JS.ACK."):
            self._on_status(message)
            return
        stream_seq, consumer_seq, at_nanos, waiting = _parse_reply(message.reply)
        if self._broken:
            return
        if consumer_seq != self._delivered + 1:
            log.warning(
                "messages were lost on the way; reading them again",
                extra={"stream": self._stream, "expected": self._delivered + 1, "got": consumer_seq},
            )
            self._break()
            return
        self._delivered = consumer_seq
        self._outstanding -= 1
        await self._accept(
            Message(
                subject=message.subject,
                payload=message.data,
                headers=message.headers or _NO_HEADERS,
                seq=stream_seq,
                at_seconds=at_nanos / 1e9,
                waiting=waiting,
            ),
            message.reply,
        )
        self._arrived.set()

    async def _accept(self, message: Message, reply: str) -> None:  # noqa: ARG002  # a queue needs it
        self._buffer.append(message)

    def _on_status(self, message: Msg) -> None:
        headers = message.headers or _NO_HEADERS
        status = headers.get("Status", "")
        if status == "100":
            return
        if status in ("404", "408"):
            self._end_pull(headers)
            return
        if status == "409":
            description = headers.get("Description", "").lower()
            if "exceeded" in description or "batch completed" in description or "max" in description or "size" in description:
                self._end_pull(headers)
                return
        if status:
            log.info("reader must start again", extra={"stream": self._stream, "status": status})
            self._break()

    def _end_pull(self, headers: Mapping[str, str]) -> None:
        left = int(headers.get("Nats-Pending-Messages", "0") or 0)
        self._outstanding -= left
        # no message fitted the pull's room: the next one alone is larger than the room
        self._next_is_large = left >= self._pull_messages and headers.get("Status") == "409"
        self._arrived.set()


_NO_HEADERS: Mapping[str, str] = {}


def _nothing() -> None:
    """Does nothing: the callback where none is registered."""


def _parse_reply(reply: str) -> tuple[int, int, int, int]:
    """Returns stream sequence, consumer sequence, time in ns and messages waiting (NATS ADR-15; the longer form has a domain)."""
    tokens = reply.split(".")
    offset = 0 if len(tokens) == 9 else 2
    return int(tokens[5 + offset]), int(tokens[6 + offset]), int(tokens[7 + offset]), int(tokens[8 + offset])
