"""An HTTP API as many services have one: pages by offset, a bearer token, a filter by time, and 429 now and then; run beside the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

TOKEN = "token-of-the-api-0123456789"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = 20


def order(number: int) -> dict[str, Any]:
    """Returns an order; each was changed an hour after the one before."""
    changed = (BEGIN + timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"id": number, "total": number * 1.25, "customer": {"name": f"Kunde №{number}"}, "updated_at": changed}


@dataclass
class PagedApi:
    """The running API. `orders`: what it has. `busy`: how many requests it refuses with 429 before it answers again."""

    url: str = ""
    orders: list[dict[str, Any]] = field(default_factory=lambda: [order(number) for number in range(1, 96)])
    busy: int = 0
    pause: str = "1"
    """What a refusal with 429 asks to wait."""
    refuses: bool = False
    """Whether it knows no token any more."""
    requests: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Answers one request."""
        self.requests.append(str(request.rel_url))
        if self.refuses or request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"error": "unknown token"}, status=401)
        if self.busy:
            self.busy -= 1
            return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": self.pause})
        if request.path == "/empty":
            return web.json_response({"data": []})
        since, offset = request.query.get("since", ""), int(request.query.get("offset", "0"))
        found = [each for each in self.orders if each["updated_at"] >= since]
        page = found[offset : offset + int(request.query.get("limit", PAGE))]
        return web.json_response({"data": page})


@asynccontextmanager
async def paged_api() -> AsyncIterator[PagedApi]:
    """Serves an API while the context is open."""
    api = PagedApi()
    app = web.Application()
    app.router.add_get("/{path}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()


@contextmanager
def paged_api_apart() -> Iterator[PagedApi]:
    """Serves an API on a thread with a loop of its own while the context is open: its tasks are not among those of the test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="paged-api", daemon=True)
    thread.start()
    serving = paged_api()
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def manifest(url: str) -> dict[str, Any]:
    """Returns a low-code manifest that reads the API."""

    def retriever(path: str) -> dict[str, Any]:
        return {
            "type": "SimpleRetriever",
            "requester": {
                "type": "HttpRequester",
                "url_base": url,
                "path": path,
                "http_method": "GET",
                "authenticator": {"type": "BearerAuthenticator", "api_token": "{{ config['token'] }}"},
                "error_handler": {
                    "type": "DefaultErrorHandler",
                    "backoff_strategies": [{"type": "WaitTimeFromHeader", "header": "Retry-After"}],
                },
            },
            "record_selector": {"type": "RecordSelector", "extractor": {"type": "DpathExtractor", "field_path": ["data"]}},
            "paginator": {
                "type": "DefaultPaginator",
                "page_token_option": {"type": "RequestOption", "inject_into": "request_parameter", "field_name": "offset"},
                "pagination_strategy": {"type": "OffsetIncrement", "page_size": PAGE},
            },
        }

    def stream(name: str, **more: Any) -> dict[str, Any]:
        properties = {
            "id": {"type": "integer"},
            "name": {"type": "string"},
            "total": {"type": "number"},
            "customer": {"type": "object"},
            "updated_at": {"type": "string", "format": "date-time"},
        }
        return {
            "type": "DeclarativeStream",
            "name": name,
            "primary_key": ["id"],
            "retriever": retriever(name),
            "schema_loader": {"type": "InlineSchemaLoader", "schema": {"type": "object", "properties": properties}},
            **more,
        }

    cursor = {
        "type": "DatetimeBasedCursor",
        "cursor_field": "updated_at",
        "datetime_format": "%Y-%m-%dT%H:%M:%SZ",
        "start_datetime": {"type": "MinMaxDatetime", "datetime": "2026-01-01T00:00:00Z", "datetime_format": "%Y-%m-%dT%H:%M:%SZ"},
        "start_time_option": {"type": "RequestOption", "inject_into": "request_parameter", "field_name": "since"},
    }  # fmt: skip
    return {
        "version": "7.0.0",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": ["orders"]},
        "streams": [stream("orders", incremental_sync=cursor), stream("empty")],
        "spec": {
            "type": "Spec",
            "connection_specification": {
                "type": "object",
                "required": ["token"],
                "properties": {"token": {"type": "string", "airbyte_secret": True}},
            },
        },
    }
