"""Reading a work queue, strictly in order, as the only consumer of its subject; a message is acknowledged when its work is done.

Messages that were not acknowledged come again, in order, to the next reader. `shared/jetstream/reader.py` does the reading. Each
reader's consumer has its own name, and a new reader deletes the consumer of the last one: from then on the last reader can take
no message out of the queue, however long it was frozen. It finds out when it reads on.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import nats.errors
from nats.js import api
from nats.js.errors import BadRequestError, NotFoundError

from shared.errors import Fenced, NotConnected
from shared.jetstream.broker import Broker, asking
from shared.jetstream.reader import PULL_BYTES, Message, StreamReader

ACK_WAIT_SECONDS = 6 * 3600.0
"""A reader that dies is replaced by one that creates the consumer again; waiting for this to pass never matters."""

MOST_HELD = 100_000
CLAIM_SECONDS = 10.0
REMOVE_SECONDS = 5.0
_NOT_UNIQUE = 10100  # server/errors.json of nats-server: a work queue has one consumer for a subject


class QueueReader(StreamReader):
    """The only consumer of a subject of a work queue. A message stays in the stream until `ack`.

    When the reader creates the consumer again, at the start and after every fault, the broker delivers all unacknowledged
    messages again. The reader leaves out those it has handed out, so the caller sees each message once. Two readers of one
    subject take the consumer from each other: hold a lease.

    Args:
        consumer: how the consumer's name begins.
        epoch: of the lease; a reader takes the consumer from readers with the same or a lower epoch.
        most_held: messages handed out and not acknowledged, beyond which no more come; -1 for no bound.
    """

    def __init__(
        self,
        broker: Broker,
        stream: str,
        subject: str,
        consumer: str,
        *,
        epoch: int = 0,
        pull_bytes: int = PULL_BYTES,
        most_held: int = MOST_HELD,
    ) -> None:
        super().__init__(broker, stream, subject, pull_bytes=pull_bytes)
        self._durable = f"{consumer}-{uuid.uuid4().hex[:12]}"
        self._epoch = epoch
        self._most_held = most_held
        self._replies: dict[int, str] = {}
        self._last_ack = ""

    async def count(self) -> int:
        """Returns how many messages the queue holds, handed out or not.

        Raises:
            NotConnected: the broker does not answer.
        """
        with asking(f"cannot count {self._subject}"):
            info = await self._broker.js.stream_info(self._stream, subjects_filter=self._subject)
        return sum((info.state.subjects or {}).values())

    async def claim(self) -> None:
        """Makes the consumer now, instead of at the first `next`: afterwards no former reader can acknowledge a message.

        Raises:
            NotConnected: the broker does not answer.
            Fenced: a reader with a higher epoch exists; `next` raises it too.
        """
        if self._broken and not await self._rebuild(asyncio.get_running_loop().time() + CLAIM_SECONDS):
            raise NotConnected(f"cannot read {self._subject}: the broker does not answer")

    async def payload(self, seq: int) -> bytes:
        """Reads again the payload of a message that was handed out and is not acknowledged.

        Raises:
            NotConnected: the broker does not answer, or has lost it.
        """
        with asking(f"cannot read message {seq} of {self._stream}"):
            return (await self._broker.js.get_msg(self._stream, seq)).data or b""

    async def ack(self, seqs: list[int]) -> None:
        """Tells the broker that the work of these messages is done. A lost acknowledgement means that they come again.

        Raises:
            NotConnected: the connection is gone.
        """
        try:
            for seq in seqs:
                reply = self._replies.pop(seq, None)
                if reply is not None:
                    self._last_ack = reply
                    await self._broker.nc.publish(reply, b"+ACK")
        except (nats.errors.Error, OSError) as exc:
            raise NotConnected("acknowledging failed: the connection to the broker is gone") from exc

    async def remove(self, seqs: list[int]) -> None:
        """Acknowledges as `ack` does, and returns when the broker says that the messages are gone.

        Raises:
            NotConnected: the messages may still be there.
        """
        with asking(f"cannot acknowledge messages of {self._stream}"):
            for seq in seqs:
                reply = self._replies.pop(seq, None)
                if reply is not None:
                    await self._broker.nc.request(reply, b"+ACK", timeout=REMOVE_SECONDS)

    async def __aexit__(self, *_: object) -> None:
        # The server handles acknowledgements later, and forgets them when a successor creates the consumer again: the
        # answer to the last one says that all are done. Without it the messages would only come again.
        if self._last_ack and self._broker.nc.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await self._broker.nc.request(self._last_ack, b"+ACK", timeout=2)
        await super().__aexit__()

    def _config(self, name: str) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            name=name,
            durable_name=name,
            description=str(self._epoch),
            ack_policy=api.AckPolicy.EXPLICIT,
            deliver_policy=api.DeliverPolicy.ALL,
            replay_policy=api.ReplayPolicy.INSTANT,
            filter_subject=self._subject,
            ack_wait=ACK_WAIT_SECONDS,
            inactive_threshold=ACK_WAIT_SECONDS,
            max_ack_pending=self._most_held,
            max_deliver=-1,
            mem_storage=True,
        )

    async def _create(self) -> str:
        with contextlib.suppress(NotFoundError):
            await self._broker.js.delete_consumer(self._stream, self._durable)
        try:
            await self._broker.js.add_consumer(self._stream, self._config(self._durable))
        except BadRequestError as exc:
            if exc.err_code != _NOT_UNIQUE:
                raise
            await self._delete_others()
            await self._broker.js.add_consumer(self._stream, self._config(self._durable))
        return self._durable

    async def _delete_others(self) -> None:
        offset = 0
        while page := await self._broker.js.consumers_info(self._stream, offset):
            offset += len(page)
            for info in page:
                if info.config.filter_subject == self._subject:
                    if int(info.config.description or 0) > self._epoch:
                        raise Fenced(f"a newer holder reads {self._subject}")
                    with contextlib.suppress(NotFoundError):
                        await self._broker.js.delete_consumer(self._stream, info.name)

    async def _delete(self, consumer: str) -> None:
        """Deletes nothing: another holder may have created the consumer again already."""

    async def _accept(self, message: Message, reply: str) -> None:
        if message.seq > self._last_seq:
            self._replies[message.seq] = reply
            self._buffer.append(message)
        elif message.seq in self._replies:
            self._replies[message.seq] = reply
        else:  # its work is done and the acknowledgement was lost
            self._last_ack = reply
            await self._broker.nc.publish(reply, b"+ACK")
