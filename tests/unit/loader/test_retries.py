"""Rows set aside: which of them a loader takes for its own."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from loader.queue.aside import Aside, Failing
from loader.queue.retries import Retries
from shared.events.headers import EPOCH, TABLE, Place, write_place
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message


class Queue:
    """As much of a reader as `Retries` needs."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.acked: list[int] = []

    def put(self, seq: int, epoch: int) -> None:
        headers = {**write_place(Place("live", seq, 1)), TABLE: "events", EPOCH: str(epoch)}
        self.messages.append(Message("retry.loader.c", b"", headers, seq, 0.0, len(self.messages)))

    async def count(self) -> int:
        return len(self.messages)

    async def next(self, _: float) -> Message | None:
        return self.messages.popleft() if self.messages else None

    def take_buffered(self, _: int) -> list[Message]:
        return [self.messages.popleft()] if self.messages else []

    async def ack(self, seqs: list[int]) -> None:
        self.acked += seqs


async def unreadable(*_: Any) -> None:
    raise AssertionError


async def test_what_a_former_loader_puts_aside_behind_its_successors_back_is_left_to_the_queue() -> None:
    queue = Queue()
    queue.put(1, epoch=4)
    retries = Retries(cast("QueueReader", queue), Failing(), 5, unreadable)
    assert [aside.seq for aside in await retries.read_all()] == [1]
    queue.put(2, epoch=4)
    queue.put(3, epoch=5)
    tried: list[int] = []

    async def attempt(aside: Aside) -> bool:
        tried.append(aside.seq)
        return True

    await retries.run(attempt, lambda: tried == [1, 3])
    assert (tried, queue.acked) == ([1, 3], [2])


async def test_a_message_that_names_no_table_is_buried_and_leaves_the_queue() -> None:
    queue, buried = Queue(), list[int]()
    queue.messages.append(Message("retry.loader.c", b"x", {}, 7, 0.0, 0))

    async def bury(_stream: str, seq: int, _payload: bytes, _why: str) -> None:
        buried.append(seq)

    retries = Retries(cast("QueueReader", queue), Failing(), 5, bury)
    assert await retries.read_all() == []
    assert (buried, queue.acked) == ([7], [7])
