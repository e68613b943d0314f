"""A stand for the script of browsers: an edge, a site of pages on another origin, and one Chromium, shared by the tests of a file."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page

from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.e2e.ingest.edge import Edge, Stored, apply, edge_here
from tests.support.browser import PATIENCE_MILLISECONDS, Pages, chromium, pages
from tests.support.nats import nats_server

SHOP = {"shop": {"keys": [{"id": "web"}], "dedupe_window": "1h"}}


@dataclass
class Stand:
    """Every test has a site and key of its own, so that it sees its own events only."""

    edge: Edge
    site: Pages
    browser: Browser
    project: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def new_site(
        self, options: Mapping[str, Any] | None = None, devices: Mapping[str, Any] | None = None, **connection: Any
    ) -> str:
        """Adds a site with device destinations, each with its connection; returns its key, which is its name too."""
        name = f"s{next(self.numbers)}"
        self.project["sites"][name] = {"keys": [{"id": name}], **(options or {})}
        for device, document in (devices or {}).items():
            self.project["destinations"][f"{name}-{device}"] = document
            self.project["connections"][f"{name}-{device}"] = {
                "site": name,
                "destination": f"{name}-{device}",
                **connection.get(device, {}),
            }
        revision = await apply(self.edge.broker, self.project)
        assert self.edge.context is not None
        while self.edge.context.config.current.revision < revision:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # the edge takes it up
        return name

    def script(self, key: str, **attributes: str) -> str:
        """The element that starts the script."""
        given = "".join(f' data-{name.replace("_", "-")}="{value}"' for name, value in attributes.items())
        return f'<script src="{self.edge.url}/p.js" data-key="{key}"{given}></script>'

    def put(self, path: str, head: str, body: str = "") -> str:
        """Serves a page; returns its address."""
        self.site.pages[path] = f"<!doctype html><title>Shop</title>{head}<body>{body}</body>"
        return self.site.url + path

    async def visitor(self, **options: Any) -> BrowserContext:
        """A visitor of its own, whose pages share storage."""
        context = await self.browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        context.on("weberror", lambda error: self.problems.append(str(error.error)))
        return context

    async def opened(self, url: str, context: BrowserContext | None = None) -> Page:
        """Opens a page."""
        page = await (context or await self.visitor()).new_page()
        await page.goto(url)
        return page

    async def arrived(self, key: str, count: int) -> list[Stored]:
        """Waits until a site has events with so many different ids."""
        async with asyncio.timeout(60):
            while True:
                stored = await self.edge.events(key)
                if len(ids(stored)) >= count:
                    return stored
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def stand(folder: Path) -> AsyncIterator[Stand]:
    """Opens the stand; its pages must have had no errors at the end."""
    project: dict[str, Any] = {"sites": dict(SHOP), "destinations": {}, "connections": {}}
    with nats_server(folder / "nats") as nats:
        async with (
            connect(nats.url, "test", patience_seconds=60) as broker,
            contextlib.AsyncExitStack() as stack,
        ):
            await topology.ensure(broker, topology.TopologySettings())
            edge = await stack.enter_async_context(edge_here(nats, broker, project))
            site = await stack.enter_async_context(pages({}))
            browser = await stack.enter_async_context(chromium())
            yield Stand(edge, site, browser, project)


def ids(stored: list[Stored]) -> Counter[str]:
    """How often each messageId came."""
    return Counter(each.head.message_id for each in stored)


def names(stored: list[Stored]) -> list[str | None]:
    """The names of the events by the order in which they came, each id once."""
    return list({each.head.message_id: each.head.event for each in stored}.values())


def body(stored: Stored) -> dict[str, Any]:
    """The event as the page sent it."""
    found: dict[str, Any] = json.loads(stored.body)
    return found
