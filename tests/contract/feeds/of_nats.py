"""A stream of a JetStream server that is the user's, not ours."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import nats
from nats.js.api import StreamConfig

from tests.contract.feeds.source import Source
from tests.support.nats import NatsServer

USER, PASSWORD = "reader", "secret"
_numbers = itertools.count()


class NatsSource(Source):
    """One stream."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.name = f"orders{next(_numbers)}"

    @property
    def document(self) -> dict[str, Any]:
        return {"type": "nats", "servers": self.server.url, "stream": self.name, "user": USER, "password": PASSWORD}

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """A client of the user's."""
        client = await nats.connect(self.server.url, user=USER, password=PASSWORD)
        try:
            yield client
        finally:
            await client.close()

    async def create(self, **more: Any) -> None:
        """Makes the stream."""
        async with self.client() as client:
            await client.jetstream().add_stream(StreamConfig(name=self.name, subjects=[f"{self.name}.>"], **more))

    async def put(self, values: Sequence[bytes]) -> None:
        async with self.client() as client:
            js = client.jetstream()
            for start in range(0, len(values), 200):
                acks = [await js.publish_async(f"{self.name}.new", each) for each in values[start : start + 200]]
                await asyncio.gather(*acks)

    async def away(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def back(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def spoil(self) -> None:
        async with self.client() as client:
            await client.jetstream().delete_stream(self.name)

    @property
    def wrong_login(self) -> dict[str, Any]:
        return {"password": "wrong"}


@contextlib.contextmanager
def server(folder: Path) -> Iterator[NatsServer]:
    """Runs a server that wants a login."""
    started = NatsServer(folder)
    started.more_config = f"authorization {{ user: {USER}, password: {PASSWORD} }}\n"
    with started:
        yield started


@contextlib.asynccontextmanager
async def open_source(server: NatsServer) -> AsyncIterator[NatsSource]:
    """Makes an empty stream."""
    source = NatsSource(server)
    await source.create()
    yield source
