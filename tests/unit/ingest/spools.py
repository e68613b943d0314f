"""A journal under test: records, files made by hand, and a broker that takes records or does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from ingest.journal.records import Record, encode_head, encode_record
from ingest.journal.spool import Spool
from shared.errors import NotConnected, Permanent

MIB = 1024 * 1024


def record(number: int, size: int = 20) -> Record:
    return Record("events.shop.0", f"id-{number}", 1, f"{number}".encode().ljust(size, b"."))


class Sink:
    """Takes records, or fails while `away`."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.away = False
        self.refused: set[str] = set()

    async def publish(self, each: Record) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise NotConnected("away")
        if each.msg_id in self.refused:
            raise Permanent("too large")
        self.taken.append(each)

    def ids(self) -> list[str]:
        return [each.msg_id for each in self.taken]


@contextlib.asynccontextmanager
async def emptying(spool: Spool, sink: Sink) -> AsyncIterator[None]:
    task = asyncio.create_task(spool.empty(sink.publish))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


SALT = b"0123456789abcdef"


def journal(*records: Record) -> bytes:
    data = encode_head(SALT)
    for each in records:
        data += encode_record(each, SALT, len(data))
    return data


async def until_empty(spool: Spool) -> None:
    while spool.backlog:
        await asyncio.sleep(0.005)
