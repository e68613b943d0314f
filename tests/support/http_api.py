"""An API that answers as a test says, and a source that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from connector_runner import registry
from connector_runner.contract import Environment, Message, Said, Selected, Source, StreamName
from tests.support.sources.place import Reading, selected

Answer = Callable[[web.Request], Any]
"""Returns a response, or what becomes one as JSON."""


@dataclass
class Api:
    """The running API. `requests`: what it was asked, with method, path and query. `answer` may be changed."""

    answer: Answer
    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    heard: list[Said] = field(default_factory=list)
    source: Source | None = None

    async def open(self, streams: Mapping[str, Any], **options: Any) -> Source:
        """Opens a source that reads the API, in place of the one before."""
        await self.close()
        document = {"type": "http_api", "base_url": self.url, "streams": streams, **options}
        plugin, parsed = registry.parse_options("shop", document)
        self.source = await plugin.open_source("shop", parsed, Environment(self.folder, self.folder, self.heard.append))
        return self.source

    async def close(self) -> None:
        """Closes the source."""
        if self.source is not None:
            await self.source.close()

    async def read(
        self, streams: Mapping[str, Any], states: Mapping[StreamName | None, bytes] | None = None, **options: Any
    ) -> Reading:
        """Opens a source and reads all that its streams give; with an error among the messages where one ends it."""
        source = await self.open(streams, **options)
        chosen: list[Selected] = [selected(each) for each in await source.discover()]
        self.requests.clear()
        found: list[Message] = []
        try:
            async with aclosing(source.read(chosen, states or {})) as messages:
                async for message in messages:
                    found.append(message)  # noqa: PERF401  # those before an error count
        except Exception as error:
            error.reading = Reading(found)  # type: ignore[attr-defined]
            raise
        return Reading(found)

    async def one(
        self, stream: Mapping[str, Any], states: Mapping[StreamName | None, bytes] | None = None, **options: Any
    ) -> Reading:
        """Reads one stream, `s`, at the path `rows`."""
        return await self.read({"s": {"path": "rows", **stream}}, states, **options)

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Answers a request as the test says."""
        self.requests.append(f"{request.method} {request.rel_url}")
        found = self.answer(request)
        if hasattr(found, "__await__"):
            found = await found
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)


@asynccontextmanager
async def api(answer: Answer, folder: Path) -> AsyncIterator[Api]:
    """Serves an API while the context is open."""
    found = Api(answer, folder)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", found.take)
    async with TestServer(application) as server:
        found.url = f"http://127.0.0.1:{server.port}"
        try:
            yield found
        finally:
            await found.close()
