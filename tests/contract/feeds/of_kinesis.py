"""A stream of moto's server, which speaks Kinesis. It checks no credentials."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.contract.feeds.source import Source
from tests.support.ports import free_port

KEYS = {"access_key_id": "k", "secret_access_key": "s"}
_numbers = itertools.count()


class Moto:
    """A server that can stop, and start again with all that it had."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server: Any = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Takes clients."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Takes none."""
        self._server.stop()

    def client(self) -> Any:
        """Returns Amazon's own client."""
        return boto3.client(
            "kinesis", region_name="eu-central-1", endpoint_url=self.url, aws_access_key_id="k", aws_secret_access_key="s"
        )


class KinesisSource(Source):
    """One stream of two shards."""

    def __init__(self, server: Moto) -> None:
        self.server = server
        self.name = f"orders{next(_numbers)}"

    @property
    def document(self) -> dict[str, Any]:
        return {"type": "kinesis", "stream": self.name, "region": "eu-central-1", "endpoint_url": self.server.url, **KEYS}

    async def put(self, values: Sequence[bytes]) -> None:
        def put() -> None:
            client = self.server.client()
            for start in range(0, len(values), 500):
                some = values[start : start + 500]
                records = [{"Data": value, "PartitionKey": f"k{number % 7}"} for number, value in enumerate(some)]
                client.put_records(StreamName=self.name, Records=records)
            client.close()

        await asyncio.to_thread(put)

    async def ask(self, call: str, **given: Any) -> Any:
        """Calls Kinesis about the stream."""

        def ask() -> Any:
            client = self.server.client()
            try:
                return getattr(client, call)(StreamName=self.name, **given)
            finally:
                client.close()

        return await asyncio.to_thread(ask)

    async def away(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def back(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def spoil(self) -> None:
        await self.ask("delete_stream")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Moto]:  # it keeps all in memory
    """Runs the server."""
    moto = Moto()
    moto.start()
    try:
        yield moto
    finally:
        moto.stop()


@contextlib.asynccontextmanager
async def open_source(server: Moto) -> AsyncIterator[KinesisSource]:
    """Makes an empty stream."""
    source = KinesisSource(server)
    await source.ask("create_stream", ShardCount=2)
    yield source
