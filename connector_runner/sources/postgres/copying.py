"""A COPY out of the server: blocks of whole rows, while the server goes on with the next.

The server sends each row as a message of its own
(https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY), and asyncpg gives whole messages on. So a block ends
with a row, though a value may hold line ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from shared.errors import NotConnected

if TYPE_CHECKING:
    import asyncpg

AHEAD = 2
"""Blocks that wait for their reader; then the server waits."""
NO_LIMIT = 365 * 86_400.0


async def copy_out(driver: asyncpg.Connection, query: str, block_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yields the rows of a query as blocks of CSV. A reader that leaves early ends the link.

    Args:
        block_bytes: a block is given on when it is so large.

    Raises:
        NotConnected: the link broke.
        Exception: of the driver.
    """
    blocks: asyncio.Queue[bytes] = asyncio.Queue(AHEAD)
    held: list[bytes] = []
    size = 0

    async def take(data: bytes) -> None:
        nonlocal size
        held.append(data)
        size += len(data)
        if size >= block_bytes:
            block = b"".join(held)
            held.clear()
            size = 0
            await blocks.put(block)

    async def work() -> None:
        await driver.copy_from_query(query, output=take, format="csv", encoding="UTF8", timeout=NO_LIMIT)
        if held:
            await blocks.put(b"".join(held))

    task = asyncio.ensure_future(work())
    try:
        while not task.done() or not blocks.empty():
            getter = asyncio.ensure_future(blocks.get())
            try:
                await asyncio.wait({getter, task}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    yield getter.result()
            finally:
                getter.cancel()
        if task.cancelled():
            raise NotConnected("the link was lost")
        task.result()
    finally:
        if not task.done():
            driver.terminate()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
