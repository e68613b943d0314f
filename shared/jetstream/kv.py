"""Key-value buckets: get, compare-and-set, delete, list and watch, on plain JetStream messages (layout: NATS ADR-8).

Every write has its own message id. The server looks at the expected revision before it looks for repeats. So if an
acknowledgement is lost and we send the write again, its own first copy makes the server refuse it; the id then tells that the
stored value is ours. A revision is the sequence in the bucket's stream. It only grows, also over deletions, so it serves as a
fencing token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from shared.errors import UNREADABLE, Conflict, NotConnected, SetupError
from shared.jetstream.broker import Broker, asking, delete_message
from shared.jetstream.publisher import DEADLINE_SECONDS, EXPECTED_LAST_SUBJECT_SEQUENCE, MSG_ID, MSG_TTL
from shared.jetstream.reader import StreamReader, StreamReplaced
from shared.tasks import timeout

T = TypeVar("T")

HISTORY_SECONDS = 10.0
ANSWER_SECONDS = 5.0
PAGE = 100_000
"""Subjects that the server names in one answer."""
MOST_ASKED = 256
"""Keys in one request; the server takes 1024."""
MOST_ANSWER_BYTES = 8 * 1024 * 1024
MOST_TOGETHER = 512
"""Values in one batch; the server takes 1000."""

_OPERATION = "KV-Operation"
_BATCH, _BATCH_SEQUENCE, _BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
_END_OF_BATCH = "204"
_ENDS = (_END_OF_BATCH, "404")
"""Statuses that end an answer: all that there is, or nothing."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its revision; `value` is None if the key was deleted (only watches show that).

    `ttl_seconds`: the time after which it should vanish, None if it stays; only `get` fills it in.
    """

    key: str
    value: bytes | None
    revision: int
    ttl_seconds: float | None = None


class Write(NamedTuple):
    """A value for a key, if `revision` is still the key's newest one; 0: it has none."""

    key: str
    value: bytes
    revision: int


class _Together(msgspec.Struct, frozen=True):
    """The server's answer to a batch: the sequence of its last message."""

    seq: int = 0
    batch: str = ""
    count: int = 0


_decode_together = msgspec.json.Decoder(_Together).decode


def value_of(entry: Entry | None, type_: type[T], *, packed: bool = False) -> T | None:
    """Returns the value of an entry of the bucket `state`; None: it has none.

    Args:
        packed: it is MessagePack, and not JSON.

    Raises:
        SetupError: it is damaged, or of a later release; the text names the key and what to do.
    """
    if entry is None or not entry.value:
        return None
    try:
        return (msgspec.msgpack.decode if packed else msgspec.json.decode)(entry.value, type=type_)
    except UNREADABLE as exc:
        raise SetupError(
            f"the value {entry.key} of the bucket `state` cannot be read: {exc}; run the release that wrote it, put its value of "
            "before back, or delete it to begin again"
        ) from exc


class Bucket:
    """One bucket. Keys are subject tokens joined by dots."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def get(self, key: str) -> Entry | None:
        """Returns the newest value of a key, None if it has none.

        Raises:
            NotConnected: the broker does not answer.
        """
        message = await self._last(key)
        headers = message.headers or {} if message is not None else {}
        if message is None or headers.get(_OPERATION):
            return None
        ttl = headers.get(MSG_TTL)
        return Entry(key, message.data or b"", message.seq or 0, float(ttl.removesuffix("s")) if ttl else None)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Returns the newest values of the keys that have one, for the price of a request for each `MOST_ASKED` keys.

        In a cluster any copy of the bucket answers, so a value may be some milliseconds old.

        Raises:
            NotConnected: the broker does not answer.
        """
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), MOST_ASKED):
            left = list(keys[start : start + MOST_ASKED])
            while left:
                entries, more = await self._ask(left)
                found.update(entries)
                left = [key for key in left if key not in entries] if more and entries else []
        return found

    async def _ask(self, keys: Sequence[str]) -> tuple[dict[str, Entry], bool]:
        """Returns values of keys, and whether the server cut the answer at `MOST_ANSWER_BYTES` (direct get of NATS ADR-31)."""
        nc, inbox = self._broker.nc, self._broker.nc.new_inbox()
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        request = {
            "multi_last": [self._prefix + key for key in keys],
            "batch": len(keys),
            "max_bytes": MOST_ANSWER_BYTES,
        }
        found: dict[str, Entry] = {}
        with asking(f"cannot read {len(keys)} keys of {self._stream}"):
            subscription = await nc.subscribe(inbox, cb=answers.put)
            try:
                await nc.publish(f"$JS.API.DIRECT.GET.{self._stream}", msgspec.json.encode(request), reply=inbox)
                while True:
                    async with timeout(ANSWER_SECONDS):
                        message = await answers.get()
                    headers = message.headers or {}
                    status = headers.get("Status")
                    if status in _ENDS:
                        return found, status == _END_OF_BATCH and headers.get("Nats-Num-Pending", "0") != "0"
                    if status is not None:
                        raise NotConnected(f"{self._stream} gives no values: {headers.get('Description') or status}")
                    if not headers.get(_OPERATION):
                        key = headers["Nats-Subject"].removeprefix(self._prefix)
                        found[key] = Entry(key, message.data, int(headers["Nats-Sequence"]))
            finally:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()

    async def history(self, key: str) -> list[Entry]:
        """Returns the values that the bucket keeps of a key, the oldest first.

        Raises:
            NotConnected: the broker does not answer.
        """
        found: list[Entry] = []
        last = await self._last(key)
        if last is None:
            return found
        async with StreamReader(self._broker, self._stream, self._prefix + key) as reader:
            while (message := await reader.next(HISTORY_SECONDS)) is not None:
                deleted = bool(message.headers.get(_OPERATION))
                found.append(Entry(key, None if deleted else message.payload, message.seq))
                if message.seq >= (last.seq or 0):
                    return found
        raise NotConnected(f"{self._stream} does not give all values of {key}")

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        revision: int | None = None,
        ttl_seconds: float | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> int:
        """Writes a value and returns its revision.

        Args:
            revision: write only if this is still the newest revision of the key; 0: only if the key does not exist.
            ttl_seconds: the value vanishes after this time, whole seconds, at least one.

        Raises:
            Conflict: the key has another revision.
            NotConnected, Transient, QueueFull: not known to be written.
        """
        headers: dict[str, str] = {}
        if revision is not None:
            headers[EXPECTED_LAST_SUBJECT_SEQUENCE] = str(revision)
        if ttl_seconds is not None:
            headers[MSG_TTL] = f"{max(1, round(ttl_seconds))}s"
        write = uuid.uuid4().hex
        try:
            ack = await self._broker.publisher.publish(
                self._prefix + key, value, msg_id=write, headers=headers, deadline_seconds=deadline_seconds
            )
        except Conflict:
            stored = await self._last(key)
            told = (stored.headers or {}) if stored is not None else {}
            if stored is not None and told.get(MSG_ID) == write:
                return stored.seq or 0
            if revision == 0 and stored is not None and told.get(_OPERATION):  # deleted: the key does not exist
                return await self.put(key, value, revision=stored.seq, ttl_seconds=ttl_seconds, deadline_seconds=deadline_seconds)
            raise
        return ack.seq

    async def put_together(self, writes: Sequence[Write], *, ttl_seconds: float) -> list[int] | None:
        """Writes values of different keys, all or none, for the price of one sync; returns their revisions (atomic batch of NATS ADR-50).

        None: the server took none, because a key has another revision, there is no room, or it takes no batches. `put` tells which.

        Args:
            writes: `MOST_TOGETHER` at most.
            ttl_seconds: the values vanish after this time, whole seconds, at least one.

        Raises:
            NotConnected: not known to be written.
        """
        nc, batch = self._broker.nc, uuid.uuid4().hex
        inbox = nc.new_inbox()
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        ttl = f"{max(1, round(ttl_seconds))}s"
        with asking(f"cannot write {len(writes)} keys of {self._stream}"):
            subscription = await nc.subscribe(inbox, cb=answers.put)
            try:
                for number, (key, value, revision) in enumerate(writes, 1):
                    headers = {
                        _BATCH: batch,
                        _BATCH_SEQUENCE: str(number),
                        EXPECTED_LAST_SUBJECT_SEQUENCE: str(revision),
                        MSG_TTL: ttl,
                    }
                    last = number == len(writes)
                    if last:
                        headers[_BATCH_COMMIT] = "1"
                    await nc.publish(self._prefix + key, value, reply=inbox if last else "", headers=headers)
                async with timeout(ANSWER_SECONDS):
                    answer = (await answers.get()).data
            except nats.errors.MaxPayloadError:
                return None
            finally:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()
        told = _decode_together(answer) if answer else _Together()
        if (told.batch, told.count) != (batch, len(writes)):
            return None
        return list(range(told.seq - told.count + 1, told.seq + 1))

    async def delete(self, key: str) -> None:
        """Deletes a key; watchers see it with no value.

        Raises:
            NotConnected, Transient: not known to be deleted.
        """
        await self._broker.publisher.publish(self._prefix + key, b"", msg_id=uuid.uuid4().hex, headers={_OPERATION: "DEL"})

    async def erase(self, revision: int) -> None:
        """Removes one revision as if it had expired; watchers see nothing. A missing revision is no error.

        Raises:
            NotConnected: not known to be removed.
        """
        await delete_message(self._broker, self._stream, revision)

    async def remove(self, revision: int) -> None:
        """As `erase`, for a value that does no harm if it stays: no failure is an error."""
        with contextlib.suppress(NotConnected):
            await self.erase(revision)

    async def keys(self, prefix: str = "") -> list[str]:
        """Returns every key that starts with `prefix` (whole tokens).

        Raises:
            NotConnected: the broker does not answer.
        """
        wanted = f"{self._prefix}{prefix}>"
        with asking(f"cannot list {self._stream}"):
            found = set((await self._broker.js.stream_info(self._stream, subjects_filter=wanted)).state.subjects or {})
            page = len(found)
            while page >= PAGE:
                request = msgspec.json.encode({"subjects_filter": wanted, "offset": len(found)})
                answer = await self._broker.nc.request(f"$JS.API.STREAM.INFO.{self._stream}", request, timeout=DEADLINE_SECONDS)
                more = (msgspec.json.decode(answer.data).get("state") or {}).get("subjects") or {}
                found.update(more)
                page = len(more)
        return sorted(subject.removeprefix(self._prefix) for subject in found)

    async def entries(self, prefix: str = "") -> list[Entry]:
        """Returns the newest value of every key that starts with `prefix` (whole tokens).

        Raises:
            NotConnected: the broker does not answer.
        """
        found = [await self.get(key) for key in await self.keys(prefix)]
        return [entry for entry in found if entry is not None]

    async def _last(self, key: str) -> RawStreamMsg | None:
        with asking(f"cannot read key {key} of {self._stream}"):
            try:
                return await self._broker.js.get_last_msg(self._stream, self._prefix + key)
            except NotFoundError:
                return None

    async def watch(self, pattern: str = ">") -> AsyncGenerator[Entry, None]:
        """Yields the newest value of each key, then every change, for ever; survives reconnections.

        When the bucket was created again it begins with the newest values: revisions may then be lower than before.
        """
        while True:
            async with StreamReader(self._broker, self._stream, self._prefix + pattern, last_per_subject=True) as reader:
                try:
                    async for message in reader:
                        deleted = bool(message.headers.get(_OPERATION))
                        yield Entry(message.subject.removeprefix(self._prefix), None if deleted else message.payload, message.seq)
                except StreamReplaced as exc:
                    log.warning("a bucket is watched from its beginning", extra={"bucket": self._stream, "error": str(exc)})
