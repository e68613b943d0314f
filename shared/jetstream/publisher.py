"""Publishing with one promise: `publish` returns when the broker has the message on disk, else it raises.

One inbox receives all acknowledgements. A message without one is sent again, the same bytes under the same id, so that
JetStream stores it once (`Nats-Msg-Id` within the stream's duplicate window): after two seconds, and at once when the link comes
back. After the deadline `publish` raises, and the caller must treat the message as perhaps stored.

The publisher has no queue: the caller bounds how many messages are under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared.errors import Conflict, NotConnected, Permanent, QueueFull, Transient

RESEND_SECONDS = 2.0
RETRY_SECONDS = 0.25
DEADLINE_SECONDS = 10.0
"""Longer than a cluster needs to elect a new leader (4 to 9 s), well within the duplicate window."""

MSG_ID = "Nats-Msg-Id"
EXPECTED_LAST_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
MSG_TTL = "Nats-TTL"

# Error codes of the server (server/errors.json of nats-server)
_STORE_FAILED = 10077  # a limit of the stream or subject is reached and it discards new messages
_WRONG_LAST_SEQUENCE = (10071, 10164)
_MESSAGE_TOO_LARGE = 10054

log = logging.getLogger(__name__)


class PubAck(msgspec.Struct, frozen=True):
    """What the broker answered: the message's sequence in its stream; `duplicate` when it had it already."""

    stream: str
    seq: int
    duplicate: bool = False


class _Failure(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Failure | None = None


_decode_reply = msgspec.json.Decoder(_Reply).decode


class Publisher:
    """Publishes durable messages over one link; any number of tasks may use it at once.

    Args:
        unanswered: hears the subject of a message that was not acknowledged in time, or refused for now.
    """

    def __init__(self, nc: Client, unanswered: Callable[[str], None]) -> None:
        self._nc = nc
        self._unanswered = unanswered
        self._inbox = nc.new_inbox()
        self._waiting: dict[str, asyncio.Future[_Reply | None]] = {}
        """The answer to each message under way; None: it is time to send it again."""
        self._next = 0
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Subscribes to the inbox."""
        self._subscription = await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_reply)

    def close(self) -> None:
        """Fails every call that still waits."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NotConnected("the connection to the broker was closed"))
        self._waiting.clear()

    def resend_all(self) -> None:
        """Sends everything unacknowledged again, now."""
        for answer in self._waiting.values():
            _give_up(answer)

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> PubAck:
        """Publishes and waits until the stream has stored the message.

        Args:
            msg_id: identity of the message; the broker stores one message per id within the stream's window. Without it a
                resend may be stored twice.

        Raises:
            QueueFull: the stream or the subject takes no more; the message is not stored.
            Conflict: an expectation of the headers does not hold; the message is not stored.
            NotConnected: no acknowledgement within the deadline; the message may or may not be stored.
            Transient: the broker refused it for a reason that may pass, until the deadline.
            Permanent: the broker can never take it (too large).
        """
        all_headers = dict(headers) if headers else {}
        if msg_id is not None:
            all_headers[MSG_ID] = msg_id
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_seconds
        self._next += 1
        token = f"{self._inbox}.{self._next}"
        refused: _Failure | None = None
        try:
            while True:
                answer = self._waiting[token] = loop.create_future()
                if self._nc.is_connected:
                    await self._send(subject, payload, token, all_headers)
                timer = loop.call_at(min(loop.time() + RESEND_SECONDS, ends_at), _give_up, answer)
                try:
                    reply = await answer
                finally:
                    timer.cancel()
                if reply is not None and reply.error is None:
                    return PubAck(reply.stream, reply.seq, reply.duplicate)
                if reply is not None and reply.error is not None:
                    refused = reply.error
                    _raise_final(subject, refused)
                self._unanswered(subject)
                if reply is not None:
                    await asyncio.sleep(min(RETRY_SECONDS, max(0.0, ends_at - loop.time())))
                if loop.time() >= ends_at:
                    if refused is not None:
                        raise Transient(f"broker refused a message on {subject}: {refused.description or refused.code}")
                    why = "; its log says why, such as a full disk" if self._nc.is_connected else ""
                    raise NotConnected(
                        f"no acknowledgement of the broker for a message on {subject} within {deadline_seconds:g} s{why}"
                    )
        finally:
            self._waiting.pop(token, None)

    async def _send(self, subject: str, payload: bytes, reply: str, headers: dict[str, str]) -> None:
        try:
            await self._nc.publish(subject, payload, reply=reply, headers=headers or None)
        except nats.errors.MaxPayloadError as exc:
            raise Permanent(f"a message of {len(payload)} bytes on {subject} exceeds the broker's max_payload") from exc
        except nats.errors.ConnectionClosedError as exc:
            raise NotConnected("the connection to the broker is closed") from exc
        except (nats.errors.Error, OSError) as exc:
            log.debug("publish failed, will be sent again", extra={"subject": subject, "error": str(exc)})

    async def _on_reply(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is None or future.done():
            return
        if not message.data:  # a status line: no stream listens on the subject yet, or JetStream is away
            code = (message.headers or {}).get("Status", "503")
            future.set_result(_Reply(error=_Failure(code=int(code), description="no stream takes this subject yet")))
            return
        try:
            future.set_result(_decode_reply(message.data))
        except msgspec.MsgspecError as exc:
            future.set_result(_Reply(error=_Failure(description=f"unreadable answer: {exc}")))


def _give_up(answer: asyncio.Future[_Reply | None]) -> None:
    if not answer.done():
        answer.set_result(None)


def _raise_final(subject: str, failure: _Failure) -> None:
    if failure.err_code == _STORE_FAILED:
        raise QueueFull(f"{subject} takes no more messages: {failure.description}")
    if failure.err_code in _WRONG_LAST_SEQUENCE:
        raise Conflict(f"{subject} was changed by another writer: {failure.description}")
    if failure.err_code == _MESSAGE_TOO_LARGE:
        raise Permanent(f"a message on {subject} is too large: {failure.description}")
